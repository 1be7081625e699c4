"""Uses mlflow without output, telemetry or long waits, and without changing the user's settings."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

REQUEST_S = 10
"""Seconds that one request to a server may take, unless MLFLOW_HTTP_REQUEST_TIMEOUT says otherwise."""

SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a failure is tried again here, without blocking for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(REQUEST_S),
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
}
"""Environment variables set while mlflow is used here, unless the user has set them; mlflow has no other way."""

LOGGERS = ("mlflow", "alembic", "matplotlib")

UNCHECKED = "Unverified HTTPS request is being made"
"""How urllib3's warning begins, once for each request, if MLFLOW_TRACKING_INSECURE_TLS says not to check."""

importing = threading.Lock()
"""Held while a large library is imported in the background: the process must not exit in the middle of that."""

_lock = threading.Lock()
_users = 0
_ours: list[str] = []
_levels: dict[str, int] = {}
_filter: Any = None
"""Python's own form of a filter of warnings."""


@contextlib.contextmanager
def quiet_mlflow() -> Iterator[None]:
    """Apply SETTINGS and silence mlflow's loggers and UNCHECKED, until the last of all concurrent contexts exits."""
    global _users, _ours, _levels, _filter
    with _lock:
        _users += 1
        if _users == 1:
            _ours = [name for name in SETTINGS if name not in os.environ]
            os.environ.update({name: SETTINGS[name] for name in _ours})
            known = "mlflow" in sys.modules
            _levels = {name: logging.getLogger(name).level if known else logging.WARNING for name in LOGGERS}
            for name in LOGGERS:
                logging.getLogger(name).setLevel(logging.CRITICAL)
            before = list(warnings.filters)
            warnings.filterwarnings("ignore", message=UNCHECKED)
            _filter = None if warnings.filters[0] in before else warnings.filters[0]  # else it is the caller's own
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                for name in _ours:
                    if os.environ.get(name) == SETTINGS[name]:
                        del os.environ[name]
                for name, level in _levels.items():
                    logging.getLogger(name).setLevel(level)
                with contextlib.suppress(ValueError):  # somebody may have put back the filters from before
                    warnings.filters.remove(_filter)  # type: ignore[attr-defined] # typeshed: a sequence
