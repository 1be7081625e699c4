"""What a run directory has recorded, and whether its files are as they were written. Nothing is trained here."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distsgd.config import Config
from distsgd.core.numerics import differing_numerics
from distsgd.engine.snapshot import Snapshot
from distsgd.errors import RunDirectoryError, counted
from distsgd.rundir import checkpoint, lock, proof
from distsgd.rundir import directory as rundir
from distsgd.rundir.config_seal import config_change
from distsgd.rundir.directory import RunDirectory
from distsgd.rundir.folders import no_run
from distsgd.rundir.proof import Proof
from distsgd.rundir.result import Result
from distsgd.system.files import read_file
from distsgd.verify.report import Report

MAX_JOURNAL = 2**34
"""Bytes of the largest journal that is read."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What is recorded of a run, as far as it could be read."""

    directory: RunDirectory
    config: Config
    """As it was asked for."""
    data_digest: str
    result: Result | None
    proof: Proof
    """Without a line if the run has none."""
    records: dict[int, dict[str, Any]]
    """The journal's lines, by step."""
    checkpoints: dict[int, Snapshot]
    best: dict[int, Snapshot]
    """The checkpoint of the best weights, with early stopping."""

    @property
    def states(self) -> dict[int, dict[str, Any]]:
        """The proof's lines, by step."""
        return self.proof.states

    @property
    def is_finished(self) -> bool:
        """Whether the run was trained to its end."""
        return self.result is not None and self.result.status == "FINISHED"

    @property
    def end(self) -> int:
        """The last step of which anything is recorded."""
        finished = [self.result.steps] if self.result is not None and self.is_finished else []
        return max(0, *self.states, *self.checkpoints, *self.records, *finished)

    @property
    def numerics(self) -> list[dict[str, str]]:
        """The fingerprints of the arithmetic that the run was computed with, in order; none if it is not recorded.

        Those of the proof, since nothing shows a change of that in the result.
        """
        if self.proof.lines or self.result is None or not self.result.numerics:
            return self.proof.numerics
        return [self.result.numerics]


def read(path: Path, report: Report) -> Recorded | None:
    """Return what is recorded, and report what is not as it was written; None if the configuration is not.

    RunDirectoryError if there is no run, or a driver is using its directory.
    """
    if not (path / rundir.CONFIG).is_file():
        raise no_run(path)
    if lock.in_use(path):
        raise RunDirectoryError(f"a driver is using the run directory {str(path)!r}; wait for it to finish, or stop it")
    try:
        change = config_change(path, may_lack_seal=not os.path.lexists(path / proof.FILE))
        if change is not None:
            report.differs("configuration", f"config.json is not as it was written: {change}")
            return None
        directory, config, data_digest = rundir.read(path)
        result = Result.read(path)
        if result is None and os.path.lexists(directory.result):
            report.differs("result", "result.json cannot be read as the result of a run")
        found = _proof(path, report)
        _check_beginning(found, config, data_digest, report)
        finished = result is not None and result.status == "FINISHED"
        if result is not None and finished:
            _check_end(found, result, report)
        if result is not None and found.lines and found.problem is None and result.numerics != found.numerics[-1]:
            report.notes.append(
                f"result.json names other arithmetic than {proof.FILE}, which counts: "
                f"{differing_numerics(found.numerics[-1], result.numerics)}"
            )
        records = _journal(directory, found, report, finished=finished)
        checkpoints, best = (
            _checkpoints(folder, rundir.identity(directory, data_digest), found, report)
            for folder in (directory.checkpoints, path / rundir.BEST)
        )
    except OSError as error:
        raise RunDirectoryError(f"the run directory {str(path)!r} cannot be read: {error}") from None
    return Recorded(
        directory=directory,
        config=config,
        data_digest=data_digest,
        result=result,
        proof=found,
        records=records,
        checkpoints=checkpoints,
        best=best,
    )


def _proof(path: Path, report: Report) -> Proof:
    found = proof.read(path / proof.FILE)
    if found is None:
        report.notes.append(
            f"the run has no {proof.FILE}: it began with a version of distsgd that wrote none, or it was removed; "
            "changes of the journal's timestamps, and of single rows, cannot be named"
        )
        return Proof([])
    if found.problem is not None:
        report.differs("proof", found.problem)
    return found


def _check_beginning(found: Proof, config: Config, data_digest: str, report: Report) -> None:
    """Compare the first line of the proof with the configuration."""
    if not found.lines:
        return
    begun = found.lines[0]
    if begun["config"] != proof.config_digest(config):
        report.differs("configuration", f"that of config.json is not the one that {proof.FILE} begins with")
    if begun["data"] != data_digest:
        report.differs("rows", f"the digest of the rows in config.json is not the one that {proof.FILE} begins with")


def _check_end(found: Proof, result: Result, report: Report) -> None:
    """Report a proof from which whole lines were taken away at its end: what is left of it is without fault."""
    if found.lines and found.problem is None and found.lines[-1]["step"] != result.steps:
        report.differs(
            "proof", f"it ends with step {found.lines[-1]['step']}, and the run has {counted(result.steps, 'step')}"
        )


def _journal(directory: RunDirectory, found: Proof, report: Report, *, finished: bool) -> dict[int, dict[str, Any]]:
    """Return the lines that can be read, by step; report those that are not as they were written."""
    try:
        lines = read_file(directory.journal, max_bytes=MAX_JOURNAL).splitlines(keepends=True)
    except FileNotFoundError:
        report.differs("journal", "metrics.jsonl is missing")
        return {}
    _compare_lines(lines, found, report)
    records = dict[int, dict[str, Any]]()
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            step = record["step"]
            if type(step) is not int or step <= max(records, default=-1) or not line.endswith(b"\n"):
                raise ValueError
            records[step] = record
        except (ValueError, KeyError, TypeError, RecursionError):
            # Else it was being written when the process was killed.
            if finished or number < len(lines) or line.endswith(b"\n"):
                report.differs("journal", f"line {number} of metrics.jsonl is damaged: {line[:80]!r}")
    return records


def _compare_lines(lines: list[bytes], found: Proof, report: Report) -> None:
    """Compare the journal's lines with their checksums in the proof."""
    texts = [line["lines"] for line in found.lines[1:]]
    recorded = [text[start : start + 8] for text in texts for start in range(0, len(text), 8)]
    there = [f"{zlib.crc32(line):08x}" for line in lines]
    same = 0
    while same < len(recorded) and same < len(there) and recorded[same] == there[same]:
        same += 1
    if same < len(recorded):
        same_after = 0
        while (
            same_after < min(len(recorded), len(there)) - same and recorded[-1 - same_after] == there[-1 - same_after]
        ):
            same_after += 1
        first, last = same + 1, max(same + 1, len(recorded) - same_after)
        which = f"line {first}" if first == last else f"lines {first} to {last}"
        report.differs("journal", f"{which} of metrics.jsonl {'is' if first == last else 'are'} not as written")
    elif recorded and hashlib.sha256(b"".join(lines[: len(recorded)])).hexdigest() != found.lines[-1]["journal"]:
        report.differs("journal", "the lines of metrics.jsonl have other contents of the same checksums")


def _checkpoints(folder: Path, identity: dict[str, str], found: Proof, report: Report) -> dict[int, Snapshot]:
    """Return the valid checkpoints of a folder, by step; report the others, and those of another state than proven."""
    snapshots, problems = checkpoint.load_all(folder, identity)
    for name, problem in problems.items():
        report.differs("checkpoint", f"{folder.name}/{name}: {problem}")
    states = found.states
    for step, snapshot in snapshots.items():
        if step in states and proof.state_digest(snapshot) != states[step]["state"]:
            report.differs("checkpoint", f"{folder.name}/{step:08d} is whole, but not the state in {proof.FILE}")
    return snapshots
