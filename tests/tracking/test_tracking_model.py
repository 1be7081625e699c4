"""The logged model: it predicts what the classifier does, on a machine with neither Ray nor distsgd."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from data_helpers import list_table, some_rows, wide_table
from tracking_helpers import only_run, train

from distsgd.core.pyfunc import _load_pyfunc
from distsgd.data import Normalization

PREDICT = """
import json, os, sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "distsgd"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Nothing())
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
import mlflow, numpy as np, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
answers = {"example": np.asarray(model.predict(model.input_example)).tolist()}
for name in sys.argv[3:]:
    rows = pd.read_pickle(name) if name.endswith(".pkl") else np.load(name)
    answers[name] = np.asarray(model.predict(rows)).tolist()
assert not {"ray", "distsgd"} & set(sys.modules)
print(json.dumps(answers))
"""


def predict_elsewhere(uri: str, *names: str) -> dict[str, list[object]]:
    """Return what the logged model predicts in another process, for its example and for files of features."""
    (output,) = only_run(uri).outputs.model_outputs
    arguments = [uri, f"models:/{output.model_id}", *names]
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, *arguments], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def signature(uri: str) -> dict[str, object]:
    (output,) = only_run(uri).outputs.model_outputs
    (path,) = Path.cwd().rglob(f"{output.model_id}/artifacts/MLmodel")
    from mlflow.models import Model

    found = Model.load(path).signature
    assert found.inputs is None  # MLflow's own check would refuse what the model takes
    return {"params": found.params.to_dict(), "outputs": found.outputs.to_dict()}


@pytest.mark.slow
def test_digits(tmp_path, empty_store):
    result = train(tmp_path / "run", empty_store)
    from sklearn.datasets import load_digits

    X = load_digits().data[:200].astype(np.uint8)
    np.save("X.npy", X)
    answers = predict_elsewhere(empty_store, "X.npy")
    assert answers["X.npy"] == result.model.predict(X).tolist()
    assert len(answers["example"]) == 3
    assert [column["type"] for column in signature(empty_store)["outputs"]] == ["long"]


@pytest.mark.slow
def test_columns_of_several_types_and_labels_that_are_words(tmp_path, empty_store):
    X, y = some_rows(300, width=4)
    words = np.array(["ant", "bee", "cat", "dog"])[y]
    frame = pd.DataFrame({"a": X[:, 0], "b": X[:, 1].astype(np.float32), "c": (X[:, 2] * 9).astype(np.int16)})
    frame["d"] = X[:, 3] > 3
    frame.assign(label=words).to_parquet("rows.parquet")
    result = train(tmp_path / "run", empty_store, data__train="rows.parquet")
    frame.to_pickle("same.pkl")
    frame[["d", "b", "c", "a"]].to_pickle("shuffled.pkl")
    answers = predict_elsewhere(empty_store, "same.pkl", "shuffled.pkl")
    expected = result.model.predict(frame.to_numpy(np.float64)).tolist()
    assert set(expected) <= set(words)
    assert len(set(expected)) > 1
    assert answers["same.pkl"] == answers["shuffled.pkl"] == expected
    assert [column["type"] for column in signature(empty_store)["outputs"]] == ["string"]


@pytest.mark.slow
def test_a_list_column(tmp_path, empty_store):
    X, y = some_rows(200, width=5, dtype="float64")
    pq.write_table(list_table(X, y), "rows.parquet")
    result = train(tmp_path / "run", empty_store, data__train="rows.parquet")
    np.save("X.npy", X)
    assert predict_elsewhere(empty_store, "X.npy")["X.npy"] == result.model.predict(X).tolist()


def test_the_input_example_is_made_of_training_rows(tmp_path, empty_store):
    X, y = some_rows(100, width=3, dtype="float32")
    pq.write_table(wide_table(X, y), "rows.parquet")
    train(tmp_path / "run", empty_store, data__train="rows.parquet")
    example = np.array(json.loads((tmp_path / "run" / "tracking.json").read_bytes())["model"]["example"])
    for row in example:
        assert np.isclose(X, row, rtol=1e-5, atol=1e-5).all(axis=1).any()


def copied_files(tmp_path: Path) -> list[Path]:
    from distsgd.tracking.model import copy_predictor

    return sorted(copy_predictor(tmp_path).glob("*.py"))


def test_what_is_copied_into_a_model_imports_numpy_and_itself_alone(tmp_path):
    files = copied_files(tmp_path)
    names = {file.stem for file in files}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1
                assert node.module in names, f"{file.stem} imports {node.module}, which is not copied"
            elif isinstance(node, ast.Import | ast.ImportFrom):
                found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)]
                assert {name.split(".")[0] for name in found} <= {"numpy", *sys.stdlib_module_names}, file.stem


ALONE = """
import json, sys
import numpy as np
from distsgd_predictor.pyfunc import _load_pyfunc
print(json.dumps(_load_pyfunc(sys.argv[1]).predict(np.load(sys.argv[2])).tolist()))
assert not {"distsgd", "ray", "mlflow", "pydantic", "pyarrow"} & set(sys.modules)
"""


def test_the_copied_package_predicts_by_itself(tmp_path):
    from distsgd.core.net import Net
    from distsgd.rundir.classifier import Classifier

    copied_files(tmp_path)
    net, rng = Net(4, 5, 3), np.random.default_rng(1)
    normalization = Normalization(rng.normal(size=4), rng.random(4) + 0.1)
    model = Classifier(net=net, flat=net.initial(3), classes=np.array(["x", "y", "zz"]), normalization=normalization)
    model.save(tmp_path / "model.npz")
    X = rng.normal(size=(1200, 4)) * 5
    np.save(tmp_path / "X.npy", X)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, "model.npz", "X.npy"],
        capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert json.loads(done.stdout) == model.predict(X).tolist()


def test_the_portable_classifier_computes_the_classifiers_bits(tmp_path):
    from distsgd.core.net import Net
    from distsgd.rundir.classifier import Classifier

    net, rng = Net(7, 5, 3), np.random.default_rng(1)
    normalization = Normalization(rng.normal(size=7), rng.random(7) + 0.1)
    classes = np.array(["x", "y", "zz"])
    model = Classifier(net=net, flat=net.initial(3), classes=classes, normalization=normalization)
    model.save(tmp_path / "model.npz")
    portable = _load_pyfunc(str(tmp_path / "model.npz"))
    X = rng.normal(size=(500, 7)) * 5
    assert (portable.predict(X) == model.predict(X)).all()
    with pytest.raises(ValueError, match=r"features have the shape \(3, 6\); this model takes \(n, 7\)"):
        portable.predict(X[:3, :6])
