"""What MLflow is told of a run besides its journal and its result.

It is kept in the run directory, so that all of it can be told later, by another process, as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np

from distsgd.data import DataSet
from distsgd.engine.spec import RunSpec
from distsgd.errors import RunDirectoryError
from distsgd.rundir.directory import RunDirectory
from distsgd.tracking.uri import absolute, holds_password
from distsgd.version import __version__

NAME = "tracking.json"
"""The file in the run directory."""

ID_FILE = "mlflow.json"
"""The file in the run directory that names its MLflow run, once there is one."""

RUN_KEY_TAG = "distsgd.run_key"
"""Tag by which a run is found in the store if its id was not written down before a crash."""

EXAMPLE_ROWS = 3
"""Training rows in the logged model's input example."""


def describe(spec: RunSpec, directory: RunDirectory, uri: str | None) -> dict[str, Any]:
    """Return the content of `tracking.json`; a tracking URI with a password in it is not written down."""
    config, data = spec.config, spec.data
    return {
        "uri": None if uri is None or holds_password(uri) else absolute(uri),
        "experiment": config.tracking.experiment,
        "name": directory.path.resolve().name,
        "began_ms": time.time_ns() // 1_000_000,
        "parameters": {key: _text(value) for key, value in config.parameters().items()},
        "tags": {RUN_KEY_TAG: directory.run_key, "distsgd.version": __version__, "data_digest": data.digest}
        | _origin(),
        "datasets": _datasets(spec),
        "model": _model_input(data),
    }


def read(path: Path) -> dict[str, Any]:
    """Return what `tracking.json` in a run directory holds; RunDirectoryError if there is none that can be read."""
    try:
        content = json.loads((path / NAME).read_bytes())
        return dict(content)
    except (OSError, ValueError, TypeError) as error:
        raise RunDirectoryError(
            f"the run in {str(path)!r} has no {NAME} that can be read ({error}), so MLflow cannot be told of it; "
            "go on with the run with --resume, which writes it"
        ) from None


def read_id(path: Path) -> dict[str, str]:
    """Return `run_id`, `experiment_id` and `uri` of a run directory's MLflow run; nothing if there is none yet."""
    try:
        return dict(json.loads((path / ID_FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _origin() -> dict[str, str]:
    """Return tags for the commit of the current folder's repository and the Ray job, as far as there are such."""
    tags = {}
    try:
        command = ["git", "rev-parse", "--verify", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
        if done.returncode == 0:
            tags["mlflow.source.git.commit"] = done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass  # no git is no commit
    job = os.environ.get("RAY_JOB_SUBMISSION_ID") or os.environ.get("RAY_JOB_ID")
    return tags | ({"ray_job_id": job} if job else {})


def _datasets(spec: RunSpec) -> list[dict[str, Any]]:
    """Return training rows and held-out rows as MLflow's datasets are described; the digest is of both together."""
    data, config = spec.data, spec.config.data
    found = [("training", data.source, len(data.train))]
    if data.val is not None:
        found.append(("validation", config.val or data.source, len(data.val)))
    return [
        {
            "context": context,
            "name": f"{Path(source.rstrip('/*')).name or source} ({context})",
            "source": str(Path(source).resolve()) if Path(source).exists() else source,
            "digest": data.digest[:32],
            "rows": rows,
            "schema": _schema(data),
        }
        for context, source, rows in found
    ]


def _schema(data: DataSet) -> dict[str, Any]:
    """Return the rows' columns in MLflow's notation for data sets."""
    schema = data.schema
    label = {"name": schema.label, "type": "string" if schema.label_kind == "string" else "long", "required": True}
    if schema.width is None:
        columns = [
            {"name": name, "type": _column_type(kind), "required": True}
            for name, kind in zip(schema.columns, schema.types, strict=True)
        ]
        return {"mlflow_colspec": [*columns, label]}
    spec = {"type": "tensor", "tensor-spec": {"dtype": schema.types[0], "shape": [-1, schema.width]}}
    target = {"type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1]}}
    return {"mlflow_tensorspec": {"features": json.dumps([spec]), "targets": json.dumps([target])}}


def _column_type(kind: str) -> str:
    return {"b": "boolean", "i": "long", "u": "long", "f": "double"}[np.dtype(kind).kind]


def _model_input(data: DataSet) -> dict[str, Any]:
    """Return the features that the model takes, with a few training rows as they were in the files."""
    count = min(EXAMPLE_ROWS, len(data.train))
    X = np.empty((count, data.train.features), data.train.dtype)
    data.train.gather(np.arange(count), X, np.empty(count, np.int64))
    if X.dtype.kind == "f":  # it was normalised when it was read; undone, it is right to float32's precision
        X = (X.astype(np.float64) / data.normalization.scale + data.normalization.shift).astype(np.float32)
    types = data.schema.feature_types
    columns = [X[:, i].round().astype(t) if t.kind in "biu" else X[:, i] for i, t in enumerate(types)]
    return {
        "columns": None if data.schema.width is not None else list(data.feature_names),
        "booleans": [name for name, t in zip(data.feature_names, types, strict=True) if t.kind == "b"],
        "dtype": data.schema.types[0],
        "example": [list(row) for row in zip(*(column.tolist() for column in columns), strict=True)],
        "classes": "string" if data.classes.dtype.kind == "U" else "long",
    }
