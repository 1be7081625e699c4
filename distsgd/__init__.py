"""Distributed mini-batch SGD for two-layer classifiers, with one answer to the last bit.

import distsgd

result = distsgd.train({"data.train": "rows.parquet", "optim.lr": 0.1})
result.model.predict(X)
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from distsgd.errors import DistsgdError

if TYPE_CHECKING:
    from distsgd.classifier import Classifier
    from distsgd.config import Config
    from distsgd.result import Result
    from distsgd.run import train

__all__ = ["Classifier", "Config", "DistsgdError", "Result", "train"]

try:
    __version__ = importlib.metadata.version("distsgd")
except importlib.metadata.PackageNotFoundError:  # run from a checkout, as a Ray job's working directory is
    __version__ = "0+unknown"

_HOMES = {"Classifier": "classifier", "Config": "config", "Result": "result", "train": "run"}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: `distsgd --help` needs none of it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'distsgd' has no attribute {name!r}")
    return getattr(importlib.import_module(f"distsgd.{_HOMES[name]}"), name)
