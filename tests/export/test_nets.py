"""Nets of every activation and loss, with a hidden layer and without, as other libraries compute them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distsgd.core.activations import ACTIVATIONS
from distsgd.core.inputs import Column, Inputs
from distsgd.core.losses import LOSSES
from distsgd.core.net import Net
from distsgd.core.predictor import Predictor
from distsgd.errors import ConfigError
from distsgd.export import formats

D = 7


def predictor(*, hidden: int = 5, classes: int = 3, activation: str = "relu", loss: str = "softmax") -> Predictor:
    rng = np.random.default_rng(1)
    net = Net(D, hidden, classes, activation=activation, loss=loss)
    names = np.array([f"class {i}" for i in range(classes)])
    return Predictor(
        net=net,
        flat=rng.normal(size=net.size).astype(np.float32),
        classes=np.arange(3, 3 + classes) if LOSSES[loss].target == "class" else names,
        shift=rng.normal(10, 5, D),
        scale=rng.uniform(0.1, 3, D),
        inputs=Inputs((Column(name="x", kind="list", dtype="float64", width=D),)),
    )


def features(count: int, model: Predictor) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(count, D)) / model.scale + model.shift


CASES = [
    *({"activation": name} for name in ACTIVATIONS),
    {"hidden": 0},
    {"classes": 2},
    {"classes": 2, "hidden": 0},
    *({"loss": name} for name in LOSSES if name != "softmax"),
    *({"loss": name, "hidden": 0} for name in LOSSES if name != "softmax"),
    {"loss": "squared", "classes": 1},
    {"loss": "logistic", "classes": 1},
    {"loss": "logistic", "classes": 1, "hidden": 0},
]

UNKNOWN_TO_SKLEARN = [
    *({"activation": name} for name in ("leaky_relu", "elu", "gelu")),
    {"loss": "hinge"},
    {"loss": "hinge", "hidden": 0},
    {"loss": "logistic", "hidden": 0},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_onnx_computes_every_net(case, tmp_path):
    import onnxruntime

    model, path = predictor(**case), tmp_path / "m.onnx"
    assert formats.export(model, "onnx", path) < 1e-5
    X = features(1000, model)
    predicted, expected = model.predict_both(X)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {"X": X})
    np.testing.assert_allclose(found[-1], expected, rtol=1e-5, atol=1e-5)
    if LOSSES[model.net.loss].target == "class":
        assert (found[0] == predicted).mean() > 0.999
    elif LOSSES[model.net.loss].target == "labels":
        assert (found[0] == predicted.reshape(found[0].shape)).mean() > 0.999


@pytest.mark.parametrize("case", [case for case in CASES if case not in UNKNOWN_TO_SKLEARN], ids=str)
def test_scikit_learn_computes_the_nets_that_it_has(case, tmp_path):
    import skops.io

    model, path = predictor(**case), tmp_path / "m.skops"
    assert formats.export(model, "sklearn", path) < 1e-5
    pipeline, X = skops.io.load(path), features(1000, model)
    predicted, expected = model.predict_both(X)
    if LOSSES[model.net.loss].target == "numbers":
        np.testing.assert_allclose(pipeline.predict(X).reshape(expected.shape), expected, rtol=1e-5, atol=1e-5)
    else:
        assert (pipeline.predict(X).reshape(predicted.shape) == predicted).mean() > 0.999
        columns = expected.shape[1]
        np.testing.assert_allclose(pipeline.predict_proba(X)[:, -columns:], expected, atol=1e-5)


@pytest.mark.parametrize("case", UNKNOWN_TO_SKLEARN, ids=str)
def test_what_scikit_learn_does_not_have_is_refused(case, tmp_path):
    with pytest.raises(ConfigError, match="export another format"):
        formats.export(predictor(**case), "sklearn", tmp_path / "m.skops")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_npz_reads_back_as_the_same_model(case, tmp_path):
    from distsgd.core import model_file

    model = predictor(**case)
    formats.export(model, "npz", Path(tmp_path / "m.npz"))
    X = features(20, model)
    for found, expected in zip(model_file.read(tmp_path / "m.npz").predict_both(X), model.predict_both(X), strict=True):
        np.testing.assert_array_equal(found, expected)
