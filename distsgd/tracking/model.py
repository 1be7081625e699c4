"""A trained model as an MLflow pyfunc: `model.npz` and distsgd_pyfunc.py, so that NumPy is all that it needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import mlflow.pyfunc
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from mlflow.entities import LoggedModel
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec

PREDICTOR = "distsgd_pyfunc"
"""The module that is copied into the model."""


def save(folder: Path, npz: Path, about: Mapping[str, Any], *, logged: LoggedModel) -> None:
    """Write the model as MLflow's folder; `about` is the "model" part of `tracking.json`."""
    example = _example(about)
    mlflow.pyfunc.save_model(
        folder,
        loader_module=PREDICTOR,
        data_path=str(npz),
        code_paths=[str(Path(__file__).with_name(f"{PREDICTOR}.py"))],
        mlflow_model=Model(
            artifact_path=logged.artifact_location,
            model_uuid=logged.model_id,
            model_id=logged.model_id,
            run_id=logged.source_run_id,
            signature=_signature(about),
        ),
        input_example=example,
        pip_requirements=[f"mlflow=={mlflow.__version__}", f"numpy=={np.__version__}"],
    )


def _example(about: Mapping[str, Any]) -> np.ndarray | pd.DataFrame:
    if about["columns"] is None:
        return np.array(about["example"], about["dtype"])
    frame = pd.DataFrame(np.array(about["example"], np.float64), columns=about["columns"])
    return frame.astype(dict.fromkeys(about["booleans"], bool))


def _signature(about: Mapping[str, Any]) -> ModelSignature:
    """Return what the model takes and gives; columns of numbers are doubles, to which MLflow converts other numbers."""
    if about["columns"] is None:
        shape = (-1, len(about["example"][0]))
        inputs = Schema([TensorSpec(np.dtype(about["dtype"]), shape)])
    else:
        booleans = set(about["booleans"])
        inputs = Schema([ColSpec("boolean" if name in booleans else "double", name) for name in about["columns"]])
    return ModelSignature(inputs=inputs, outputs=Schema([ColSpec(about["classes"])]))
