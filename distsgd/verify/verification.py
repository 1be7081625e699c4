"""`distsgd verify`: files first, then the rows, then training again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distsgd.config import Config
from distsgd.core.backend import cuda_problem
from distsgd.errors import ResourceError, TrainingError, counted
from distsgd.run.observer import Observer
from distsgd.verify.outcome import check_as_written, check_model, compare_outcome, compare_with_checkpoint
from distsgd.verify.recorded import Recorded, read
from distsgd.verify.replay import replay
from distsgd.verify.report import Report
from distsgd.verify.rows import read_rows
from distsgd.verify.tolerance import STATED


def verify(
    path: Path,
    *,
    segments: int | None = None,
    overrides: dict[str, Any] | None = None,
    observer: Observer | None = None,
) -> Report:
    """Return whether the bits of the run in `path` are those that were recorded, and what is not.

    All of the run is trained again, or with `segments` so many parts of it, from a checkpoint that is there to the next
    recorded state; with 0, only files and rows are checked. `overrides` are keys that may differ from the run's:
    `run.workers`, `run.address`, `data.train`, `data.val`. Raises RefusedError if the run cannot be verified.
    """
    observer = observer or Observer()
    report = Report(str(path))
    observer.stage("checking the files of the run")
    recorded = read(path, report)
    if recorded is None:
        return report
    _compare(recorded, segments, overrides or {}, report, observer)
    check_as_written(recorded, report)
    return report


def _compare(
    recorded: Recorded, segments: int | None, overrides: dict[str, Any], report: Report, observer: Observer
) -> None:
    """Compare what is recorded with the rows, and with what training again comes to."""
    model = check_model(recorded, report)
    config = _here(recorded, overrides)
    data = read_rows(config, recorded, report, observer)
    if data is None:
        return
    report.compared.append(
        f"{len(data.train):,} training and {0 if data.val is None else len(data.val):,} held-out rows"
    )
    if segments is not None and model is not None:
        compare_with_checkpoint(recorded, model, report)
    if segments == 0:
        report.compared.append("files and rows only; nothing was trained again")
        return
    try:
        trained, comparison = replay(recorded, config, data, report, observer, segments)
    except TrainingError as error:  # such as workers that were lost: that says nothing about the run
        raise ResourceError(f"the run could not be trained again here: {error}") from error
    if segments is None:
        compare_outcome(recorded, model, trained, comparison, report)
        report.compared.append(f"all {trained.last.step:,} steps from the start, trained again")
    report.compared.append(
        f"{counted(comparison.states, 'recorded state')}, {counted(comparison.checkpoints, 'checkpoint')}, "
        f"{counted(comparison.lines, 'line')} of the journal with training"
    )
    if report.tolerated is not None:
        report.notes.append(f"the bits differ, as those of other arithmetic may; they were compared {STATED}")
    if segments is None and recorded.proof.lines and report.is_verified and report.tolerated is None:
        report.notes.append(f"digest of the whole proof: {recorded.proof.lines[-1]['chain']}")
    if not recorded.is_finished:
        report.notes.append(f"the run has not finished; it was verified up to step {recorded.end}")


def _here(recorded: Recorded, overrides: dict[str, Any]) -> Config:
    """Return the run's configuration for training again on this machine, without files and MLflow."""
    on_gpu = any(known.get("device") == "cuda" for known in recorded.numerics) and cuda_problem() is None
    values: dict[str, Any] = {
        "run.workers": 1 if on_gpu else 0,
        "run.min_workers": 1,
        "run.address": None,
        "run.dir": None,
        "run.device": "cuda" if on_gpu else "cpu",
        "tracking.enabled": False,
        "tracking.uri": None,
    }
    return recorded.config.with_values(values | overrides)
