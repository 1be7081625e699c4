"""The address of the MLflow store: where it comes from, what is refused, how it is shown."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from distsgd.config import TrackingConfig
from distsgd.errors import ConfigError

DEFAULT = "sqlite:///mlflow.db"
VARIABLE = "MLFLOW_TRACKING_URI"
SQLITE = "sqlite:///"
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SERVERS = ("http", "https", "databricks", "databricks-uc")


def resolve(config: TrackingConfig) -> str:
    """Return the URI of the store: tracking.uri, MLFLOW_TRACKING_URI, or the default; ConfigError if it is none."""
    uri, where = config.uri, "tracking.uri"
    if uri is None and os.environ.get(VARIABLE):
        uri, where = os.environ[VARIABLE], VARIABLE
    if uri is None:
        return DEFAULT
    expected = f"expected {DEFAULT}, another database's URI, or a server's, such as http://127.0.0.1:5000"
    if uri == "databricks":
        return uri
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme == "file" or len(scheme) == 1:
        raise ConfigError(f"{where} is {uri!r}, a folder, in which MLflow keeps runs no longer; {expected}")
    if scheme.split("+")[0] not in DATABASES + SERVERS:
        raise ConfigError(f"{where} is {redacted(uri)!r}, whose scheme {scheme!r} MLflow does not know; {expected}")
    if not rest.strip("/"):
        raise ConfigError(f"{where} is {redacted(uri)!r}, which names no database and no server; {expected}")
    return uri


def absolute(uri: str) -> str:
    """Return the URI with an SQLite file's path made absolute, so that it means the same from any folder."""
    path = sqlite_path(uri)
    return uri if path is None else f"{SQLITE}{path}"


def sqlite_path(uri: str) -> Path | None:
    """Return the file of an SQLite store, absolute; None for any other store."""
    return Path(uri.removeprefix(SQLITE)).absolute() if uri.startswith(SQLITE) else None


def _password(uri: str) -> re.Match[str] | None:
    """Return where the URI's password is; that of a database may hold a slash, by SQLAlchemy's reading."""
    end = "@" if uri.startswith(DATABASES) else "@/"
    return re.match(f"[^:]+://[^:/@]*:([^{end}]*)@", uri)


def holds_password(uri: str) -> bool:
    """Return whether the URI holds a password."""
    return _password(uri) is not None


def redacted(uri: str) -> str:
    """Return the URI as it may be shown: without a password."""
    found = _password(uri)
    return uri if found is None else f"{uri[: found.start(1)]}***{uri[found.end(1) :]}"


def view_command(uri: str, experiment_id: str, run_id: str) -> str:
    """Return the command that shows the store's runs, or the address at which a server shows this one."""
    if uri.startswith("http"):
        return f"{redacted(uri).rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"
    if holds_password(uri):
        return f'mlflow ui --backend-store-uri "${VARIABLE}"'
    if uri.startswith("databricks"):
        return f"the Databricks workspace, run {run_id}"
    path = sqlite_path(uri)
    if path is not None and path.is_relative_to(Path.cwd()):
        uri = f"{SQLITE}{path.relative_to(Path.cwd())}"
    return f"mlflow ui --backend-store-uri {shlex.quote(uri)}"
