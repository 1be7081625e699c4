"""Exported models predict what the model does, on rows of every kind; what a format cannot express is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import invoke

import distsgd
from distsgd.core.predictor import Predictor
from distsgd.errors import ConfigError, ExportError
from distsgd.export import checking, formats
from distsgd.export.sklearn_pipeline import TRUSTED

SUFFIX = {"onnx": "onnx", "safetensors": "safetensors", "sklearn": "skops", "npz": "npz", "pyfunc": ""}

QUICK = {"run.workers": 0, "tracking.enabled": False, "train.max_steps": 40, "model.hidden": 12}


def table(rows: int = 200, classes: int = 3) -> pa.Table:
    rng = np.random.default_rng(5)
    size = rng.normal(1.7e9, 2e6, rows)  # as seconds since 1970, which float32 cannot hold
    color = rng.choice(["red", "green", "bläu"], rows)
    number = (size > 1.7e9).astype(int) + (color == "red") * (classes > 2)
    return pa.table(
        {
            "size": size,
            "color": color,
            "small": rng.integers(0, 200, rows).astype(np.uint8),
            "code": pa.array(rng.choice([3, 7, 20], rows)).dictionary_encode(),
            "flag": rng.random(rows) < 0.5,
            "label": np.array(["no", "yes", "perhaps"])[number],
        }
    )


def numbers(rows: int = 200) -> pa.Table:
    """Numbers alone, some of them missing."""
    rng = np.random.default_rng(6)
    a, b = rng.normal(5, 2, rows), rng.integers(-50, 50, rows).astype(np.int16)
    label = (a > 5).astype(int)
    return pa.table({"a": pa.array(np.where(rng.random(rows) < 0.2, np.nan, a)), "b": b, "label": label})


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """Runs on images, on columns of several kinds with three classes and with two, and on numbers with gaps."""
    folder = tmp_path_factory.mktemp("exported")
    tables = {"mixed": table(), "binary": table(classes=2), "numbers": numbers()}
    for name, rows in tables.items():
        pq.write_table(rows, folder / f"{name}.parquet")
    for name in ("digits", *tables):
        values = QUICK | {"data.train": "digits" if name == "digits" else str(folder / f"{name}.parquet")}
        filled = {"data.missing": "mean"} if name == "numbers" else {}
        standard = {"data.normalize": "standard"} if name != "digits" else {}
        distsgd.train(values | filled | standard | {"run.dir": str(folder / name)})
    return {name: folder / name for name in ("digits", *tables)}


def run_onnx(path: Path, rows: Any) -> tuple[np.ndarray, np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64}
    kinds |= {"tensor(bool)": np.bool_, "tensor(string)": np.object_}
    inputs = session.get_inputs()
    if [i.name for i in inputs] == ["X"]:
        given = {"X": np.asarray(rows, kinds[inputs[0].type])}
    else:
        given = {i.name: np.array(rows[i.name], kinds[i.type])[:, None] for i in inputs}
    found = session.run(["label", "probabilities"], given)
    return found[0], found[1]


def run_sklearn(path: Path, rows: Any) -> tuple[np.ndarray, np.ndarray]:
    import skops.io

    pipeline = skops.io.load(path, trusted=TRUSTED)
    return pipeline.predict(rows), pipeline.predict_proba(rows)


def run_safetensors(path: Path, rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """What the docstring of export/safetensors_file.py says, for features that are the rows' numbers."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        m, about = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    assert about["activation"] == "relu"
    h = np.maximum(0, ((np.asarray(rows) - m["shift"]) * m["scale"]).astype(np.float32) @ m["W1"] + m["b1"])
    s = h @ m["W2"] + m["b2"]
    e = np.exp(s - s.max(axis=1, keepdims=True))
    return np.array(json.loads(about["classes"]))[s.argmax(axis=1)], e / e.sum(axis=1, keepdims=True)


def run_npz(path: Path, rows: Any) -> tuple[np.ndarray, np.ndarray]:
    model = distsgd.Classifier.load(path)
    return model.predict(rows), model.predict_proba(rows)


def run_pyfunc(path: Path, rows: Any) -> tuple[np.ndarray, np.ndarray]:
    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model(str(path))
    return model.predict(rows), model.predict(rows, params={"predict_method": "predict_proba"})


RUN: dict[str, Callable[[Path, Any], tuple[np.ndarray, np.ndarray]]] = {
    "onnx": run_onnx,
    "safetensors": run_safetensors,
    "sklearn": run_sklearn,
    "npz": run_npz,
    "pyfunc": run_pyfunc,
}


def logged(run: Path, folder: Path) -> Path:
    """Return the folder of a run's model as MLflow has it."""
    from mlflow.entities import LoggedModel, LoggedModelStatus

    from distsgd.tracking.description import ModelDescription
    from distsgd.tracking.model import save

    inputs = distsgd.Classifier.load(run).inputs
    assert inputs is not None
    about = dataclasses.asdict(ModelDescription(classes="long", example=[], inputs=inputs.to_json()))
    entity = LoggedModel(
        experiment_id="1", model_id="m-1", name="model", artifact_location=str(folder), creation_timestamp=0,
        last_updated_timestamp=0, status=LoggedModelStatus.PENDING,
    )  # fmt: skip
    save(folder / "logged", run / "model.npz", about, logged=entity)
    return folder / "logged"


def exported(run: Path, form: str, folder: Path) -> Path:
    if form == "pyfunc":
        return logged(run, folder)
    path = folder / f"model.{SUFFIX[form]}"
    found = invoke("export", str(run), "--format", form, "--out", str(path))
    assert found.code == 0, found.err
    assert str(path) in found.out
    return path


ODD = {
    "all rows": lambda X: X,
    "one row": lambda X: X[:1],
    "float32": lambda X: X.astype(np.float32),
    "float64": lambda X: X.astype(np.float64),
    "integers": lambda X: X.astype(np.int64),
    "in Fortran's order": np.asfortranarray,
}
"""Ways in which rows of images are passed."""

LACKING = {
    "onnx": r"Got: {1} Expected: {0}",
    "safetensors": r"shapes .*{1}.*{0}",
    "sklearn": r"{1} features.* expecting {0} features",
    "npz": r"\(2, {1}\); this model takes \(n, {0}\)",
    "pyfunc": r"\(2, {1}\); this model takes \(n, {0}\)",
}
"""What is said of images that lack one of so many pixels."""


@pytest.mark.parametrize("form", RUN)
def test_images_get_the_same_predictions_however_odd_and_what_lacks_a_column_is_an_error(form, runs, own_folder):
    from sklearn.datasets import load_digits

    assert_agreement(form, runs["digits"], load_digits().data.astype(np.uint8), own_folder)


@pytest.mark.slow
@pytest.mark.parametrize("form", RUN)
def test_so_do_those_of_mnist(form, own_folder):
    """DISTSGD_MNIST names its training rows as Parquet: a column of lists, or one for each pixel, and `label`."""
    location = os.environ.get("DISTSGD_MNIST")
    if location is None:
        pytest.skip("DISTSGD_MNIST does not name a file")
    run = own_folder / "run"
    distsgd.train(QUICK | {"data.train": location, "data.normalize": "unit", "run.dir": str(run)})
    inputs = distsgd.Classifier.load(run).inputs
    assert inputs is not None
    X = inputs.matrix(pq.read_table(location, columns=[column.name for column in inputs.columns]).slice(0, 5000))
    assert_agreement(form, run, X, own_folder)


def assert_agreement(form: str, run: Path, X: np.ndarray, folder: Path) -> None:
    """Check that a format and the model itself agree on images (n, D), and refuse rows that lack a pixel."""
    path, model = exported(run, form, folder), distsgd.Classifier.load(run)
    for kind, convert in ODD.items():
        predicted, probabilities = RUN[form](path, convert(X))
        np.testing.assert_allclose(probabilities, model.predict_proba(convert(X)), atol=1e-5, err_msg=kind)
        np.testing.assert_array_equal(predicted, model.predict(convert(X)), err_msg=kind)
    with pytest.raises(Exception, match=LACKING[form].format(X.shape[1], X.shape[1] - 1)):
        RUN[form](path, X[:2, :-1])


@pytest.mark.parametrize("form", ["onnx", "sklearn"])
@pytest.mark.parametrize("name", ["mixed", "binary"])
def test_columns_of_several_kinds_are_encoded_within(form, name, runs, own_folder):
    frame = table().to_pandas().drop(columns="label")
    frame["code"] = frame["code"].astype(np.int64)
    frame.loc[3, "color"] = "a color that no training row has"
    path, model = exported(runs[name], form, own_folder), distsgd.Classifier.load(runs[name])
    for rows in (frame, frame[:1], frame[frame.columns[::-1]]):
        predicted, probabilities = RUN[form](path, rows)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of the unknown color
            np.testing.assert_allclose(probabilities, model.predict_proba(rows), atol=1e-5)
            np.testing.assert_array_equal(predicted, model.predict(rows))


@pytest.mark.parametrize("form", ["onnx", "sklearn"])
def test_missing_numbers_are_filled_within(form, runs, own_folder):
    frame = numbers().to_pandas()[["a", "b"]]
    path, model = exported(runs["numbers"], form, own_folder), distsgd.Classifier.load(runs["numbers"])
    predicted, probabilities = RUN[form](path, frame)
    np.testing.assert_allclose(probabilities, model.predict_proba(frame), atol=1e-5)
    np.testing.assert_array_equal(predicted, model.predict(frame))


def test_a_missing_column_is_a_clear_error(runs, own_folder):
    import onnxruntime
    import skops.io

    frame = table().to_pandas().drop(columns="label")
    pipeline = skops.io.load(exported(runs["mixed"], "sklearn", own_folder))
    with pytest.raises(ValueError, match=r"columns are missing: \{'size'\}"):
        pipeline.predict(frame.drop(columns="size"))
    session = onnxruntime.InferenceSession(exported(runs["mixed"], "onnx", own_folder))
    with pytest.raises(ValueError, match=r"size"):
        session.run(None, {"color": np.array([["red"]], object)})
    session = onnxruntime.InferenceSession(exported(runs["digits"], "onnx", own_folder))
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument, match="Expected: 64"):
        session.run(None, {"X": np.zeros((2, 63), np.float32)})


def test_the_scikit_learn_model_is_one_that_can_be_cloned_and_trained_further(runs, own_folder):
    import skops.io
    from sklearn.base import clone
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    pipeline = skops.io.load(exported(runs["digits"], "sklearn", own_folder))
    net = pipeline.named_steps["net"]
    assert type(net) is MLPClassifier
    X, y = load_digits(return_X_y=True)
    before = net.loss_
    scaled = pipeline.named_steps["scale"].transform(X)
    for _ in range(3):
        net.partial_fit(scaled, y)
    assert net.loss_ < before
    clone(pipeline).set_params(net__max_iter=1000, net__tol=1.0).fit(X[:50], y[:50])


def test_the_graph_says_what_it_is(runs, own_folder):
    import onnx

    model = onnx.load(exported(runs["mixed"], "onnx", own_folder))
    about = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert about["classes"] == ["no", "perhaps", "yes"]
    assert about["features"][:4] == ["size", "color=bläu", "color=green", "color=red"]
    assert [i.name for i in model.graph.input] == ["size", "color", "small", "code", "flag"]
    assert [o.name for o in model.graph.output] == ["label", "probabilities"]


def test_npz_carries_the_version_of_its_format(runs, own_folder):
    with np.load(exported(runs["mixed"], "npz", own_folder), allow_pickle=False) as arrays:
        assert int(arrays["format_version"]) >= 2


def test_a_flipped_bit_of_a_safetensors_file_is_found_by_its_checksum(runs, own_folder):
    from safetensors import safe_open
    from safetensors.numpy import load_file

    from distsgd.export.safetensors_file import arrays_sha256

    path = exported(runs["digits"], "safetensors", own_folder)
    with safe_open(path, "np") as file:
        expected = file.metadata()["sha256"]
    assert arrays_sha256(load_file(path)) == expected
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert arrays_sha256(load_file(path)) != expected


def test_a_model_that_would_predict_otherwise_is_not_written(runs, own_folder, monkeypatch):
    predictor = distsgd.Classifier.load(runs["digits"]).predictor
    real = Predictor.predict_both

    def wrong(self: Predictor, X: Any) -> tuple[np.ndarray, np.ndarray]:
        predicted, probabilities = real(self, X)
        return predicted, probabilities + np.float32(2e-5)

    monkeypatch.setattr(Predictor, "predict_both", wrong)
    for form in ("onnx", "sklearn"):
        path = own_folder / f"model.{SUFFIX[form]}"
        with pytest.raises(ExportError, match="not written"):
            formats.export(predictor, form, path)
        assert not path.exists()


@pytest.mark.parametrize(("form", "package"), [("onnx", "onnxruntime"), ("safetensors", "safetensors")])
def test_a_package_that_is_not_installed_is_named_with_the_command(form, package, runs, own_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(checking.importlib.util, "find_spec", lambda name: None if name == package else name)
    found = invoke("export", str(runs["digits"]), "--format", form, "--out", f"m.{SUFFIX[form]}")
    assert found.code == 2
    assert f"needs the package {package}, which is not installed: pip install 'distsgd[export]'" in found.err


def test_hashed_categories_are_refused(own_folder):
    rows = pa.table({"a": [f"text {i}" for i in range(60)], "b": range(60), "label": [0, 1] * 30})
    pq.write_table(rows, "rows.parquet")
    values = {"data.train": "rows.parquet", "data.categorical": "hash", "data.max_categories": 8, "run.dir": "run"}
    distsgd.train(QUICK | values)
    predictor = distsgd.Classifier.load("run").predictor
    for form in ("onnx", "sklearn"):
        with pytest.raises(ConfigError, match=r"cannot express hashed categories \(column 'a'\)"):
            formats.export(predictor, form, Path(f"m.{SUFFIX[form]}"))
    formats.export(predictor, "npz", Path("m.npz"))
    frame = pd.DataFrame({"a": ["text 3"], "b": [1]})
    np.testing.assert_array_equal(run_npz(Path("m.npz"), frame)[1], predictor.predict_proba(frame))


@pytest.mark.parametrize(
    ("out", "expected"),
    [("m.pkl", "ends in .onnx for --format onnx"), ("no/m.onnx", "which is no folder"), ("d.onnx", "is a folder")],
)
def test_a_place_that_cannot_be_written_is_refused(out, expected, runs, own_folder):
    Path("d.onnx").mkdir()
    found = invoke("export", str(runs["digits"]), "--format", "onnx", "--out", out)
    assert found.code == 2
    assert expected in found.err


def test_the_command_knows_the_formats():
    from distsgd.cli.export import FORMATS

    assert tuple(formats.FORMATS) == FORMATS
