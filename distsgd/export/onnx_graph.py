"""A model as an ONNX graph: encoding, normalisation, both layers, probabilities and classes.

A model all of whose features are numbers has one input, `X` (n, D); any other has an input (n, 1) for each column, by
the column's name. Numbers are float if float32 holds those of the training files exactly, else double; they are
normalised in double, as the model itself does. The outputs are `label` and `probabilities`.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, checker, helper, numpy_helper

from distsgd.core.inputs import Column
from distsgd.core.losses import LOSSES
from distsgd.core.predictor import Predictor
from distsgd.export.checking import by_position
from distsgd.version import __version__

OPSETS = {"": 17, "ai.onnx.ml": 3}
"""Versions of the operators: of 2022, so that older runtimes load the model."""

IR_VERSION = 8
"""Version of the file format that belongs to them."""

FEATURES, LABEL = "X", "label"
"""Names of the input of a model that takes a matrix, and of the output with the classes, labels or numbers."""

PROBABILITIES, SCORES = "probabilities", "scores"
"""Names of the second output; the scores are that of a hinge loss, which has no probabilities."""


class _Graph:
    """Nodes and constants that are collected one after another."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.inputs: list[ValueInfoProto] = []

    def add(self, operator: str, *inputs: str, to: str | None = None, domain: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        output = to or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], domain=domain, **attributes))
        return output

    def constant(self, values: Any, dtype: Any) -> str:
        """Add a constant and return its name."""
        name = f"constant_{len(self.constants)}"
        if dtype is str:
            texts = np.array([str(value) for value in values], object)
            self.constants.append(numpy_helper.from_array(texts, name))
        else:
            self.constants.append(numpy_helper.from_array(np.array(values, dtype), name))
        return name

    def input(self, name: str, kind: int, width: int) -> str:
        """Add an input (n, width) and return its name."""
        self.inputs.append(helper.make_tensor_value_info(name, kind, ["n", width]))
        return name


def build(predictor: Predictor) -> ModelProto:
    """Return the graph of a model without hashed categories."""
    graph, net = _Graph(), predictor.net
    features = _matrix(graph, predictor) if by_position(predictor) else _columns(graph, predictor)
    shifted = graph.add("Sub", features, graph.constant(predictor.shift, np.float64))
    scaled = graph.add("Mul", shifted, graph.constant(predictor.scale, np.float64))
    x = _cast(graph, scaled, TensorProto.FLOAT)
    parameters = net.split(predictor.flat)
    if net.hidden:
        x = _activated(graph, net.activation, _layer(graph, x, parameters.W1, parameters.b1))
    scores = _layer(graph, x, parameters.W2, parameters.b2)
    outputs = _outputs(graph, predictor, scores)
    made = helper.make_graph(graph.nodes, "distsgd", graph.inputs, outputs, graph.constants)
    opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
    model = helper.make_model(made, opset_imports=opsets, ir_version=IR_VERSION, producer_name="distsgd")
    model.producer_version = __version__
    names = None if predictor.inputs is None else list(predictor.inputs.feature_names)
    about = {"classes": predictor.classes.tolist(), "features": names}
    helper.set_model_props(model, {name: json.dumps(value) for name, value in about.items()})
    checker.check_model(model, full_check=True)
    return model


def number_type(columns: tuple[Column, ...]) -> type[np.float32] | type[np.float64]:
    """Return the type of an input that holds the numbers of columns."""
    exact = all(np.can_cast(np.dtype(column.dtype), np.float32) for column in columns)
    return np.float32 if exact else np.float64


def _cast(graph: _Graph, name: str, kind: int) -> str:
    output = f"cast_{len(graph.nodes)}"
    graph.nodes.append(helper.make_node("Cast", [name], [output], to=kind))
    return output


def _matrix(graph: _Graph, predictor: Predictor) -> str:
    """Add the input `X` (n, D) and return its name as double, with missing values filled."""
    columns = () if predictor.inputs is None else predictor.inputs.columns
    kind = number_type(columns) if columns else np.float64
    name = graph.input(FEATURES, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), predictor.net.features)
    fills = [c.fill for c in columns for _ in range(c.features)]
    return _filled(graph, _cast(graph, name, TensorProto.DOUBLE), fills)


def _columns(graph: _Graph, predictor: Predictor) -> str:
    """Add an input (n, 1) for each column and return the name of the features (n, D) as double."""
    parts = []
    assert predictor.inputs is not None  # such a model takes a matrix
    for column in predictor.inputs.columns:
        if column.kind == "category":
            parts.append(_one_hot(graph, column))
        else:
            kind = TensorProto.BOOL
            if column.kind == "number":
                kind = helper.np_dtype_to_tensor_dtype(np.dtype(number_type((column,))))
            numbers = _cast(graph, graph.input(column.name, kind, 1), TensorProto.DOUBLE)
            parts.append(_filled(graph, numbers, [column.fill]))
    return graph.add("Concat", *parts, axis=1)


def _filled(graph: _Graph, numbers: str, fills: list[float | None]) -> str:
    """Return numbers (n, k) with those that are NaN replaced; one without a fill stays NaN."""
    if all(fill is None for fill in fills):
        return numbers
    values = graph.constant([math.nan if fill is None else fill for fill in fills], np.float64)
    return graph.add("Where", graph.add("IsNaN", numbers), values, numbers)


def _one_hot(graph: _Graph, column: Column) -> str:
    """Add a category's input (n, 1) and return its features (n, k); unknown values set none of them."""
    text = column.dtype == "str"
    name = graph.input(column.name, TensorProto.STRING if text else TensorProto.INT64, 1)
    values: dict[str, Any] = {"cats_strings" if text else "cats_int64s": list(column.categories)}
    encoded = graph.add("OneHotEncoder", name, domain="ai.onnx.ml", zeros=1, **values)
    flat = graph.add("Reshape", encoded, graph.constant([-1, len(column.categories)], np.int64))
    return _cast(graph, flat, TensorProto.DOUBLE)


def _layer(graph: _Graph, x: str, W: Any, b: Any) -> str:
    """Add x W + b."""
    return graph.add("Gemm", x, graph.constant(W, np.float32), graph.constant(b, np.float32))


def _activated(graph: _Graph, activation: str, a: str) -> str:
    """Add the activation of pre-activations `a`."""
    if activation == "gelu":  # aΦ(a) = a/2 (1 + erf(a/√2)); ONNX has it as one operator since version 20 alone
        erf = graph.add("Erf", graph.add("Mul", a, graph.constant(math.sqrt(0.5), np.float32)))
        twice = graph.add("Add", erf, graph.constant(1, np.float32))
        return graph.add("Mul", graph.add("Mul", a, graph.constant(0.5, np.float32)), twice)
    if activation == "leaky_relu":
        return graph.add("LeakyRelu", a, alpha=0.01)
    operators = {"relu": "Relu", "elu": "Elu", "tanh": "Tanh", "sigmoid": "Sigmoid"}
    return graph.add(operators[activation], a)


def _outputs(graph: _Graph, predictor: Predictor, scores: str) -> list[ValueInfoProto]:
    """Add what the scores (n, C) predict, and the probabilities if there are any; return the outputs."""
    loss, C, text = LOSSES[predictor.net.loss], predictor.net.classes, predictor.classes.dtype.kind == "U"
    if loss.target == "numbers":
        graph.add("Identity", scores, to=LABEL)
        return [helper.make_tensor_value_info(LABEL, TensorProto.FLOAT, ["n", C])]
    if loss.target == "labels":
        positive = graph.add("Greater", scores, graph.constant(0, np.float32))
        graph.nodes.append(helper.make_node("Cast", [positive], [LABEL], to=TensorProto.INT64))
        graph.add("Sigmoid", scores, to=PROBABILITIES)
        label = helper.make_tensor_value_info(LABEL, TensorProto.INT64, ["n", C])
        return [label, helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["n", C])]
    number = graph.add("ArgMax", scores, axis=1, keepdims=0)
    graph.add("Gather", graph.constant(predictor.classes, str if text else np.int64), number, to=LABEL)
    label = helper.make_tensor_value_info(LABEL, TensorProto.STRING if text else TensorProto.INT64, ["n"])
    second = PROBABILITIES if loss.has_probabilities else SCORES
    if loss.has_probabilities:
        graph.add("Softmax", scores, to=second, axis=1)
    else:
        graph.add("Identity", scores, to=second)
    return [label, helper.make_tensor_value_info(second, TensorProto.FLOAT, ["n", C])]
