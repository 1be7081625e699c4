"""The result of a run, as returned by `distsgd.train` and stored in `result.json`."""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter

from distsgd.rundir.classifier import Classifier
from distsgd.rundir.journal import Reader, Record
from distsgd.rundir.views import as_html, history_frame, in_words
from distsgd.system.files import read_file

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a run ended. Losses and accuracy are None if they were not measured."""

    status: Status
    weights_sha256: str | None
    steps: int
    epochs: float
    train_loss: float | None
    """Mean loss of the last epoch's mini-batches, without L2, each before its update. Up to version 0.1.0: the loss of
    the last mini-batch, with L2."""
    val_loss: float | None
    """Mean loss over the held-out rows, without L2."""
    val_accuracy: float | None
    """Fraction of the held-out rows whose class, or all of whose labels, are predicted."""
    val_label_accuracy: float | None = None
    """Fraction of the labels that are predicted, with model.loss=logistic."""
    val_macro_f1: float | None = None
    """Mean F1 over the held-out rows of the classes, or of the labels with model.loss=logistic."""
    val_roc_auc: float | None = None
    """Area under the ROC curve over the held-out rows: the mean over more than two classes, each against all others, or
    over labels; None where it is not defined, as of a loss without probabilities."""
    val_mse: float | None = None
    """Mean squared error, with model.loss=squared; as the next two a mean over the numbers of a row."""
    val_mae: float | None = None
    """Mean absolute error."""
    val_r2: float | None = None
    """R², 1 − mean squared error / variance; None if one of the numbers is the same in all held-out rows."""
    majority_share: float | None = None
    """Accuracy over the held-out rows of always predicting their most frequent class; None unless the run finished. As
    all figures of held-out rows, it counts each row by its weight in the column `data.weight`."""
    balanced_accuracy: float | None = None
    """Mean recall of the classes."""
    macro_f1: float | None = None
    """Mean F1 of the classes: `val_macro_f1` of a run that finished, beside the other figures of its classes."""
    recall: dict[str, float] | None = None
    """Recall of each class by its name or, if there are more than ten, of the ten of lowest recall, worst first."""
    held_out_classes: int | None = None
    """Number of classes that the held-out rows have."""
    best_epoch: float | None = None
    """The epoch after which the validation loss was lowest; with early stopping, of those up to the weights that are
    kept."""
    best_val_loss: float | None = None
    """The validation loss after that epoch."""
    ended: str | None = None
    """Why a run with early stopping ended, and which weights are kept; None without `train.early_stopping`."""
    wall_s: float
    samples_per_s: float | None
    step_ms_p50: float | None
    step_ms_p95: float | None
    mlflow_run_id: str | None
    numerics: dict[str, str]
    arithmetic: str = "fast"
    """`train.arithmetic` of the run."""
    features: dict[str, Any] = field(default_factory=dict)
    """The columns that are features, `used`, and `left_out`, each of the others with the reason. Empty in the results
    of version 0.1.0 and before."""
    run_dir: Path
    """Absolute, so that the model is still found if the working directory changes."""
    warnings: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """What stands out in the figures: a model that is no better than guessing, overfitting."""

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
            **{key: value for key, value in self._other_scores().items() if value is not None},
            "majority_share": self.majority_share,
            "balanced_accuracy": self.balanced_accuracy,
            "macro_f1": self.macro_f1,
            "recall": self.recall,
            "held_out_classes": self.held_out_classes,
            "best_epoch": self.best_epoch,
            "best_val_loss": self.best_val_loss,
            "ended": self.ended,
            "wall_s": self.wall_s,
            "samples_per_s": self.samples_per_s,
            "step_ms_p50": self.step_ms_p50,
            "step_ms_p95": self.step_ms_p95,
            "mlflow_run_id": self.mlflow_run_id,
            "arithmetic": self.arithmetic,
            "numerics": self.numerics,
            "features": self.features,
            "warnings": self.warnings,
            "remarks": self.remarks,
        }

    def _other_scores(self) -> dict[str, float | None]:
        """Return the scores that only some losses have."""
        return {
            "val/label_accuracy": self.val_label_accuracy,
            "val/macro_f1": self.val_macro_f1,
            "val/roc_auc": self.val_roc_auc,
            "val/mse": self.val_mse,
            "val/mae": self.val_mae,
            "val/r2": self.val_r2,
        }

    @classmethod
    def read(cls, run_dir: Path) -> Result | None:
        """Return what `result.json` in `run_dir` holds, or None if there is none or it cannot be read."""
        try:
            content = json.loads(read_file(run_dir / "result.json"))
            found = {key.replace("/", "_"): value for key, value in content.items()}
            result = TypeAdapter(cls).validate_json(json.dumps(found | {"run_dir": ""}), strict=True)
        except (OSError, ValueError, AttributeError, RecursionError):  # a ValidationError is a ValueError
            return None
        return dataclasses.replace(result, run_dir=run_dir.absolute())

    @functools.cached_property
    def model(self) -> Classifier:
        """The trained classifier, read from the run directory."""
        return Classifier.load(self.run_dir / "model.npz")

    @property
    def records(self) -> list[Record]:
        """The journal: a dict for each logged step; RunDirectoryError if it cannot be read."""
        return Reader(self.run_dir / "metrics.jsonl").new()

    @property
    def history(self) -> pandas.DataFrame:
        """The journal as a frame with the columns `step`, `epoch`, `train/loss`, `val/loss`, `val/accuracy`, ...

        A row for each logged step; NaN where nothing was measured. RunDirectoryError if the journal cannot be read.
        """
        return history_frame(self.records)

    def plot(self) -> Figure:
        """Return the learning curve as a figure of matplotlib, which notebooks display."""
        from distsgd.rundir.figure import learning_curve

        return learning_curve(self.records)

    def __repr__(self) -> str:
        return in_words(self.status, self.to_json(), str(self.run_dir))

    def _repr_html_(self) -> str:
        return as_html(self.status, self.to_json(), str(self.run_dir))
