"""`DistSGDRegressor`: squared error for one or several numbers as an estimator of scikit-learn."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from distsgd.core.predictor import BLOCK
from distsgd.sklearn.base import FEATURE_TYPES, Estimator

TILE = 16
"""Rows that BLAS multiplies together: in whole tiles, the numbers of a row depend less on how many rows there are."""


class DistSGDRegressor(RegressorMixin, Estimator):  # type: ignore[misc]
    """A regressor of two layers, or of one, trained by mini-batch SGD with the same bits for any number of workers.

    Parameters and attributes are those of `DistSGDClassifier`, without classes, with `out_activation_` `identity`. The
    loss is half the squared error, as that of `MLPRegressor`.
    """

    _loss = "squared"
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
        self.workers = workers
        self.threads = threads

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on features X (N, D) and numbers y (N,) or (N, C), with a weight for each row if given.

        ValueError for what cannot be trained on.
        """
        self._validate_params()
        goes_on = self.warm_start and "n_iter_" in vars(self)
        return self._learn_numbers(X, y, sample_weight, epochs=None, goes_on=goes_on)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one epoch more on X (N, D) and y (N,) or (N, C)."""
        self._validate_params()
        if self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        return self._learn_numbers(X, y, sample_weight, epochs=1, goes_on="n_iter_" in vars(self))

    def _learn_numbers(self, X: Any, y: Any, sample_weight: Any, *, epochs: int | None, goes_on: bool) -> Self:
        X, y = validate_data(self, X, y, dtype=FEATURE_TYPES, multi_output=True, y_numeric=True, reset=not goes_on)
        numbers = np.asarray(y, np.float32).reshape(len(y), -1)
        if not np.isfinite(numbers).all():
            raise ValueError("y has numbers that float32 cannot hold; scale them first")
        weights = self._weights(sample_weight, X)
        self._learn(X, numbers, weights, outputs=numbers.shape[1], stratify=None, epochs=epochs, goes_on=goes_on)
        self.out_activation_ = "identity"
        self._keep(np.array([f"y{number}" for number in range(numbers.shape[1])]))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the predicted numbers (n,) or (n, C), float32 if X is, else float64."""
        check_is_fitted(self, "model_")
        X = validate_data(self, X, dtype=FEATURE_TYPES, reset=False)
        whole = len(X) // BLOCK * BLOCK
        rest = np.zeros((-(-(len(X) - whole) // TILE) * TILE, X.shape[1]), X.dtype)
        rest[: len(X) - whole] = X[whole:]
        parts = [self.model_.predict(part) for part in (X[:whole], rest) if len(part)]
        found: np.ndarray = np.concatenate(parts)[: len(X)].astype(X.dtype)
        return found

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags: y may have several columns."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
