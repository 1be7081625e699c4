"""The result of a run, as returned by `distsgd.train` and stored in `result.json`."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from distsgd.rundir.classifier import Classifier
from distsgd.system.files import read_file

Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a run ended. Losses and accuracy are None if they were not measured."""

    status: Status
    weights_sha256: str | None
    steps: int
    epochs: float
    train_loss: float | None
    """Loss of the last mini-batch, including the L2 term."""
    val_loss: float | None
    """Mean loss over the held-out rows, without L2."""
    val_accuracy: float | None
    wall_s: float
    samples_per_s: float | None
    step_ms_p50: float | None
    step_ms_p95: float | None
    mlflow_run_id: str | None
    numerics: dict[str, str]
    run_dir: Path
    """Absolute, so that the model is still found if the working directory changes."""
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the content of `result.json`."""
        return {
            "status": self.status,
            "weights_sha256": self.weights_sha256,
            "steps": self.steps,
            "epochs": self.epochs,
            "train/loss": self.train_loss,
            "val/loss": self.val_loss,
            "val/accuracy": self.val_accuracy,
            "wall_s": self.wall_s,
            "samples_per_s": self.samples_per_s,
            "step_ms_p50": self.step_ms_p50,
            "step_ms_p95": self.step_ms_p95,
            "mlflow_run_id": self.mlflow_run_id,
            "numerics": self.numerics,
            "warnings": self.warnings,
        }

    @classmethod
    def read(cls, run_dir: Path) -> Result | None:
        """Return what `result.json` in `run_dir` holds, or None if there is none or it cannot be read."""
        try:
            content = json.loads(read_file(run_dir / "result.json"))
            return cls(run_dir=run_dir.absolute(), **{key.replace("/", "_"): value for key, value in content.items()})
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return None

    @functools.cached_property
    def model(self) -> Classifier:
        """The trained classifier, read from the run directory."""
        return Classifier.load(self.run_dir / "model.npz")
