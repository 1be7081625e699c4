"""A run's trained model with what it was trained on, for the commands that use it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distsgd.config import Config
from distsgd.core.inputs import Inputs
from distsgd.core.predictor import Predictor
from distsgd.errors import DataError
from distsgd.rundir import directory as rundir
from distsgd.rundir.classifier import Classifier
from distsgd.rundir.folders import no_run


@dataclass(frozen=True)
class TrainedRun:
    """A run directory with its configuration and its model."""

    path: Path
    config: Config
    predictor: Predictor
    model_file: Path

    @property
    def inputs(self) -> Inputs:
        """The columns that the model was trained on; DataError for a model of distsgd 0.1.0, which has no names."""
        if self.predictor.inputs is None:
            raise DataError(
                f"the model in {str(self.path)!r} is of a version of distsgd that did not store the names of columns; "
                "train it again, or use distsgd.Classifier.load in Python, which takes arrays"
            )
        return self.predictor.inputs

    @classmethod
    def open(cls, path: Path) -> TrainedRun:
        """Read the run in `path`; RunDirectoryError if there is none, DataError if it has no valid model."""
        if not (path / rundir.CONFIG).is_file():
            raise no_run(path)
        directory, config, _ = rundir.read(path)
        return cls(path, config, Classifier.load(path).predictor, directory.model)
