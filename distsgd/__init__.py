"""Distributed mini-batch SGD for two-layer classifiers, with one answer to the last bit.

import distsgd

result = distsgd.train({"data.train": "rows.parquet", "optim.lr": 0.1})
result.model.predict(X)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from distsgd.errors import DistsgdError
from distsgd.version import __version__

if TYPE_CHECKING:
    from distsgd.api import sweep, train
    from distsgd.cluster.connection import session
    from distsgd.config import Config
    from distsgd.rundir.classifier import Classifier
    from distsgd.rundir.result import Result
    from distsgd.sweeps.result import SweepResult

__all__ = ["Classifier", "Config", "DistsgdError", "Result", "SweepResult", "__version__", "session", "sweep", "train"]

_HOMES = {
    "Classifier": "rundir.classifier",
    "Config": "config",
    "Result": "rundir.result",
    "SweepResult": "sweeps.result",
    "session": "cluster.connection",
    "sweep": "api",
    "train": "api",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: `distsgd --help` needs none of it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'distsgd' has no attribute {name!r}")
    return getattr(importlib.import_module(f"distsgd.{_HOMES[name]}"), name)
