"""MLflow's pages on the store of a run: a server on this machine, and the link to the run or the table of runs."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from distsgd.config import TrackingConfig
from distsgd.errors import ConfigError, ResourceError, RunDirectoryError
from distsgd.system.secrets import redacted
from distsgd.tracking import run_id
from distsgd.tracking import uri as tracking_uri
from distsgd.tracking.quiet import quiet_mlflow
from distsgd.tracking.run_id import RunId

HOST = "127.0.0.1"
PORT = 5000
"""The port, if it is free and no other one is asked for."""

START_S = 120.0
"""Seconds within which MLflow must answer; its first start creates the tables of its database."""

STOP_S = 5.0
"""Seconds that MLflow's processes get to end before they are killed."""

WATCH = 'cat; kill -s KILL -- "-$0"'
"""Waits for the end of the process that holds its input, which was killed then, and kills MLflow's process group."""


def store_of(run_dir: Path | None) -> tuple[str, RunId | None]:
    """Return the URI of a run's store and the run; without a directory, the store that runs are logged to by default.

    Raises RunDirectoryError if MLflow knows no run of that directory, ConfigError if there is no such store.
    """
    run = None if run_dir is None else run_id.read(run_dir)
    if run_dir is not None and run is None:
        raise RunDirectoryError(
            f"{str(run_dir)!r} holds no run that MLflow knows of: name the run directory that `distsgd train` printed, "
            f"or send the run with `distsgd sync {shlex.quote(str(run_dir))}` first"
        )
    uri = tracking_uri.resolve(TrackingConfig(uri=None if run is None else run.uri))
    if uri.startswith("databricks"):
        raise ConfigError(f"the MLflow store is {redacted(uri)!r}, a workspace, whose own pages show its runs")
    file = tracking_uri.sqlite_path(uri)
    if file is not None and not file.is_file():
        raise ConfigError(
            f"there is no MLflow store at {str(file)!r}: train a run first, name a run directory, or set "
            f"{tracking_uri.VARIABLE}"
        )
    return uri, run


def link_uri(uri: str, run: RunId | None) -> str | None:
    """Return the address at which people open a server's pages, if it is not the server's own."""
    return tracking_uri.link_uri(TrackingConfig(link_uri=None if run is None else run.link_uri), uri)


def link(server: str, run: RunId | None, experiment: str, pages: str | None = None) -> str:
    """Return the address of the run, or of the experiment's table of runs, on a server that answers.

    `pages` is where people open the server's pages, if that is another address.
    """
    shown = redacted(server) if pages is None else pages
    if run is not None:
        return tracking_uri.run_link(shown, run.experiment_id, run.run_id)
    found: str | None = None
    try:
        with quiet_mlflow():
            from distsgd.tracking.reading_server import ServerReader

            found = ServerReader(server).experiment_id(experiment)
    except Exception:  # the page says itself that it wants a login, or that there is none
        found = None
    if found is None:
        return f"{shown.rstrip('/')}/?{tracking_uri.WORKFLOW}"
    return tracking_uri.table_link(shown, found)


@contextlib.contextmanager
def server(uri: str, port: int | None) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start MLflow on a store, and yield its address and process once it answers; end all of its processes.

    Raises ResourceError if it does not start.
    """
    chosen = _free_port(port)
    address = f"http://{HOST}:{chosen}"
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(chosen), "--workers", "1"],
        env=os.environ
        | {
            "MLFLOW_BACKEND_STORE_URI": tracking_uri.absolute(uri),  # in the environment, since it may hold a password
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # whose processes and files would stay behind
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C comes to this process alone, which ends all of the group
    )
    watcher = subprocess.Popen(
        ["/bin/sh", "-c", WATCH, str(process.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_until_it_answers(process, address)
        yield address, process
    finally:
        _end(process)
        watcher.kill()
        watcher.communicate()


def _free_port(port: int | None) -> int:
    """Return the port that was asked for, or a free one; ResourceError if it is taken."""
    for candidate in (PORT, 0) if port is None else (port,):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, candidate))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ResourceError(f"port {port} cannot be used on this machine: another program may be using it; choose another")


def _wait_until_it_answers(process: subprocess.Popen[bytes], address: str) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy does not know this machine's ports
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), direct.open(f"{address}/health", timeout=2):
            return
        time.sleep(0.1)
    ended = "did not answer in time" if process.returncode is None else f"ended with code {process.returncode}"
    raise ResourceError(f"MLflow {ended}; `mlflow server` with the same store says why")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started, which are in its process group."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signum)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
