"""`DistSGDClassifier`: the classifier of one or two layers as an estimator of scikit-learn."""

from __future__ import annotations

import warnings
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils import compute_class_weight
from sklearn.utils.multiclass import _check_partial_fit_first_call, check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d, validate_data

from distsgd.data import ArrayRows, DataSet, Normalization
from distsgd.data.statistics import STATISTICS
from distsgd.engine.confusion import Confusion, pairs_of
from distsgd.errors import RunWarning
from distsgd.run.assessment import unpredicted_remark
from distsgd.rundir.classifier import Classifier
from distsgd.sklearn.base import FEATURE_TYPES, Estimator
from distsgd.sklearn.messages import in_terms_of_estimators
from distsgd.sklearn.restoring import restoring
from distsgd.sklearn.tables import check_unmasked, is_path, is_table

NO_CLASSES = "class_weight is for one class for each row, and y has several labels"


class DistSGDClassifier(ClassifierMixin, Estimator):  # type: ignore[misc]
    """A classifier of two layers, or of one, trained by mini-batch SGD with the same bits for any number of workers.

    Parameters are those of `MLPClassifier`, with its defaults, and:

    hidden_layer_sizes: one hidden layer, an integer or `(n,)`; `()` is softmax regression.
    activation: `relu`, `logistic`, `tanh`, `leaky_relu`, `elu` or `gelu`.
    solver: `adam`, `sgd`, `adagrad` or `rmsprop`.
    class_weight: None, `"balanced"`, or a dict of classes and weights.
    num_shards: into how many shards a mini-batch is cut; `"auto"`: 4, or 1 if it is small. Part of the result.
    arithmetic: `"fast"`, or `"portable"`: the same bits on every machine and for any `num_shards`, in 2 to 3 times the
        time.
    workers: 0: this process, without Ray; else processes on Ray, at most one for each shard. No part of the result.
        Mini-batches of a single shard have nothing to divide: this process computes them, whatever `workers` is.
    threads: of this process if `workers` is 0; `"auto"`: one per core if mini-batches are worth it. No part either.

    Attributes of a fitted estimator: `classes_`, `coefs_`, `intercepts_`, `loss_`, `best_loss_`, `loss_curve_`,
    `n_iter_`, `validation_scores_`, `best_validation_score_`, `n_layers_`, `n_outputs_`, `out_activation_`,
    `n_features_in_`, `feature_names_in_`, and `weights_sha256_` and `model_`, the trained `distsgd.Classifier`.
    """

    _score_name = "val/accuracy"
    classes_: np.ndarray
    _several: bool
    """Whether y was an indicator of several labels."""

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
        self.class_weight = class_weight
        self.num_shards = num_shards
        self.arithmetic = arithmetic
        self.workers = workers
        self.threads = threads

    @restoring
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Train on features X (N, D) and labels y (N,), with a weight for each row if given; return the estimator.

        y may be an indicator (N, L) of several labels, 0 or 1 each. X may also be a frame (pandas, polars, pyarrow)
        with text or categories, or a path of Parquet, Arrow, CSV or `.npz` files; then y is the name of the label
        column, `label` if it is None, a list of names for several labels in the files of a path, or the labels of a
        frame. ValueError for what cannot be trained on.
        """
        self._validate_params()
        self._check_class_weight()
        goes_on = self.warm_start and "classes_" in vars(self)
        if is_table(X):
            return self._fit_table(X, y, sample_weight)
        X, y = self._checked(X, y, reset=not goes_on)
        several = y.ndim == 2
        classes = np.arange(y.shape[1]) if several else np.unique(y)
        if goes_on and (several != self._several or not np.array_equal(classes, self.classes_)):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. Previously "
                f"got {self.classes_}, `y` has {classes}"
            )
        if not several and len(classes) < 2:
            raise ValueError(
                f"Classifier can't train when only one class is present: all labels are {classes.tolist()[0]!r}"
            )
        self.classes_, self._several = classes, several
        self._learn_labels(X, y, sample_weight, epochs=None, goes_on=goes_on)
        return self

    @restoring
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train for one epoch more on X (N, D) and y (N,); the first call names all `classes` (C,).

        With an indicator y (N, L) these are the numbers of the labels, 0 to L−1.
        """
        self._validate_params()
        if self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        self._check_class_weight()
        self._check_array(X)
        first = "_several" not in vars(self)
        _check_partial_fit_first_call(self, classes)
        X, y = self._checked(X, y, reset=first)
        several = y.ndim == 2
        expected = several if first else self._several
        if several != expected or (several and y.shape[1] != len(self.classes_)):
            raise ValueError(
                f"`y` is of shape {y.shape}; expected {'(n, L) with a column for each of' if expected else '(n,) of'}"
                f" `classes`, which are {self.classes_}"
            )
        unknown = np.empty(0) if several else np.setdiff1d(y, self.classes_)
        if unknown.size:
            raise ValueError(f"`y` has labels not in `classes`: {unknown}; `classes` are {self.classes_}")
        self._several = several
        self._learn_labels(X, y, sample_weight, epochs=1, goes_on=not first)
        return self

    def _checked(self, X: Any, y: Any, *, reset: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return X (N, D) and y, classes (N,) or an indicator (N, L), as arrays, checked by scikit-learn."""
        check_unmasked(X, y)
        X, y = validate_data(self, X, y, dtype=FEATURE_TYPES, multi_output=True, reset=reset)
        y = y.toarray() if hasattr(y, "toarray") else y
        if y.dtype == object:
            _check_one_type(y)
        check_classification_targets(y)
        if type_of_target(y) != "multilabel-indicator":
            return X, column_or_1d(y, warn=True)
        if not np.isin(y, (0, 1)).all():
            raise ValueError("y is of several labels, and holds other values than 0 and 1")
        return X, y

    def _check_class_weight(self) -> None:
        """Refuse weights of classes that are none."""
        given = self.class_weight
        if isinstance(given, str) and given != "balanced":
            raise ValueError(f"class_weight is {given!r}; expected 'balanced', a dict of classes and weights, or None")
        for label, weight in given.items() if isinstance(given, dict) else ():
            if not isinstance(weight, Real) or not 0 <= float(weight) < np.inf:
                raise ValueError(
                    f"class_weight gives class {label!r} the weight {weight!r}; expected a finite number of at least 0"
                )

    def _learn_labels(
        self, X: np.ndarray, y: np.ndarray, sample_weight: Any, *, epochs: int | None, goes_on: bool
    ) -> None:
        """Train on checked arrays whose labels are among `classes_`."""
        weights = self._weights(sample_weight, X)
        how: dict[str, Any] = {"epochs": epochs, "goes_on": goes_on}
        if self._several:
            if self.class_weight is not None:
                raise ValueError(NO_CLASSES)
            targets = y.astype(np.float32)
            self._learn(X, targets, weights, loss="logistic", outputs=y.shape[1], stratify=None, **how)
            self._finish(np.array([f"y{number}" for number in range(y.shape[1])]))
            return
        codes = np.searchsorted(self.classes_, y).astype(np.int64)
        factors = None
        if self.class_weight is not None:
            of_classes = compute_class_weight(self.class_weight, classes=self.classes_, y=y, sample_weight=weights)
            if self.class_weight == "balanced" and weights is not None:  # the same, added as the arithmetic adds
                sums = np.bincount(codes, weights, len(of_classes))
                of_classes = STATISTICS[self.arithmetic].summed(sums) / (len(of_classes) * sums)
            factors = of_classes[codes]
        self._learn(X, codes, weights, factors, loss="softmax", outputs=len(self.classes_), stratify=y, **how)
        self._finish(self.classes_)

    def _fit_table(self, X: Any, y: Any, sample_weight: Any) -> Self:
        """Train on a frame or on the files of a path, read and encoded as `distsgd.train` does."""
        names = is_path(X) and isinstance(y, list | tuple) and len(y) > 1
        self._several = names or (not isinstance(y, str) and np.ndim(y) == 2 and np.shape(y)[1] > 1)
        if self._several and self.class_weight is not None:
            raise ValueError(NO_CLASSES)
        loss = "logistic" if self._several else "softmax"
        outputs = self._learn_table(X, y, loss, sample_weight, self.class_weight)
        self.classes_ = outputs if names or not self._several else np.arange(len(outputs))
        self._finish(None)
        return self

    def _look_at(self, data: DataSet) -> None:
        """Warn of classes that held-out rows have and none is predicted as."""
        if self._several or not isinstance(data.val, ArrayRows):
            return
        C, D = self._net.classes, self._net.features
        identity = Normalization(np.zeros(D), np.ones(D))
        model = Classifier(net=self._net, flat=self._snapshot.parameters, classes=np.arange(C), normalization=identity)
        confusion = Confusion.of([pairs_of(data.val.y, model.predict(data.val.X), C)], C)
        names = data.classes if data.feature_names else self.classes_  # of arrays the outputs are numbers
        remark = unpredicted_remark(confusion, names.tolist(), is_balanced=self.class_weight == "balanced")
        if remark is not None:
            warnings.warn(in_terms_of_estimators(remark, "class"), RunWarning, stacklevel=5)

    def _finish(self, outputs: np.ndarray | None) -> None:
        self.out_activation_ = "logistic" if self._several else "softmax"
        if outputs is not None:
            self._keep(outputs)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class (n,), or an indicator (n, L) of labels, for X as `fit` takes it."""
        features = self._features(X)
        found: np.ndarray = self.model_.predictor.predict(features)
        return found

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities (n, C) float32 of `classes_`, or (n, L) of each label, for X as `fit` takes it."""
        features = self._features(X)
        return self.model_.predictor.predict_proba(features)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithms of `predict_proba`."""
        with np.errstate(divide="ignore"):
            found: np.ndarray = np.log(self.predict_proba(X))
        return found

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags: y may be an indicator of several labels."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _check_one_type(y: np.ndarray) -> None:
    """Refuse labels (N,) or (N, L), objects, of which some have no order: None, or text beside other things."""
    for place, label in np.ndenumerate(y):
        if label is None:
            raise ValueError(f"y, row {place[0]} (counted from 0), is None; expected a class: leave such rows out")
    kinds = {"str" if isinstance(label, str) else type(label).__name__: label for label in y.flat}
    if len(kinds) > 1 and "str" in kinds:
        found = " and ".join(f"{kind} such as {kinds[kind]!r}" for kind in sorted(kinds))
        raise ValueError(f"y has labels of several types, {found}; make all of them text, or all numbers")
