"""What is logged to MLflow about a run, apart from its journal and its result.

It is stored in the run directory as `tracking.json`, so that it can also be sent later, by another process.
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from distsgd.data import DataSet
from distsgd.engine.spec import RunSpec
from distsgd.errors import RunDirectoryError
from distsgd.rundir.directory import RunDirectory
from distsgd.system.files import read_file
from distsgd.system.secrets import redacted
from distsgd.tracking import naming, nesting, note
from distsgd.tracking.example import rows_as_in_files
from distsgd.tracking.source import source_tags
from distsgd.tracking.uri import absolute, link_uri
from distsgd.version import __version__

FILE = "tracking.json"
"""The file in the run directory."""

RUN_KEY_TAG = "distsgd.run_key"
"""Tag by which a run is found in the store if its ID was not saved before a crash."""

EXAMPLE_ROWS = 3
"""Training rows in the logged model's input example."""

MAX_TAG_LENGTH = 2_000
"""Characters of the tags that describe the columns and hold the command; MLflow allows 8,000."""

MAX_SCHEMA_LENGTH = 1_048_575
"""Characters that MLflow allows for a dataset's schema."""


@dataclass(frozen=True)
class DatasetDescription:
    """Training rows or held-out rows, as an MLflow dataset."""

    context: str
    """What they are used for: `training` or `validation`."""
    name: str
    source: str
    digest: str
    """Of training rows and held-out rows together."""
    rows: int
    schema: dict[str, Any]
    """The columns, in MLflow's notation."""


@dataclass(frozen=True)
class ModelDescription:
    """The inputs and outputs of the trained model."""

    classes: str
    """MLflow's type of the predictions: `long` or `string`, `float` for numbers."""
    example: list[list[Any]]
    """A few training rows as they were in the files: a value for each column; none if a column was hashed."""
    inputs: str | None = None
    """The columns, as `Inputs.to_json` describes them; None in runs of version 0.1.0, which have what follows."""
    columns: list[str] | None = None
    """Names of the feature columns; None if the features are one array, whose elements are the example's values."""
    booleans: list[str] = field(default_factory=list)
    """Names of the boolean columns."""
    width: int | None = None
    """Number of labels or numbers in a prediction; None if it is a single value."""
    dtype: str = "float64"
    """NumPy type of the array, or of the first column."""


@dataclass(frozen=True)
class RunDescription:
    """The content of `tracking.json`."""

    uri: str | None
    """The store's, without secrets; None if the run was not tracked."""
    experiment: str
    name: str
    began_ms: int
    """When the run began, in milliseconds since 1970."""
    parameters: dict[str, str]
    """Those that differ from the defaults or were decided, by dotted key; version 0.1 logged all of them, and without a
    section, such as `lr` for `optim.lr`."""
    tags: dict[str, str]
    datasets: list[DatasetDescription]
    model: ModelDescription
    note: str = ""
    """What is trained, in Markdown; runs of version 0.1 have none."""
    enclosing: str | None = None
    """The ID of the MLflow run that was active when the run began."""
    parent: str | None = None
    """`tracking.parent`."""
    link_uri: str | None = None
    """The address at which people open the store's pages, if it is another one."""

    def __post_init__(self) -> None:
        if RUN_KEY_TAG not in self.tags:
            raise ValueError(f"tags have no {RUN_KEY_TAG!r}")

    @property
    def run_key(self) -> str:
        """The run's key, which is unique and the same after every resumption."""
        return self.tags[RUN_KEY_TAG]

    def to_json(self) -> dict[str, Any]:
        """Return the content of `tracking.json`; bytes in paths that are not UTF-8 are replaced."""
        text = json.dumps(dataclasses.asdict(self), ensure_ascii=False)
        valid: dict[str, Any] = json.loads(text.encode("utf-8", "surrogatepass").decode("utf-8", "replace"))
        return valid


def describe(spec: RunSpec, directory: RunDirectory, uri: str | None) -> RunDescription:
    """Return the description of a run that is tracked in the store at `uri`."""
    config, data = spec.config, spec.data
    return RunDescription(
        uri=None if uri is None else absolute(redacted(uri)),
        experiment=config.tracking.experiment,
        name=naming.run_name(config, directory.path.resolve().name),
        began_ms=time.time_ns() // 1_000_000,
        parameters=naming.parameters(config),
        tags={
            RUN_KEY_TAG: directory.run_key,
            "distsgd.version": __version__,
            "distsgd.run_dir": str(directory.path.resolve()),
            "data_digest": data.digest,
            "data.columns": data.description[:MAX_TAG_LENGTH],
            "distsgd.command": naming.command(config)[:MAX_TAG_LENGTH],
        }
        | source_tags(),
        datasets=_datasets(spec),
        model=_model(data),
        note=note.opening(spec),
        enclosing=_enclosing_run(directory.path),
        parent=config.tracking.parent,
        link_uri=link_uri(config.tracking, uri),
    )


def _enclosing_run(path: Path) -> str | None:
    """Return the MLflow run that a run was started in; it stays the same when the run is resumed elsewhere."""
    try:
        began_in = read(path).enclosing
    except RunDirectoryError:  # a new run
        began_in = None
    return began_in or nesting.enclosing_run()


def read(path: Path) -> RunDescription:
    """Return what `tracking.json` in a run directory holds; RunDirectoryError if there is none that can be read."""
    try:
        return TypeAdapter(RunDescription).validate_json(read_file(path / FILE), strict=True)
    except (OSError, ValidationError) as error:
        raise RunDirectoryError(
            f"the run in {str(path)!r} has no {FILE} that can be read ({_reason(error)}), so it cannot be sent to "
            "MLflow: restore it from a backup, or resume a run that has not finished with --resume, which rewrites it"
        ) from None


def _reason(error: OSError | ValidationError) -> str:
    """Return a short description of the first thing that is wrong with the file."""
    if isinstance(error, OSError):
        return str(error.strerror)
    problem = error.errors()[0]
    where = ".".join(repr(part)[1:-1] if isinstance(part, str) else str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{where}: {message}" if where else message


def _datasets(spec: RunSpec) -> list[DatasetDescription]:
    data, config = spec.data, spec.config.data
    found = [("training", config.train, len(data.train))]
    if data.val is not None:
        found.append(("validation", config.val or config.train, len(data.val)))
    return [
        DatasetDescription(
            context=context,
            name=f"{Path(source.rstrip('/*')).name or source} ({context})",
            source=str(Path(source).resolve()) if Path(source).exists() else source,
            digest=data.digest[:32],
            rows=rows,
            schema=_schema(data),
        )
        for context, source, rows in found
    ]


def _schema(data: DataSet) -> dict[str, Any]:
    """Return the rows' columns in MLflow's notation for data sets."""
    schema = data.schema
    kind = {"string": "string", "numbers": "double"}.get(str(schema.label_kind), "long")
    labels = [{"name": name, "type": kind, "required": True} for name in schema.labels]
    inputs = data.inputs.columns
    if [column.kind for column in inputs] != ["list"]:
        columns = [{"name": c.name, "type": _column_type(c.dtype), "required": c.fill is None} for c in inputs]
        return {"mlflow_colspec": _that_fit(columns, labels)}
    spec = {"type": "tensor", "tensor-spec": {"dtype": inputs[0].dtype, "shape": [-1, inputs[0].width]}}
    dtype, shape = data.train.target
    target = {"type": "tensor", "tensor-spec": {"dtype": dtype.name, "shape": [-1, *shape]}}
    return {"mlflow_tensorspec": {"features": json.dumps([spec]), "targets": json.dumps([target])}}


def _that_fit(columns: list[dict[str, Any]], labels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the columns and the labels; columns that exceed MLflow's limit are replaced by their number."""
    room = MAX_SCHEMA_LENGTH - len(json.dumps({"mlflow_colspec": [*labels, _left_out(len(columns))]}))
    for kept, column in enumerate(columns):
        room -= len(json.dumps(column)) + len(", ")
        if room < 0:
            return [*columns[:kept], _left_out(len(columns) - kept), *labels]
    return [*columns, *labels]


def _left_out(count: int) -> dict[str, Any]:
    return {"name": f"({count:,} more columns, left out)", "type": "double", "required": False}


def _column_type(kind: str) -> str:
    return {"b": "boolean", "i": "long", "u": "long", "f": "double", "U": "string"}[np.dtype(kind).kind]


def _outputs(data: DataSet) -> str:
    if data.schema.label_kind in ("labels", "numbers"):
        return "long" if data.schema.label_kind == "labels" else "float"
    return "string" if data.classes.dtype.kind == "U" else "long"


def _model(data: DataSet) -> ModelDescription:
    return ModelDescription(
        classes=_outputs(data),
        width=len(data.classes) if data.train.target[1] and len(data.classes) > 1 else None,
        example=rows_as_in_files(data, EXAMPLE_ROWS),
        inputs=data.inputs.to_json(),
    )
