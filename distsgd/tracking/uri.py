"""The URI of the MLflow store: resolving, validating and displaying it."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from distsgd.config import TrackingConfig
from distsgd.config.links import LINK, is_link
from distsgd.errors import ConfigError
from distsgd.system.secrets import is_redacted, redacted
from distsgd.tracking import table
from distsgd.tracking.run_id import RunId

DEFAULT = "sqlite:///mlflow.db"
VARIABLE = "MLFLOW_TRACKING_URI"
LINK_VARIABLE = "DISTSGD_LINK_URI"
SQLITE = "sqlite:///"
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
HOST_AND_PORT = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::(.*))?")
WORKFLOW = "workflowType=machine_learning"
"""What a link to MLflow's pages ends in, so that they show the training of models."""

SERVERS = ("http", "https", "databricks", "databricks-uc")


def resolve(config: TrackingConfig) -> str:
    """Return the URI of the store: tracking.uri, MLFLOW_TRACKING_URI, or the default.

    Raises ConfigError if it is not a valid store, or if it had a secret and is not given again when a run is resumed.
    """
    uri, where, given = config.uri, "tracking.uri", os.environ.get(VARIABLE)
    if uri is not None and is_redacted(uri):
        if given is None or redacted(given) != uri:
            raise ConfigError(
                f"the run's MLflow store is {uri!r}, whose secret the run directory does not keep: give the "
                f"full URI again, in {VARIABLE} or with --set tracking.uri=... (`distsgd sync`: --uri)"
            )
        uri = None
    if uri is None and given:
        uri, where = given, VARIABLE
    if uri is None:
        return DEFAULT
    expected = f"expected {DEFAULT}, another database's URI, or a server's, such as http://127.0.0.1:5000"
    if uri == "databricks":
        return uri
    shown = redacted(uri)
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme == "file" or len(scheme) == 1:
        raise ConfigError(f"{where} is {shown!r}, a folder, and MLflow no longer keeps runs in folders; {expected}")
    if scheme.split("+")[0] not in DATABASES + SERVERS:
        raise ConfigError(f"{where} is {shown!r}, with {_unknown_scheme(scheme, rest)}; {expected}")
    if not rest.strip("/"):
        raise ConfigError(f"{where} is {shown!r}, which names neither a database nor a server; {expected}")
    problem = _problem_of_address(uri)
    if problem is not None:
        raise ConfigError(f"{where} is {shown!r}, {problem}; {expected}")
    return uri


def link_uri(config: TrackingConfig, store: str | None) -> str | None:
    """Return the address at which people open the pages of a store, if it is not the store's own.

    It is tracking.link_uri, or DISTSGD_LINK_URI for the store that MLFLOW_TRACKING_URI names: who sets up machines on
    which runs reach MLflow at another address than people do sets both. ConfigError if it is no address for browsers.
    """
    given = os.environ.get(LINK_VARIABLE)
    if config.link_uri is not None or not given or store is None or store != os.environ.get(VARIABLE):
        return config.link_uri
    if not is_link(given):
        raise ConfigError(f"{LINK_VARIABLE} is {redacted(given)!r}; expected {LINK}")
    return given


def _unknown_scheme(scheme: str, rest: str) -> str:
    """Return what is wrong with a scheme; it is named only if it is one: before a mere `:` may stand a user name."""
    if rest.startswith("//"):
        return f"a scheme, {scheme!r}, that MLflow does not know"
    if rest.partition("/")[0].isdecimal():
        return "a host and a port, but no scheme (http://) before them"
    return "a scheme that MLflow does not know"


def _problem_of_address(uri: str) -> str | None:
    """Return what is wrong with host and port of a server or database, or None; secrets are not shown."""
    if uri.startswith(("sqlite", "databricks")):
        return None
    rest = uri.partition("://")[2]
    if uri.startswith("http"):
        address = re.split("[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    else:  # a password in a database's URI may hold any character but @
        address = re.split("[/?]", rest.partition("@")[2] if "@" in rest else rest, maxsplit=1)[0]
    found = HOST_AND_PORT.fullmatch(address)
    if found is None or (found[2] and not (found[2].isdecimal() and 0 < int(found[2][:6]) < 2**16)):
        special = " (in a password, write @ as %40, / as %2F, # as %23)" if "@" in rest else ""
        return f"whose host and port cannot be read: a port is a number from 1 to 65535{special}"
    if uri.startswith("http") and not found[1]:
        return "which names no host"
    return None


def client_settings() -> dict[str, str]:
    """Return MLflow's variables for reaching a server, which are its login and its certificates."""
    return {key: value for key, value in os.environ.items() if key.startswith("MLFLOW_TRACKING_") and key != VARIABLE}


def absolute(uri: str) -> str:
    """Return the URI with an SQLite file's path made absolute, so that it means the same from any folder."""
    path = sqlite_path(uri)
    return uri if path is None else f"{SQLITE}{path}{''.join(uri.partition('?')[1:])}"


def sqlite_path(uri: str) -> Path | None:
    """Return the file of an SQLite store, absolute; None for any other store."""
    return Path(uri.removeprefix(SQLITE).partition("?")[0]).absolute() if uri.startswith(SQLITE) else None


def run_link(server: str, experiment_id: str, run_id: str) -> str:
    """Return the page of a run; without its ending, MLflow opens the pages for language models."""
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}?{WORKFLOW}"


def table_link(server: str, experiment_id: str) -> str:
    """Return the page of an experiment's table of runs, with columns for metrics and parameters."""
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?{WORKFLOW}&viewStateShareKey={table.VIEW}"


def view_command(run: RunId, run_dir: Path) -> str:
    """Return the command that shows a run, or the address at which a server shows it."""
    if run.pages.startswith("http"):
        return run_link(redacted(run.pages), run.experiment_id, run.run_id)
    if run.uri.startswith("databricks"):
        return f"the Databricks workspace, run {run.run_id}"
    path = run_dir.absolute()
    return f"distsgd ui {shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))}"
