"""The installed version of distsgd."""

from __future__ import annotations

import importlib.metadata

try:
    __version__ = importlib.metadata.version("distsgd")
except importlib.metadata.PackageNotFoundError:  # run from a checkout, as a Ray job's working directory is
    __version__ = "0+unknown"
