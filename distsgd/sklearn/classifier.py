"""`DistSGDClassifier`: the classifier of one or two layers as an estimator of scikit-learn."""

from __future__ import annotations

import os
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils import compute_class_weight
from sklearn.utils.multiclass import _check_partial_fit_first_call, check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from distsgd.config import Config
from distsgd.core.inputs import Inputs
from distsgd.data import load
from distsgd.errors import RefusedError
from distsgd.sklearn.base import FEATURE_TYPES, Estimator
from distsgd.sklearn.tables import in_arrays, is_table


class DistSGDClassifier(ClassifierMixin, Estimator):  # type: ignore[misc]
    """A classifier of two layers, or of one, trained by mini-batch SGD with the same bits for any number of workers.

    Parameters are those of `MLPClassifier`, with its defaults, and:

    hidden_layer_sizes: one hidden layer, an integer or `(n,)`; `()` is softmax regression.
    activation: `relu`, `logistic`, `tanh`, `leaky_relu`, `elu` or `gelu`.
    solver: `adam`, `sgd`, `adagrad` or `rmsprop`.
    class_weight: None, `"balanced"`, or a dict of classes and weights.
    num_shards: into how many shards a mini-batch is cut; `"auto"`: 4, or 1 if it is small. Part of the result.
    workers: 0: this process, without Ray; else processes on Ray, at most one for each shard. No part of the result.
    threads: of this process if `workers` is 0; `"auto"`: one per core if mini-batches are worth it. No part either.

    Attributes of a fitted estimator: `classes_`, `coefs_`, `intercepts_`, `loss_`, `best_loss_`, `loss_curve_`,
    `n_iter_`, `validation_scores_`, `best_validation_score_`, `n_layers_`, `n_outputs_`, `out_activation_`,
    `n_features_in_`, `feature_names_in_`, and `weights_sha256_` and `model_`, the trained `distsgd.Classifier`.
    """

    _loss = "softmax"
    _score_name = "val/accuracy"
    classes_: np.ndarray
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Estimator._parameter_constraints,
        "class_weight": [dict, str, None],
    }

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
        class_weight: Any = None,
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
        self.class_weight = class_weight
        self.num_shards = num_shards
        self.workers = workers
        self.threads = threads

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Train on features X (N, D) and labels y (N,), with a weight for each row if given; return the estimator.

        X may also be a frame (pandas, polars, pyarrow) with text or categories, or a path of Parquet, Arrow, CSV or
        `.npz` files; then y is the name of the label column, `label` if it is None, or the labels of a frame.
        ValueError for what cannot be trained on.
        """
        self._validate_params()
        goes_on = self.warm_start and "classes_" in vars(self)
        if is_table(X):
            return self._fit_table(X, y, sample_weight)
        X, codes = self._checked(X, y, reset=not goes_on)
        classes = np.unique(codes)
        if goes_on and not np.array_equal(classes, self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. Previously "
                f"got {self.classes_}, `y` has {classes}"
            )
        if len(classes) < 2:
            raise ValueError(f"Classifier can't train when only one class is present: all labels are {classes[0]!r}")
        self.classes_ = classes
        self._learn_labels(X, codes, sample_weight, epochs=None, goes_on=goes_on)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train for one epoch more on X (N, D) and y (N,); the first call names all `classes` (C,)."""
        self._validate_params()
        if self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        first = "classes_" not in vars(self)
        _check_partial_fit_first_call(self, classes)
        X, codes = self._checked(X, y, reset=first)
        unknown = np.setdiff1d(codes, self.classes_)
        if unknown.size:
            raise ValueError(f"`y` has labels not in `classes`: {unknown}; `classes` are {self.classes_}")
        self._learn_labels(X, codes, sample_weight, epochs=1, goes_on=not first)
        return self

    def _checked(self, X: Any, y: Any, *, reset: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return X (N, D) and y (N,) as arrays, checked by scikit-learn."""
        X, y = validate_data(self, X, y, dtype=FEATURE_TYPES, multi_output=True, reset=reset)
        check_classification_targets(y)
        return X, column_or_1d(y, warn=True)

    def _learn_labels(
        self, X: np.ndarray, y: np.ndarray, sample_weight: Any, *, epochs: int | None, goes_on: bool
    ) -> None:
        """Train on checked arrays whose labels are among `classes_`."""
        codes = np.searchsorted(self.classes_, y).astype(np.int64)
        weights = self._weights(sample_weight, X)
        if self.class_weight is not None:
            own = compute_class_weight(self.class_weight, classes=self.classes_, y=y, sample_weight=weights)[codes]
            weights = own if weights is None else weights * own
        self._learn(X, codes, weights, outputs=len(self.classes_), stratify=y, epochs=epochs, goes_on=goes_on)
        self.out_activation_ = "softmax"
        self._keep(self.classes_)

    def _fit_table(self, X: Any, y: Any, sample_weight: Any) -> Self:
        """Train on a frame or on the files of a path, read and encoded as `distsgd.train` does."""
        if sample_weight is not None or self.class_weight is not None or self.warm_start:
            raise ValueError("sample_weight, class_weight and warm_start need X as an array of numbers")
        path = os.fspath(X) if isinstance(X, str | os.PathLike) else None
        label = y if isinstance(y, str) else None
        if path is not None and y is not None and label is None:
            raise ValueError("X is a path: y is the name of its label column, or None for the column 'label'")
        held_out = self.validation_fraction if self.early_stopping else 0
        settings: dict[str, Any] = {"data.normalize": "none", "data.val_fraction": held_out}
        if label is not None:
            settings["data.label"] = label
        if path is not None:
            settings["data.train"] = path
        try:
            config = Config.build(settings)
            data = load(config.data, data=None if path else X if y is None or label else (X, y))
        except RefusedError as error:
            raise ValueError(str(error)) from None
        inputs: Inputs = data.inputs
        self.n_features_in_ = len(inputs.columns)
        self.feature_names_in_ = np.array([column.name for column in inputs.columns], dtype=object)
        self.classes_ = data.classes
        config = self._config(len(data.train), len(data.classes), data.train.features, 1.0, **settings)
        self._train(config, data, epochs=None, goes_on=False)
        self.out_activation_ = "softmax"
        self._keep(self.classes_, data.normalization, inputs)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class (n,) for X as `fit` takes it."""
        features = self._features(X)
        found: np.ndarray = self.model_.predict(features)
        return found

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities (n, C) float32 of `classes_` for X as `fit` takes it."""
        features = self._features(X)
        return self.model_.predict_proba(features)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithms of `predict_proba`."""
        with np.errstate(divide="ignore"):
            found: np.ndarray = np.log(self.predict_proba(X))
        return found

    def _features(self, X: Any) -> Any:
        check_is_fitted(self, "model_")
        if self.model_.inputs is not None:
            return in_arrays(X, self.model_.inputs)
        return validate_data(self, X, dtype=FEATURE_TYPES, reset=False)
