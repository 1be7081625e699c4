"""A trained model as an MLflow pyfunc: `model.npz` and a copy of the prediction code, which needs only NumPy."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import mlflow.pyfunc
import numpy as np
import pandas as pd
from mlflow.entities import LoggedModel
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

from distsgd import core
from distsgd.core.inputs import Inputs
from distsgd.core.pyfunc import METHOD, METHODS

PREDICTOR = "distsgd_predictor"
"""Name of the package of copied modules that is put into the model."""

METADATA = "columns"
"""Key of the columns' description in the metadata of the model."""

COPIED = (
    "activations",
    "backprop",
    "encoding",
    "frames",
    "inputs",
    "losses",
    "model_file",
    "names",
    "net",
    "npz",
    "predictor",
    "pyfunc",
    "scaling",
    "views",
    "workspace",
)
"""Modules of distsgd.core that the package consists of; they import NumPy and one another."""


def save(folder: Path, npz: Path, about: Mapping[str, Any], *, logged: LoggedModel) -> None:
    """Write the model as MLflow's folder; `about` is the "model" part of `tracking.json`.

    Its parent has to be a temporary folder: the prediction package is written there as well.
    """
    mlflow.pyfunc.save_model(
        folder,
        loader_module=f"{PREDICTOR}.pyfunc",
        data_path=str(npz),
        code_paths=[str(copy_predictor(folder.parent))],
        mlflow_model=Model(
            artifact_path=logged.artifact_location,
            model_uuid=logged.model_id,
            model_id=logged.model_id,
            run_id=logged.source_run_id,
            signature=_signature(about),
            metadata=None if about["inputs"] is None else {METADATA: about["inputs"]},
        ),
        input_example=_example(about),
        pip_requirements=[f"mlflow=={mlflow.__version__}", f"numpy=={np.__version__}"],
    )


def copy_predictor(folder: Path) -> Path:
    """Create the package that predicts without distsgd in `folder`, and return its path."""
    package = folder / PREDICTOR
    package.mkdir()
    (package / "__init__.py").write_text('"""A copy of what distsgd predicts with."""\n')
    for name in COPIED:
        shutil.copy(Path(core.__file__).with_name(f"{name}.py"), package)
    return package


def _example(about: Mapping[str, Any]) -> np.ndarray | pd.DataFrame | None:
    """Return rows that the model takes: an array if its only column is one of lists; None if there are no rows."""
    if about["inputs"] is None:
        return _example_of_0_1_0(about)
    columns = Inputs.from_json(about["inputs"]).columns
    if not about["example"]:
        return None
    if [column.kind for column in columns] == ["list"]:
        return np.array([values for (values,) in about["example"]], columns[0].dtype)
    frame = pd.DataFrame(about["example"], columns=[column.name for column in columns])
    return frame.astype({column.name: column.dtype for column in columns if column.kind in ("number", "boolean")})


def _signature(about: Mapping[str, Any]) -> ModelSignature:
    """Return the outputs and parameters.

    There are no inputs, because MLflow's own check would refuse what the model takes (integers where the training rows
    had a decimal point, categories, integers with missing values), and over REST cut 1.5 to 1 in a column of integers
    and turn null into false: the model checks its input itself, by name, with the same words everywhere.
    """
    outputs = Schema([ColSpec(about["classes"])])
    if about.get("width"):
        outputs = Schema(
            [TensorSpec(np.dtype({"long": "int64"}.get(about["classes"], "float32")), (-1, about["width"]))]
        )
    if about["inputs"] is None:
        return ModelSignature(inputs=_inputs_of_0_1_0(about), outputs=outputs)
    return ModelSignature(outputs=outputs, params=ParamSchema([ParamSpec(METHOD, DataType.string, METHODS[0])]))


def _example_of_0_1_0(about: Mapping[str, Any]) -> np.ndarray | pd.DataFrame:
    if about["columns"] is None:
        return np.array(about["example"], about["dtype"])
    frame = pd.DataFrame(np.array(about["example"], np.float64), columns=about["columns"])
    return frame.astype(dict.fromkeys(about["booleans"], bool))


def _inputs_of_0_1_0(about: Mapping[str, Any]) -> Schema:
    """Return the inputs of a model that does not know its columns: MLflow puts them into the right order."""
    if about["columns"] is None:
        shape = (-1, len(about["example"][0]))
        return Schema([TensorSpec(np.dtype(about["dtype"]), shape)])
    booleans = set(about["booleans"])
    return Schema([ColSpec("boolean" if name in booleans else "double", name) for name in about["columns"]])
