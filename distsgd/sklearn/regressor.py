"""`DistSGDRegressor`: squared error for one or several numbers as an estimator of scikit-learn."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils.validation import validate_data

from distsgd.core.predictor import BLOCK
from distsgd.sklearn.base import FEATURE_TYPES, Estimator
from distsgd.sklearn.restoring import restoring
from distsgd.sklearn.tables import check_unmasked, is_table

TILE = 16
"""Rows that BLAS multiplies together: in whole tiles, the numbers of a row depend less on how many rows there are."""


class DistSGDRegressor(RegressorMixin, Estimator):  # type: ignore[misc]
    """A regressor of two layers, or of one, trained by mini-batch SGD with the same bits for any number of workers.

    Parameters and attributes are those of `DistSGDClassifier`, without classes, with `out_activation_` `identity`. The
    loss is half the squared error, as that of `MLPRegressor`.
    """

    _score_name = "val/r2"
    _parameter_constraints: ClassVar[dict[str, Any]] = dict(Estimator._parameter_constraints)

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        num_shards: Any = "auto",
        arithmetic: str = "fast",
        workers: Any = 0,
        threads: Any = "auto",
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.num_shards = num_shards
        self.arithmetic = arithmetic
        self.workers = workers
        self.threads = threads

    @restoring
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Train on features X (N, D) and numbers y (N,) or (N, C), with a weight for each row if given.

        X may also be a frame with text or categories, or a path of files; then y is the name of the column of numbers,
        `label` if it is None, a list of names for several in the files of a path, or the numbers of a frame. ValueError
        for what cannot be trained on.
        """
        self._validate_params()
        if is_table(X):
            self._learn_table(X, y, "squared", sample_weight)
            self.out_activation_ = "identity"
            return self
        goes_on = self.warm_start and "n_iter_" in vars(self)
        return self._learn_numbers(X, y, sample_weight, epochs=None, goes_on=goes_on)

    @restoring
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one epoch more on X (N, D) and y (N,) or (N, C)."""
        self._validate_params()
        if self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        self._check_array(X)
        return self._learn_numbers(X, y, sample_weight, epochs=1, goes_on="n_iter_" in vars(self))

    def _learn_numbers(self, X: Any, y: Any, sample_weight: Any, *, epochs: int | None, goes_on: bool) -> Self:
        check_unmasked(X, y)
        _check_no_text(y)
        X, y = validate_data(self, X, y, dtype=FEATURE_TYPES, multi_output=True, y_numeric=True, reset=not goes_on)
        y = y.toarray() if hasattr(y, "toarray") else y
        with np.errstate(over="ignore"):
            numbers = np.asarray(y, np.float32).reshape(len(y), -1)
        if np.isnan(numbers).any():  # of None, which was none yet when scikit-learn looked for NaN
            raise ValueError("Input y contains NaN.")
        if not np.isfinite(numbers).all():
            raise ValueError("y has numbers that float32 cannot hold; scale them first")
        weights = self._weights(sample_weight, X)
        outputs = numbers.shape[1]
        self._learn(X, numbers, weights, loss="squared", outputs=outputs, stratify=None, epochs=epochs, goes_on=goes_on)
        self.out_activation_ = "identity"
        self._keep(np.array([f"y{number}" for number in range(outputs)]))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the predicted numbers (n,) or (n, C), float32 if X is, else float64, for X as `fit` takes it."""
        features = self._features(X)
        if self.model_.inputs is not None:
            return np.asarray(self.model_.predictor.predict(features), np.float64)
        X = features
        whole = len(X) // BLOCK * BLOCK
        rest = np.zeros((-(-(len(X) - whole) // TILE) * TILE, X.shape[1]), X.dtype)
        rest[: len(X) - whole] = X[whole:]
        parts = [self.model_.predictor.predict(part) for part in (X[:whole], rest) if len(part)]
        found: np.ndarray = np.concatenate(parts)[: len(X)].astype(X.dtype)
        return found

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags: y may have several columns."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _check_no_text(y: Any) -> None:
    """Refuse y (N,) or (N, C) with text that is no number; all else is checked by scikit-learn."""
    if not hasattr(y, "shape") and not isinstance(y, list | tuple):
        return
    values = np.asarray(y)
    if values.dtype.kind not in "OUS" or not values.ndim:
        return
    for place, value in np.ndenumerate(values):
        if isinstance(value, str | bytes) and not _is_number(value):
            raise ValueError(
                f"y, row {place[0]} (counted from 0): {str(value)!r} is text, and a regressor predicts numbers: "
                "correct it, or use DistSGDClassifier, which takes text as classes"
            )


def _is_number(text: str | bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
