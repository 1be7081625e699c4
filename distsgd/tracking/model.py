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
from mlflow.types import ColSpec, Schema, TensorSpec

from distsgd import core

PREDICTOR = "distsgd_predictor"
"""Name of the package of copied modules that is put into the model."""

COPIED = (
    "activations",
    "backprop",
    "encoding",
    "frames",
    "inputs",
    "losses",
    "model_file",
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


def _example(about: Mapping[str, Any]) -> np.ndarray | pd.DataFrame:
    if about["columns"] is None:
        return np.array(about["example"], about["dtype"])
    frame = pd.DataFrame(np.array(about["example"], np.float64), columns=about["columns"])
    return frame.astype(dict.fromkeys(about["booleans"], bool))


def _signature(about: Mapping[str, Any]) -> ModelSignature:
    """Return the model's signature; numeric columns are doubles, to which MLflow converts other numbers."""
    if about["columns"] is None:
        shape = (-1, len(about["example"][0]))
        inputs = Schema([TensorSpec(np.dtype(about["dtype"]), shape)])
    else:
        booleans = set(about["booleans"])
        inputs = Schema([ColSpec("boolean" if name in booleans else "double", name) for name in about["columns"]])
    return ModelSignature(inputs=inputs, outputs=Schema([ColSpec(about["classes"])]))
