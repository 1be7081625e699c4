"""The proof of a run, `proof.jsonl`: what a run has to come to if it is trained again.

The first line has the digests of the configuration, of the rows and of the initial state, and checksums by which
changed rows are named. A line follows for each validated step, the ends of epochs and the end of the run, with the
digests of the state and of the journal's records since the line before. `chain` is the digest of these and of the
chain so far, so the last one stands for all of the training. None of that depends on workers, machines of equal
arithmetic, or interruptions: checkpoints that are written by the clock or at a stop have no line, but lie between two.

Beside them, each line has what shows a change of the journal's file, timestamps included, and a seal of its own. The
first line has the fingerprint of the arithmetic, and so has each from which on it is another one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distsgd.config import Config
from distsgd.config.config import RESULT_SECTIONS
from distsgd.engine.snapshot import Snapshot
from distsgd.rundir import seal
from distsgd.rundir.directory import LENGTH_KEYS
from distsgd.system.files import read_file

FILE = "proof.jsonl"

MAX_BYTES = 2**32
"""The largest proof that is read."""

TEXTS = {"state": str, "chain": str}
NEEDED: dict[str, dict[str, type]] = {
    "beginning": {**TEXTS, "config": str, "data": str, "numerics": dict, "rows": dict},
    "state": {**TEXTS, "records": str, "journal": str, "lines": str},
}
"""The keys of the first line and of the others, beside `step` and the seal, and the types of their values."""


@dataclass(frozen=True)
class Proof:
    """The lines of a proof, as far as they can be read."""

    lines: list[dict[str, Any]]
    """Whole lines that each follow from the one before, the first of which is the beginning."""
    sizes: list[int] = field(default_factory=list)
    """Bytes of the file up to the end of each line."""
    problem: str | None = None
    """What is wrong with the line after those; None if there is none."""
    is_cut: bool = False
    """Whether that is the last line, and was being written when the process was killed, as it seems."""

    @property
    def states(self) -> dict[int, dict[str, Any]]:
        """The lines with states, by step; that of the beginning is one."""
        return {line["step"]: line for line in self.lines}

    @property
    def numerics(self) -> list[dict[str, str]]:
        """The fingerprints of the arithmetic, in order: more than one if the run was resumed where it is another."""
        return [line["numerics"] for line in self.lines if "numerics" in line]


def state_digest(snapshot: Snapshot) -> str:
    """Return the SHA-256 of a state: parameters, state vectors, skipped steps, and the losses of its epoch."""
    head = [
        snapshot.step,
        snapshot.skipped,
        [float(value).hex() for value in snapshot.epoch_loss],
        sorted(snapshot.slots),
    ]
    sha = hashlib.sha256(json.dumps(head).encode())
    for array in (snapshot.parameters, *(snapshot.slots[name] for name in sorted(snapshot.slots))):
        sha.update(np.ascontiguousarray(array, "<f4").data.cast("B"))
    return sha.hexdigest()


def config_digest(config: Config) -> str:
    """Return the digest of what the steps of a run depend on and is not a default, but for its length, which may grow.

    The rows have a digest of their own, wherever they are.
    """
    values, defaults = config.flat(), Config().flat()
    left_out = {*LENGTH_KEYS, *config.irrelevant}
    return seal.digest(
        {
            key: value
            for key, value in values.items()
            if key.split(".")[0] in RESULT_SECTIONS and key not in left_out and value != defaults[key]
        }
    )


def untimed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a journal record without what depends on the clock."""
    return {key: value for key, value in record.items() if key != "timestamp_ms" and not key.startswith("time/")}


def beginning(
    start: Snapshot, *, config: Config, data_digest: str, rows: Mapping[str, Any], numerics: Mapping[str, str]
) -> dict[str, Any]:
    """Return the first line, sealed: that of a run which begins at the state `start`."""
    chained = {
        "step": start.step,
        "config": config_digest(config),
        "data": data_digest,
        "state": state_digest(start),
    }
    return seal.sealed({**chained, "chain": seal.digest(chained), "numerics": dict(numerics), "rows": dict(rows)})


def following(
    before: Mapping[str, Any],
    snapshot: Snapshot,
    records: Sequence[Mapping[str, Any]],
    *,
    journal: str,
    lines: str,
    numerics: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the line of a state, sealed.

    `records` are those since the line `before`; `journal` is the SHA-256 of the journal's file up to the last of them,
    and `lines` the CRC-32 of each of their lines, in hexadecimal. `numerics` is the fingerprint of the arithmetic if it
    is another one than before.
    """
    chained = {
        "step": snapshot.step,
        "state": state_digest(snapshot),
        "records": seal.digest([untimed(record) for record in records]),
    }
    chain = seal.digest([before["chain"], chained])
    other = {} if numerics is None else {"numerics": dict(numerics)}
    return seal.sealed({**chained, "chain": chain, "journal": journal, "lines": lines, **other})


def encoded(line: Mapping[str, Any]) -> bytes:
    """Return a line of the file."""
    return json.dumps(line, allow_nan=False).encode() + b"\n"


def read(path: Path) -> Proof | None:
    """Return the proof in a file, up to its first line that is not as it was written; None if there is no file.

    OSError if it cannot be read.
    """
    try:
        content = read_file(path, max_bytes=MAX_BYTES)
    except FileNotFoundError:
        return None
    lines, sizes, size = list[dict[str, Any]](), list[int](), 0
    for number, text in enumerate(content.splitlines(keepends=True), start=1):
        problem = _problem(text, lines[-1] if lines else None)
        if problem is not None:
            return Proof(lines, sizes, f"line {number} of {FILE} {problem}", is_cut=_is_cut(text))
        size += len(text)
        lines.append(json.loads(text))
        sizes.append(size)
    return Proof(lines, sizes, None if lines else f"{FILE} is empty", is_cut=not lines)


def _is_cut(text: bytes) -> bool:
    """Return whether a text is the beginning of a line, and not what somebody has put into the place of the file."""
    begun = b'{"step": '
    return not text.endswith(b"\n") and (text.startswith(begun) or begun.startswith(text))


def _problem(text: bytes, before: Mapping[str, Any] | None) -> str | None:
    """Return what is wrong with a line that follows the line `before`; None if nothing is."""
    try:
        line = json.loads(text)
        whole = isinstance(line, dict) and seal.is_whole(line) and encoded(line) == text
    except (ValueError, RecursionError):
        whole = False
    if not whole:
        return "is not as it was written"
    needed = NEEDED["beginning" if before is None else "state"]
    known = all(type(line.get(key)) is kind for key, kind in needed.items()) and type(line.get("numerics", {})) is dict
    if type(line.get("step")) is not int or not known:
        return "is sealed, and not one that distsgd writes"
    names = ("step", "config", "data", "state") if before is None else ("step", "state", "records")
    chained = {name: line[name] for name in names}
    if line["chain"] != seal.digest(chained if before is None else [before["chain"], chained]):
        return "does not follow from the line before"
    if before is not None and line["step"] <= before["step"]:
        return "has a step that does not follow on the one before"
    return None
