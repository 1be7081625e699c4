"""scikit-learn's MLPClassifier, with BLAS threads on all cores."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier

from benchmarks.peers.common import L2, LR, StepClock, Task, main, summary

FEWEST_EPOCHS = 3
"""The first epoch is warm-up; the median is over the others, however long they take."""


class EpochClock(io.TextIOBase):
    """Replaces standard output: the line that a verbose fit prints after each epoch is the only way to time it."""

    def __init__(self, task: Task) -> None:
        self._clock, self._steps = StepClock(task), task.shape.rows // task.shape.batch
        self.durations: list[float] = []

    def write(self, text: str) -> int:
        """Record the end of an epoch; stop the fit with KeyboardInterrupt, as a user would, when the time is over."""
        if text.startswith("Iteration"):
            more = self._clock.step(self._steps)
            self.durations = self._clock.durations
            if not more and len(self.durations) >= FEWEST_EPOCHS - 1:
                raise KeyboardInterrupt
        return len(text)


def measure(task: Task) -> dict[str, Any]:
    """Return the summary of the mean steps of the epochs."""
    X, y = task.load()
    if X.dtype != np.float32:  # it cannot convert in the mini-batch
        X = X.astype(np.float32) / np.float32(255)
    model = MLPClassifier(
        hidden_layer_sizes=(task.shape.hidden,),
        solver="sgd",
        momentum=0.0,
        nesterovs_momentum=False,
        learning_rate_init=LR,
        alpha=2 * L2 * task.shape.batch,  # scikit-learn divides the penalty by the mini-batch size
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
