"""Corrupted run directories: files of an interrupted or finished run are damaged or replaced, then `--resume`."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from runs import timeless

import distsgd
from distsgd.rundir.classifier import weights_sha256
from hostile import odd
from hostile.generator import Generator, small_run
from hostile.sandbox import Ending, Problem, Sandbox, remove

FILES = (
    "config.json",
    "metrics.jsonl",
    "proof.jsonl",
    "result.json",
    "tracking.json",
    "mlflow.json",
    "model.npz",
    "checkpoints",
    "newest.json",
    "newest.npz",
    "older.json",
    "older.npz",
    ".lock",
)
"""Files of a run directory; the two newest checkpoints whatever their steps are."""

REPLACED = (
    "gone",
    "folder",
    "full folder",
    "fifo",
    "dangling link",
    "link to itself",
    "link to the rows",
    "link to a copy",
    "no permissions",
    "read only",
    "/dev/null",
    "/dev/full",
)

STAGES = ("finished", "unwritten", "interrupted", "interrupted early", "never checkpointed")

EPOCHS = 5


@dataclass(frozen=True)
class Blow:
    """What happens to one file: damages to its bytes, or something else in its place."""

    file: str
    damage: odd.Damage | None
    replaced: str | None


@dataclass(frozen=True)
class Case:
    """Where the run was when its driver was killed, and what has happened to its files since."""

    stage: str
    blows: tuple[Blow, ...]


def cases() -> SearchStrategy[Case]:
    """Corrupted run directories."""
    file = st.sampled_from(FILES)
    damaged = st.builds(Blow, file, odd.damages(), st.none())
    replaced = st.builds(Blow, file, st.none(), st.sampled_from(REPLACED))
    return st.builds(
        Case,
        st.sampled_from(STAGES),
        st.lists(st.one_of(damaged, damaged, replaced), min_size=1, max_size=3).map(tuple),
    )


def template(sandbox: Sandbox) -> Path:
    """Return the folder of an undisturbed run with a checkpoint after each of its epochs, made once for a sandbox."""
    folder = sandbox.root / "undisturbed"
    while not folder.exists():  # a checkpoint that is not written before the next one was skipped: then once more
        sandbox.clean()
        run = small_run(train__epochs=EPOCHS, train__batch_size=2, checkpoint__keep=EPOCHS)
        run = [argument for argument in run if "max_steps" not in argument]
        ending = sandbox.invoke(*run)
        assert ending.code == 0, ending.streams
        if len(list((sandbox.work / "run" / "checkpoints").glob("*.json"))) == EPOCHS:
            identifiers = {"run_id": "0" * 32, "experiment_id": "1", "uri": "http://127.0.0.1:9"}
            (sandbox.work / "run" / "mlflow.json").write_text(json.dumps(identifiers))
            shutil.copytree(sandbox.work / "run", folder)
        sandbox.clean()
    return folder


def put(stage: str, undisturbed: Path, run: Path) -> None:
    """Make the run directory as it was when the driver was killed."""
    shutil.copytree(undisturbed, run)
    if stage == "finished":
        return
    (run / "result.json").unlink()
    (run / "model.npz").unlink()
    lost = {"unwritten": 0, "interrupted": 1, "interrupted early": EPOCHS - 1, "never checkpointed": EPOCHS}[stage]
    for name in ("*.json", "*.npz"):
        for path in sorted((run / "checkpoints").glob(name))[EPOCHS - lost :]:
            path.unlink()
    if stage == "interrupted":
        lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        (run / "metrics.jsonl").write_bytes(b"".join(lines[:-3]))


def strike(blow: Blow, run: Path) -> None:
    """Do to a file what is to happen to it; one that is not there stays away."""
    path = path_of(blow.file, run)
    if path is None or not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        return
    if blow.damage is not None:
        if path.is_file() and os.access(path, os.R_OK | os.W_OK) and not path.is_symlink():
            path.write_bytes(blow.damage.done_to(path.read_bytes()))
        return
    if blow.replaced in ("no permissions", "read only"):
        if path.exists() and not path.is_symlink():
            path.chmod(0 if blow.replaced == "no permissions" else 0o555 if path.is_dir() else 0o444)
        return
    copy = run.parent / f"copy-of-{path.name}"
    if blow.replaced == "link to a copy":
        if not path.is_file() or path.is_symlink() or not os.access(path, os.R_OK):  # as another blow may leave it
            return
        shutil.copy(path, copy)
    if path.is_dir() and not path.is_symlink():
        remove(path)
    else:
        path.unlink(missing_ok=True)
    _replace(path, str(blow.replaced), copy)


def _replace(path: Path, how: str, copy: Path) -> None:
    targets = {
        "dangling link": "nowhere",
        "link to itself": path.name,
        "link to the rows": str(copy.parent / "rows.npz"),
        "link to a copy": str(copy),
        "/dev/null": "/dev/null",
        "/dev/full": "/dev/full",
    }
    if how in targets:
        path.symlink_to(targets[how])
    elif how == "fifo":
        os.mkfifo(path)
    elif how != "gone":
        path.mkdir()
        if how == "full folder":
            (path / "x").write_text("mine")


def path_of(file: str, run: Path) -> Path | None:
    name, _, suffix = file.partition(".")
    if name not in ("newest", "older"):
        return run / file
    if not (run / "checkpoints").is_dir():
        return None
    found = sorted((run / "checkpoints").glob("*.json"))
    number = -1 if name == "newest" else -2
    return found[number].with_suffix(f".{suffix}") if len(found) >= -number else None


def check(case: Case, sandbox: Sandbox) -> list[Problem]:
    """Resume: it comes to the undisturbed run's bits, or one sentence says why not; then tell MLflow, which is away."""
    undisturbed, run = template(sandbox), sandbox.work / "run"
    sandbox.clean()
    put(case.stage, undisturbed, run)
    for blow in case.blows:
        strike(blow, run)
    return judge_resumption(sandbox, undisturbed)


def judge_resumption(sandbox: Sandbox, undisturbed: Path) -> list[Problem]:
    """Resume the run directory `run` and return what is wrong with what came of it."""
    run, before = sandbox.work / "run", sandbox.files()
    rows = (sandbox.work / "rows.npz").read_bytes()
    ending = sandbox.invoke("train", "--resume", "--run-dir=run")
    problems = [*ending.problems]
    if ending.code == 0:
        problems += _differences(ending, undisturbed, run)
    problems += sandbox.invoke("sync", "run", "--uri=http://127.0.0.1:9").problems
    problems += sandbox.left_behind(before, "run")
    if (sandbox.work / "rows.npz").read_bytes() != rows:
        problems.append(Problem("wrong", "the file behind a link has changed"))
    return problems


def _differences(ending: Ending, undisturbed: Path, run: Path) -> list[Problem]:
    """Return in what a resumed run is not the undisturbed one, unless a warning says so."""
    told = "warning: " in ending.err
    try:
        found = weights_sha256(distsgd.Classifier.load(run / "model.npz").flat)
    except distsgd.DistsgdError as error:
        return [] if told else [Problem("wrong", f"exit code 0, no warning, and no model: {error}")]
    expected = json.loads((undisturbed / "result.json").read_bytes())["weights_sha256"]
    problems = []
    if found != expected and not told:
        problems.append(Problem("wrong", f"exit code 0, no warning, and the weights are {found}, not {expected}"))
    if found != expected and told and "config" not in ending.err and "model" not in ending.err:
        problems.append(Problem("wrong", f"other weights, and a warning that does not say so: {ending.err[-500:]}"))
    if ending.err.startswith("the run in "):  # it had finished: nothing was computed, and nothing read but the result
        return problems
    hole = {line["step"] for line in timeless(undisturbed)} - _steps(run)
    if hole and not told:
        problems.append(Problem("wrong", f"exit code 0, no warning, and the journal has no line for {sorted(hole)}"))
    return problems


def _steps(run: Path) -> set[object]:
    """Return the steps of the journal's lines; none if it cannot be read."""
    try:
        return {line["step"] for line in timeless(run)}
    except (ValueError, OSError, AttributeError, KeyError, TypeError):
        return set()


GENERATOR = Generator(cases, check, share=2)
