"""Models as scikit-learn pipelines, saved by skops, which needs no pickle: encoding, StandardScaler, MLPClassifier.

The estimators are fitted ones: they predict, can be cloned and trained further. Without a hidden layer the last one is
a LogisticRegression, with model.loss=squared an MLPRegressor or LinearRegression.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from distsgd.core.inputs import Column, Inputs
from distsgd.core.losses import LOSSES
from distsgd.core.predictor import Predictor
from distsgd.errors import ConfigError
from distsgd.export.checking import Rows, category_type, check, refuse_hashes, require
from distsgd.system.files import write_atomically

ACTIVATIONS = {"relu": "relu", "tanh": "tanh", "sigmoid": "logistic"}
"""Names of the activations in scikit-learn, which has no others of ours."""


TRUSTED = ["numpy.dtype"]
"""What skops has to be told to load, in pipelines that fill missing values; it knows all other types as harmless."""


def write(predictor: Predictor, path: Path) -> float:
    """Write a model as a skops file of a pipeline, and return how much its outputs differ.

    ConfigError if scikit-learn has no such model; ExportError if the pipeline's outputs are not those of the model.
    """
    require("sklearn", "skops")
    import skops.io

    pipeline = build(predictor)
    content = skops.io.dumps(pipeline)
    loaded = skops.io.loads(content, trusted=TRUSTED)
    difference = check(predictor, "scikit-learn", lambda rows: _run(loaded, rows, predictor.net.classes))
    write_atomically(path, content)
    return difference


def build(predictor: Predictor) -> Pipeline:
    """Return the pipeline; it takes what `Classifier.predict` takes, frames by the names of their columns."""
    inputs = predictor.inputs
    refuse_hashes("scikit-learn", () if inputs is None else inputs.columns)
    steps = [] if inputs is None else _encoding(inputs)
    scaler = StandardScaler().fit(np.zeros((1, predictor.net.features)))
    scaler.mean_, scaler.scale_ = predictor.shift.copy(), 1 / predictor.scale
    scaler.var_ = scaler.scale_**2
    named = inputs is not None and inputs.by_position and inputs.columns[0].kind != "list"
    if inputs is not None and named and not steps:
        scaler.feature_names_in_ = np.array([column.name for column in inputs.columns], object)
    return Pipeline([*steps, ("scale", scaler), ("net", _estimator(predictor))])


def _encoding(inputs: Inputs) -> list[tuple[str, Any]]:
    """Return the step that makes features of columns; none if they are the features."""
    if not inputs.by_position:
        groups = [
            list(group) for _, group in groupby(inputs.columns, lambda column: (column.kind, column.fill is None))
        ]
        transformers = [(f"{group[0].name}...", _group(group), [c.name for c in group]) for group in groups]
        frame = pd.DataFrame({column.name: [_typical(column)] for column in inputs.columns})
        return [("encode", ColumnTransformer(transformers).fit(frame))]
    fills = [
        np.nan if column.fill is None else column.fill for column in inputs.columns for _ in range(column.features)
    ]
    if np.isnan(fills).any():  # missing values are refused, which MLPClassifier does
        return []
    columns = None if inputs.columns[0].kind == "list" else [column.name for column in inputs.columns]
    return [
        ("fill", SimpleImputer().fit(np.array([fills]) if columns is None else pd.DataFrame([fills], columns=columns)))
    ]


def _group(columns: list[Column]) -> Any:
    """Return the transformer of adjacent columns of one kind."""
    if columns[0].kind == "category":
        categories = [np.array(column.categories, category_type(column)) for column in columns]
        return OneHotEncoder(categories=categories, handle_unknown="ignore", sparse_output=False)
    if columns[0].kind == "number" and columns[0].fill is not None:
        return SimpleImputer()
    return "passthrough"


def _typical(column: Column) -> Any:
    """Return a value by which a transformer is fitted: a category, or what missing numbers become, as their mean."""
    if column.kind == "category":
        return bool(column.categories[0]) if column.dtype == "bool" else column.categories[0]
    if column.kind == "boolean":
        return False
    return 0.0 if column.fill is None else float(column.fill)


def _estimator(predictor: Predictor) -> Any:
    """Return the fitted estimator with the model's weights, in float64."""
    net, loss = predictor.net, LOSSES[predictor.net.loss]
    if loss.target == "class" and not loss.has_probabilities:
        raise ConfigError(f"scikit-learn's MLPClassifier has no loss like model.loss={net.loss}: export another format")
    if net.hidden and net.activation not in ACTIVATIONS:
        raise ConfigError(
            f"scikit-learn's MLPClassifier has no activation like model.activation={net.activation}: export another "
            "format"
        )
    layers = [np.asarray(part, np.float64) for part in net.split(predictor.flat)]
    W2, b2 = layers[2:]
    if loss.target == "class" and net.classes == 2:  # one output: the logistic function of the difference
        W2, b2 = W2[:, 1:] - W2[:, :1], b2[1:] - b2[:1]
    if not net.hidden:
        return _linear(predictor, W2, b2)
    estimator = (MLPRegressor if loss.target == "numbers" else MLPClassifier)(
        hidden_layer_sizes=(net.hidden,), activation=ACTIVATIONS[net.activation], solver="sgd"
    )
    X = np.zeros((1, net.features))  # one step makes a fitted estimator, whose weights are then replaced
    if loss.target == "class":
        estimator.partial_fit(X, predictor.classes[:1], classes=predictor.classes)
    elif loss.target == "labels" and net.classes == 1:
        estimator.partial_fit(X, [0], classes=[0, 1])
    elif loss.target == "labels":
        estimator.partial_fit(X, np.zeros((1, net.classes), int), classes=np.arange(net.classes))
    else:
        estimator.partial_fit(X, np.zeros((1, net.classes)) if net.classes > 1 else np.zeros(1))
    del estimator._optimizer  # its state is that of the step; partial_fit makes a new one
    estimator.coefs_, estimator.intercepts_ = [layers[0], W2], [layers[1], b2]
    return estimator


def _linear(predictor: Predictor, W: np.ndarray, b: np.ndarray) -> Any:
    """Return the linear model with the scores x W + b."""
    target = LOSSES[predictor.net.loss].target
    if target == "labels" and predictor.net.classes > 1:
        raise ConfigError("scikit-learn has no single linear model of several labels: export another format")
    estimator = LinearRegression() if target == "numbers" else LogisticRegression()
    estimator.coef_, estimator.intercept_ = np.ascontiguousarray(W.T), b
    estimator.n_features_in_ = len(W)
    if target != "numbers":
        estimator.classes_ = predictor.classes.copy() if target == "class" else np.arange(2)
        estimator.n_iter_ = np.array([1], np.int32)
    return estimator


def _run(pipeline: Any, rows: Rows, outputs: int) -> tuple[Any, Any]:
    """Return predictions, and probabilities or numbers (n, outputs); a single label has two probabilities there."""
    names = getattr(pipeline, "feature_names_in_", None)
    if isinstance(rows, Mapping):
        rows = pd.DataFrame(rows)
    elif names is not None:
        rows = pd.DataFrame(rows, columns=names)
    predicted = pipeline.predict(rows)
    if hasattr(pipeline, "predict_proba"):
        return predicted, pipeline.predict_proba(rows)[:, -outputs:]
    return predicted, predicted.reshape(len(predicted), -1)
