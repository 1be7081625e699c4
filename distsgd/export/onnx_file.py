"""Models as ONNX files, each compared with the model through onnxruntime before it is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distsgd.core.predictor import Predictor
from distsgd.export.checking import Rows, check, refuse_hashes, require
from distsgd.system.files import write_atomically

FORMAT = "onnx"


def write(predictor: Predictor, path: Path) -> float:
    """Write a model as an ONNX file and return how much its outputs differ; see onnx_graph for its inputs and outputs.

    ConfigError if onnx or onnxruntime is not installed, or the model has hashed categories; ExportError if the file's
    outputs are not those of the model.
    """
    require(FORMAT, "onnx", "onnxruntime")
    refuse_hashes("ONNX", () if predictor.inputs is None else predictor.inputs.columns)
    from distsgd.export.onnx_graph import build

    content = build(predictor).SerializeToString()
    session = _session(content)
    difference = check(predictor, "ONNX", lambda rows: _run(session, rows))
    write_atomically(path, content)
    return difference


def _session(content: bytes) -> Any:
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)  # errors: it warns where there is no GPU
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def _run(session: Any, rows: Rows) -> tuple[Any, Any]:
    """Return the predictions and the last output for rows, as the types and shapes that the inputs have."""
    kinds: dict[str, Any] = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64}
    kinds |= {"tensor(bool)": np.bool_, "tensor(string)": np.object_}
    inputs = session.get_inputs()
    named = rows if isinstance(rows, Mapping) else {inputs[0].name: rows}
    fed = {i.name: named[i.name].astype(kinds[i.type]).reshape(len(named[i.name]), -1) for i in inputs}
    outputs = session.run(None, fed)
    return outputs[0], outputs[-1]
