"""scikit-learn's MLPClassifier, whose products run on all cores."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier

from benchmarks.peers.common import L2, LR, StepClock, Task, main, summary

FEWEST_EPOCHS = 3
"""The first is warm-up; of the others the median is taken, however long they are."""


class EpochClock(io.TextIOBase):
    """Stands in for standard output: a verbose fit prints a line at the end of every epoch, the only sign it gives."""

    def __init__(self, task: Task) -> None:
        self._clock, self._steps = StepClock(task), task.shape.rows // task.shape.batch
        self.durations: list[float] = []

    def write(self, text: str) -> int:
        """Note the end of an epoch; end the fit when its time is up, as a user does it, by an interruption."""
        if text.startswith("Iteration"):
            more = self._clock.step(self._steps)
            self.durations = self._clock.durations
            if not more and len(self.durations) >= FEWEST_EPOCHS - 1:
                raise KeyboardInterrupt
        return len(text)


def measure(task: Task) -> dict[str, Any]:
    """Return the summary of the epochs' mean steps."""
    X, y = task.load()
    if X.dtype != np.float32:  # it cannot convert in the batch
        X = X.astype(np.float32) / np.float32(255)
    model = MLPClassifier(
        hidden_layer_sizes=(task.shape.hidden,),
        solver="sgd",
        momentum=0.0,
        nesterovs_momentum=False,
        learning_rate_init=LR,
        alpha=2 * L2 * task.shape.batch,  # it divides the penalty by the mini-batch's size
        batch_size=task.shape.batch,
        max_iter=1_000_000,
        n_iter_no_change=1_000_000,
        shuffle=True,
        random_state=0,
        verbose=True,
    )
    epochs = EpochClock(task)
    with contextlib.redirect_stdout(epochs), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Training interrupted by user")
        model.fit(X, y)
    return summary(epochs.durations)


if __name__ == "__main__":
    main(measure)
