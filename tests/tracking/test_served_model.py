"""The logged model takes what the classifier takes, in any order: directly and over REST, type by type, alike."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tracking_helpers import only_run, train

from distsgd.core.inputs import Column, Inputs
from distsgd.core.net import Net
from distsgd.data import Normalization
from distsgd.errors import DataError
from distsgd.rundir.classifier import Classifier
from distsgd.tracking import description
from distsgd.tracking.description import ModelDescription
from distsgd.tracking.quiet import quiet_mlflow

with quiet_mlflow():
    import mlflow.pyfunc
    from mlflow.entities import LoggedModel, LoggedModelStatus
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc.scoring_server import invocations

DATA_FILES = Path(__file__).parent.parent / "data_files"

TYPES = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64", "bool"]
"""The types of numbers that files can have; each is a column of the model's, by that name."""

NULLABLE = dict(
    zip(
        TYPES,
        ["Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float32", "Float64", "boolean"],
        strict=True,
    )
)
"""pandas' type for each of them that can hold a missing value."""

COLUMNS = (
    *(Column(name=name, kind="boolean" if name == "bool" else "number", dtype=name) for name in TYPES),
    Column(name="color", kind="category", dtype="str", categories=("blue", "green", "red")),
    Column(name="code", kind="category", dtype="int64", categories=(-5, 2, 7)),
    Column(name="city", kind="hash", dtype="str", width=4),
)


def some_frame(rows: int = 60) -> pd.DataFrame:
    """Return rows of all types."""
    rng = np.random.default_rng(4)
    frame = pd.DataFrame({name: (rng.random(rows) * (2 if name == "bool" else 90)).astype(name) for name in TYPES})
    frame["color"] = rng.choice(["blue", "green", "red"], rows)
    frame["code"] = rng.choice([-5, 2, 7], rows)
    frame["city"] = rng.choice(["Ulm", "Köln", "Rome", "Oslo", "Bonn"], rows)
    return frame


def a_model(inputs: Inputs) -> Classifier:
    net, rng = Net(inputs.features, 6, 3), np.random.default_rng(2)
    shift, scale = rng.normal(20, 9, inputs.features), rng.random(inputs.features) / 20
    classes = np.array(["ant", "bee", "cow"])
    flat = rng.normal(size=net.size).astype(np.float32)
    return Classifier(net=net, flat=flat, classes=classes, normalization=Normalization(shift, scale), inputs=inputs)


def logged(folder: Path, model: Classifier, example: list[list[Any]]) -> mlflow.pyfunc.PyFuncModel:
    """Return a model as MLflow loads it, from what a run would log."""
    assert model.inputs is not None
    model.save(folder / "model.npz")
    about = ModelDescription(classes="string", example=example, inputs=model.inputs.to_json())
    return saved(folder, folder / "model.npz", asdict(about))


def saved(folder: Path, npz: Path, about: dict[str, Any]) -> mlflow.pyfunc.PyFuncModel:
    """Return a model file as MLflow loads it, from what `tracking.json` says about it."""
    from distsgd.tracking.model import save

    entity = LoggedModel(
        experiment_id="1", model_id="m-1", name="model", artifact_location=str(folder), creation_timestamp=0,
        last_updated_timestamp=0, status=LoggedModelStatus.PENDING,
    )  # fmt: skip
    save(folder / "logged", npz, about, logged=entity)
    return mlflow.pyfunc.load_model(str(folder / "logged"))


@pytest.fixture(scope="module")
def model():
    return a_model(Inputs(COLUMNS))


@pytest.fixture(scope="module")
def pyfunc(model, tmp_path_factory):
    return logged(tmp_path_factory.mktemp("served"), model, [])


def rest(pyfunc: mlflow.pyfunc.PyFuncModel, body: Any, kind: str = "application/json", **params: str) -> Any:
    """Return what the scoring server answers; MlflowException, with which it answers 400, if it refuses."""
    if kind == "application/json":
        body = json.dumps(body | ({"params": params} if params else {}))
    return json.loads(invocations(body, kind, pyfunc, pyfunc.metadata.get_input_schema()).response)["predictions"]


def split(frame: pd.DataFrame) -> dict[str, Any]:
    """Return a frame as JSON has it, missing values as null."""
    rows = [[None if pd.isna(v) else v.item() if isinstance(v, np.generic) else v for v in row] for row in frame.values]
    return {"dataframe_split": {"columns": list(frame.columns), "data": rows}}


def shuffled(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[np.random.default_rng(0).permutation(list(frame.columns)).tolist()]


def assert_alike(
    model: Classifier, pyfunc: mlflow.pyfunc.PyFuncModel, frame: pd.DataFrame, expected: list[str]
) -> None:
    """Check that the classifier, the pyfunc and REST predict the same, whatever the order of the columns."""
    for rows in (frame, shuffled(frame), frame.sample(frac=1, random_state=3).sort_index(ascending=False)):
        wanted = [expected[number] for number in rows.index]
        assert model.predict(rows).tolist() == wanted
        assert pyfunc.predict(rows).tolist() == wanted
        assert rest(pyfunc, split(rows)) == wanted


def test_a_frame_of_all_types_is_predicted_alike_everywhere(model, pyfunc):
    frame = some_frame()
    one_hot = np.concatenate([
        frame[TYPES].to_numpy(np.float64),
        *(frame[[c.name]].to_numpy() == np.array([c.categories]) for c in COLUMNS[11:13]),
        Inputs(COLUMNS[13:]).matrix(frame[["city"]]),
    ], axis=1)  # fmt: skip
    expected = model.predict(one_hot).tolist()
    assert len(set(expected)) > 1
    assert_alike(model, pyfunc, frame, expected)
    buffer = io.BytesIO()
    shuffled(frame).to_parquet(buffer)
    assert rest(pyfunc, buffer.getvalue(), "application/vnd.apache.parquet") == expected
    assert rest(pyfunc, shuffled(frame).to_csv(index=False), "text/csv") == expected
    records = json.loads(
        json.dumps([dict(zip(frame.columns, row, strict=True)) for row in split(frame)["dataframe_split"]["data"]])
    )
    assert rest(pyfunc, {"dataframe_records": records}) == expected
    assert rest(pyfunc, {"inputs": {name: [row[name] for row in records] for name in frame}}) == expected
    assert rest(pyfunc, {"instances": records}) == expected


@pytest.mark.parametrize("kind", ["nullable", "Arrow", "object", "category", "string", "wider", "float64"])
def test_each_way_in_which_pandas_can_hold_the_columns_is_predicted_alike(model, pyfunc, kind):
    frame = some_frame()
    words = ["color", "city"]
    expected = model.predict(frame).tolist()
    changed = {
        "nullable": lambda: frame.astype(NULLABLE),
        "Arrow": lambda: frame.convert_dtypes(dtype_backend="pyarrow"),
        "object": lambda: frame.astype(object),
        "category": lambda: frame.astype(dict.fromkeys([*words, "code"], "category")),
        "string": lambda: frame.astype(dict.fromkeys(words, "string")),
        "wider": lambda: frame.astype({name: "int64" for name in TYPES if "int" in name and name != "uint64"}),
        "float64": lambda: frame.astype(dict.fromkeys([*TYPES[:-1], "code"], "float64")),
    }[kind]()
    assert_alike(model, pyfunc, changed, expected)


@pytest.mark.parametrize("name", [column.name for column in COLUMNS])
def test_a_missing_value_is_refused_alike_everywhere(model, pyfunc, name):
    frame = some_frame(5)
    frame = frame.astype({name: NULLABLE.get(name, object)})
    frame.loc[3, name] = None
    words = f"column '{name}': no value in row 3, counted from 0"
    with pytest.raises(DataError, match=words):
        model.predict(frame)
    with pytest.raises(ValueError, match=words):
        pyfunc.predict(frame)
    with pytest.raises(MlflowException) as caught:
        rest(pyfunc, split(frame))
    assert words in caught.value.serialize_as_json()


@pytest.mark.parametrize("name", TYPES)
def test_a_missing_number_is_filled_alike_everywhere(tmp_path, name):
    column = Column(name=name, kind="boolean" if name == "bool" else "number", dtype=name, fill=0.5)
    model = a_model(Inputs((column, Column(name="x", kind="number", dtype="float64"))))
    pyfunc = logged(tmp_path, model, [])
    frame = some_frame(9)[[name]].assign(x=np.arange(9.0)).astype({name: NULLABLE[name]})
    frame.loc[3, name] = None
    plain = frame.astype("float64").fillna(0.5).to_numpy()
    assert_alike(model, pyfunc, frame, model.predict(plain).tolist())


def test_a_column_that_is_missing_is_named_and_others_are_ignored_everywhere(model, pyfunc):
    frame = some_frame(5)
    for call in (model.predict, pyfunc.predict):
        with pytest.raises((DataError, ValueError), match=r"no column 'color' \(did you mean 'colour'\?\)"):
            call(frame.rename(columns={"color": "colour"}))
    with pytest.raises(MlflowException) as caught:
        rest(pyfunc, split(frame.drop(columns="color")))
    assert "no column 'color'" in caught.value.serialize_as_json()
    with pytest.warns(UserWarning, match="are ignored: 'label'"):
        assert pyfunc.predict(frame.assign(label=1)).tolist() == model.predict(frame).tolist()


def test_probabilities_are_asked_for_by_a_parameter(model, pyfunc):
    frame, expected = some_frame(), model.predict_proba(some_frame())
    assert np.array_equal(pyfunc.predict(frame, params={"predict_method": "predict_proba"}), expected)
    assert np.array_equal(rest(pyfunc, split(frame), predict_method="predict_proba"), expected)
    assert pyfunc.predict(frame, params={"predict_method": "predict"}).tolist() == model.predict(frame).tolist()
    with pytest.raises(ValueError, match=r"predict_method is 'score'; expected 'predict' or 'predict_proba'"):
        pyfunc.predict(frame, params={"predict_method": "score"})


def test_the_signature_has_the_parameter_and_the_metadata_the_columns(model, pyfunc):
    signature = pyfunc.metadata.signature
    assert [(p.name, p.default) for p in signature.params.params] == [("predict_method", "predict")]
    assert signature.outputs.to_dict() == [{"type": "string", "required": True}]
    assert Inputs.from_json(pyfunc.metadata.metadata["columns"]) == model.inputs


def test_a_list_column_takes_an_array_of_any_type_lists_and_columns_that_only_count(tmp_path):
    model = a_model(Inputs((Column(name="pixels", kind="list", dtype="uint8", width=4),)))
    X = np.random.default_rng(1).integers(0, 99, (7, 4)).astype(np.uint8)
    pyfunc = logged(tmp_path, model, [[row.tolist()] for row in X[:3]])
    expected = model.predict(X).tolist()
    assert pyfunc.input_example.tolist() == X[:3].tolist()
    lists = pd.DataFrame({"pixels": X.tolist()})
    for rows in (X, X.astype(float), X.astype(np.int64), lists, pd.DataFrame(X), pd.DataFrame({"pixels": list(X)})):
        assert model.predict(rows).tolist() == pyfunc.predict(rows).tolist() == expected
    assert rest(pyfunc, {"inputs": X.tolist()}) == expected
    assert rest(pyfunc, {"instances": X.tolist()}) == expected
    assert rest(pyfunc, {"dataframe_split": {"columns": ["pixels"], "data": [[row] for row in X.tolist()]}}) == expected
    assert rest(pyfunc, split(pd.DataFrame(X))) == expected


@pytest.mark.timeout(110)
def test_a_run_logs_a_model_that_takes_the_frame_that_it_was_trained_on(tmp_path, empty_store):
    frame = some_frame(200)[TYPES]
    frame.assign(label=np.where(frame["float64"] > 45, "old", "young")).to_parquet("rows.parquet")
    result = train(tmp_path / "run", empty_store, data__train="rows.parquet")
    (output,) = only_run(empty_store).outputs.model_outputs
    mlflow.set_tracking_uri(empty_store)
    pyfunc = mlflow.pyfunc.load_model(f"models:/{output.model_id}")
    again = pd.read_parquet("rows.parquet").drop(columns="label")
    assert again.dtypes.tolist() == frame.dtypes.tolist()
    expected = result.model.predict(frame.to_numpy(np.float64)).tolist()
    assert len(set(expected)) == 2
    assert_alike(result.model, pyfunc, again, expected)
    assert_alike(Classifier.load(tmp_path / "run"), pyfunc, again, expected)
    example = pyfunc.input_example
    assert example.columns.tolist() == TYPES
    assert pyfunc.predict(example).tolist() == expected[:0] + result.model.predict(example).tolist()


def test_a_model_of_0_1_0_which_does_not_know_its_columns_leaves_their_order_to_mlflow(tmp_path):
    """As it is sent by `distsgd sync`; its run is kept from that version."""
    about = description.read(DATA_FILES / "run_of_0_1_0").model
    with np.load(DATA_FILES / "run_of_0_1_0_rows.npz") as kept:
        X = kept["X"]
    named = replace(about, columns=["a", "b", "c"], dtype="float64", example=X[:2].tolist())
    pyfunc = saved(tmp_path, DATA_FILES / "model_of_0_1_0.npz", asdict(named))
    expected = Classifier.load(DATA_FILES / "model_of_0_1_0.npz").predict(X).tolist()
    frame = pd.DataFrame(X.astype(np.float64), columns=["a", "b", "c"])
    assert pyfunc.predict(frame).tolist() == pyfunc.predict(frame[["c", "a", "b"]]).tolist() == expected
    (tmp_path / "array").mkdir()
    pyfunc = saved(tmp_path / "array", DATA_FILES / "model_of_0_1_0.npz", asdict(about))
    assert pyfunc.predict(X.astype(about.dtype)).tolist() == expected


@pytest.mark.slow
@pytest.mark.timeout(110)
def test_mlflow_serves_it(tmp_path, model):
    logged(tmp_path, model, [])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(tmp_path / "logged"),
               "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"  # where mlflow finds uvicorn
    with open(tmp_path / "server.log", "wb") as log:
        server = subprocess.Popen(
            command, cwd=tmp_path, env=environment, start_new_session=True, stdout=log, stderr=log
        )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"{url}/ping", timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                assert server.poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(0.2)
        frame = shuffled(some_frame())
        request = urllib.request.Request(
            f"{url}/invocations", json.dumps(split(frame)).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert json.load(answer)["predictions"] == model.predict(frame).tolist()
        request.data = json.dumps(split(frame.drop(columns="city"))).encode()
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=30)
        with caught.value as refused:
            assert refused.code == 400
            assert "no column 'city'" in refused.read().decode()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
