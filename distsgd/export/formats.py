"""The formats that models are exported to: one entry each."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

from distsgd.core.predictor import Predictor
from distsgd.errors import ConfigError


@dataclass(frozen=True)
class Format:
    """A format; its module has a function `write(predictor, path)`, which returns the largest difference found."""

    module: str
    suffix: str
    """How names of its files end."""


FORMATS = {
    "onnx": Format("distsgd.export.onnx_file", ".onnx"),
    "safetensors": Format("distsgd.export.safetensors_file", ".safetensors"),
    "sklearn": Format("distsgd.export.sklearn_pipeline", ".skops"),
    "npz": Format("distsgd.export.npz_file", ".npz"),
}


def export(predictor: Predictor, name: str, path: Path) -> float:
    """Write a model to a file of the format `name`, and return the largest difference of its outputs from the model's.

    ConfigError if the file cannot be written there, or the format cannot express the model; ExportError if the file
    would not predict the same.
    """
    form = FORMATS[name]
    if path.suffix.lower() != form.suffix:
        raise ConfigError(f"--out is {str(path)!r}; expected a name that ends in {form.suffix} for --format {name}")
    if path.is_dir() or not path.parent.is_dir():
        problem = "is a folder" if path.is_dir() else f"is in {str(path.parent)!r}, which is no folder"
        raise ConfigError(f"--out is {str(path)!r}, which {problem}; give the name of a file in a folder that exists")
    try:
        difference: float = importlib.import_module(form.module).write(predictor, path)
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be written: {error.strerror or error}; give another place") from None
    return difference
