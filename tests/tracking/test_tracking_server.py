"""MLflow over HTTP: a real server, one that loses replies, one that is down, stalls, or answers with errors."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import asdict
from pathlib import Path

import pytest
from mlflow_server import Proxy, failing_server, free_port, mlflow_server, stalled_server
from tracking_helpers import (
    SHORT,
    MlflowClient,
    assert_complete,
    command,
    journal_points,
    only_run,
    short_options,
    stored_points,
    train,
)

import distsgd
from distsgd.errors import ConfigError, TrackingError
from distsgd.system.faults import VARIABLE, Fault
from distsgd.tracking import tracker as tracking
from distsgd.tracking.sync import sync

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with mlflow_server(tmp_path_factory.mktemp("server")) as running:
        yield running


def dead_uri() -> str:
    return f"http://127.0.0.1:{free_port()}"


def assert_unharmed(path: Path, result: dict[str, object]) -> str:
    """Check that a run is whole but for MLflow; return the one warning that it gave."""
    assert result["status"] == "FINISHED"
    assert result["steps"] == 69
    assert result["mlflow_run_id"] is None
    assert [step for step, *_ in journal_points(path)["train/loss"]] == [10, 20, 23, 30, 40, 46, 50, 60, 69]
    (warning,) = result["warnings"]
    assert f"send the rest with `distsgd sync {path}`" in warning
    return warning


@pytest.mark.slow
def test_a_run_is_recorded_on_a_server(tmp_path, server):
    result = train(tmp_path / "run", server.uri, tracking__experiment="plain")
    assert result.warnings == []
    run = assert_complete(server.uri, tmp_path / "run", experiment="plain")
    with urllib.request.urlopen(
        f"{server.uri}/get-artifact?path=learning_curve.svg&run_uuid={run.info.run_id}", timeout=30
    ) as reply:
        assert reply.read().startswith(b"<?xml")
    (picture,) = re.findall(r"\]\((\S+)\)", run.data.tags["mlflow.note.content"])
    with urllib.request.urlopen(f"{server.uri}/{picture}", timeout=30) as reply:
        assert reply.headers["Content-Type"].startswith("image/svg+xml")


@pytest.mark.slow
def test_runs_on_a_server_share_a_parent(tmp_path, server):
    options = {"tracking__experiment": "nested", "tracking__parent": "sweep"}
    results = [train(tmp_path / f"run{seed}", server.uri, train__seed=seed, **options) for seed in (1, 2)]
    client = MlflowClient(server.uri)
    runs = [client.get_run(result.mlflow_run_id) for result in results]
    (parent,) = {run.data.tags["mlflow.parentRunId"] for run in runs}
    found = client.get_run(parent)
    assert (found.info.run_name, found.info.status) == ("sweep", "FINISHED")


@pytest.mark.slow
def test_the_ending_names_the_servers_page(tmp_path, server):
    options = short_options(f"tracking.uri={server.uri}", "tracking.experiment=page")
    done = command("train", "--run-dir", "run", *options, cwd=tmp_path)
    run = only_run(server.uri, "page")
    assert done.returncode == 0
    look = f"{server.uri}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}?workflowType=machine_learning"
    assert done.stdout.splitlines()[-1].split(maxsplit=3)[-1] == look
    with urllib.request.urlopen(look, timeout=30) as page:
        assert b"MLflow" in page.read()


@pytest.mark.slow
def test_the_environment_names_the_store(tmp_path, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    distsgd.train(SHORT | {"run.dir": str(tmp_path / "run"), "tracking.experiment": "environment"})
    assert_complete(server.uri, tmp_path / "run", experiment="environment")


@pytest.mark.parametrize(
    "endings",
    [
        pytest.param(["runs/create", "runs/log-batch", "runs/log-inputs", "runs/update"], marks=pytest.mark.slow),
        pytest.param(["runs/create"], marks=pytest.mark.slow),
        pytest.param(["experiments/create"], marks=pytest.mark.slow),
        pytest.param(["runs/log-batch"] * 4, marks=pytest.mark.slow),
        pytest.param(["logged-models", "runs/outputs"], marks=pytest.mark.slow),
    ],
    ids=lambda endings: endings[0].replace("/", "-") + f"-{len(endings)}",
)
def test_lost_replies_make_no_second_run_and_no_second_point(tmp_path, server, endings, request):
    name = f"lossy {request.node.name}"
    with Proxy(server.uri) as proxy:
        proxy.to_lose += endings
        result = train(tmp_path / "run", proxy.uri, tracking__experiment=name)
        if result.warnings:  # too many losses for the time at the end
            sync(tmp_path / "run")
        assert proxy.to_lose == []
        assert_complete(server.uri, tmp_path / "run", experiment=name)


@pytest.mark.slow
def test_what_was_journalled_while_the_server_was_down_is_sent_when_it_is_back(tmp_path, server):
    proxy = Proxy(server.uri)
    result = train(tmp_path / "run", proxy.uri, tracking__experiment="later")
    assert_unharmed(tmp_path / "run", result.to_json())
    with proxy:
        for _ in range(2):
            synced = sync(tmp_path / "run")
            assert synced.lines == 9
            run = assert_complete(server.uri, tmp_path / "run", experiment="later")
            assert run.info.run_id == synced.run_id
    with pytest.raises(TrackingError, match=r"has not received the whole run: .*Connection refused"):
        sync(tmp_path / "run")


@pytest.mark.slow
def test_a_server_that_goes_during_a_run_loses_nothing(tmp_path, server, monkeypatch):
    """The server takes the first epochs, goes, and is back only after the run has ended."""
    from distsgd.run.session import Session

    end_epoch, epochs = Session._end_epoch, []
    with Proxy(server.uri) as proxy:

        def end_epoch_and_close(self):
            reason = end_epoch(self)
            epochs.append(1)
            if len(epochs) == 2:
                deadline = time.monotonic() + 60
                while not stored("goes") and time.monotonic() < deadline:
                    time.sleep(0.05)
                proxy.close()
            return reason

        def stored(experiment):
            found = MlflowClient(server.uri).get_experiment_by_name(experiment)
            runs = MlflowClient(server.uri).search_runs([found.experiment_id]) if found else []
            return sum(len(run.data.metrics) for run in runs)

        monkeypatch.setattr(Session, "_end_epoch", end_epoch_and_close)
        result = train(tmp_path / "run", proxy.uri, tracking__experiment="goes")
        (warning,) = result.warnings
        assert "distsgd sync" in warning
        run = only_run(server.uri, "goes")
        assert run.info.status == "RUNNING"
        assert 0 < len(stored_points(server.uri, run)["train/loss"]) < 9
        assert result.mlflow_run_id == run.info.run_id
        proxy.open()
        sync(tmp_path / "run")
        assert_complete(server.uri, tmp_path / "run", experiment="goes")


@pytest.mark.slow
def test_a_server_that_is_back_before_the_end_is_told_all(tmp_path, server, monkeypatch):
    from distsgd.run.session import Session

    proxy, tick, warnings = Proxy(server.uri), Session._tick, []

    def tick_and_open(self):
        deadline = time.monotonic() + 60
        while not warnings and time.monotonic() < deadline:
            time.sleep(0.05)
            warning = self.tracker.take_warning()
            if warning is not None:
                warnings.append(warning)
                proxy.open()
        tick(self)

    monkeypatch.setattr(Session, "_tick", tick_and_open)
    with contextlib.closing(proxy):
        result = train(tmp_path / "run", proxy.uri, tracking__experiment="back")
    assert "Connection refused" in warnings[0]
    assert "training continues" in warnings[0]
    assert result.warnings == []
    assert_complete(server.uri, tmp_path / "run", experiment="back")


@pytest.mark.slow
def test_a_dead_server_is_a_warning_and_exit_0(tmp_path):
    uri = dead_uri()
    done = command("train", "--run-dir", "run", *short_options(f"tracking.uri={uri}"), cwd=tmp_path)
    assert done.returncode == 0
    warning = assert_unharmed(Path("run"), json.loads(Path("run/result.json").read_bytes()))
    assert f"'{uri}' has not received the whole run: [Errno 111] Connection refused" in warning
    assert f"warning: {warning}" in done.stderr
    assert "Traceback" not in done.stderr
    assert "MLflow run" not in done.stdout


@pytest.mark.slow
def test_a_server_that_answers_with_errors_is_a_warning(tmp_path):
    with failing_server() as uri:
        result = train(tmp_path / "run", uri)
    assert "too many 500 error responses" in assert_unharmed(tmp_path / "run", result.to_json())


@pytest.mark.slow
def test_a_stalled_server_keeps_no_run_longer_than_the_time_at_the_end(tmp_path):
    """The process ends although a thread of it is in the middle of a request that is never answered."""
    with stalled_server() as uri:
        options = short_options(f"tracking.uri={uri}", "tracking.timeout_s=2")
        environment = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "1000"}
        done = command("train", "--quiet", "--run-dir", "run", *options, cwd=tmp_path, timeout=90, **environment)
    assert done.returncode == 0
    warning = assert_unharmed(Path("run"), json.loads(Path("run/result.json").read_bytes()))
    assert "has not received the whole run: the store had not answered" in warning
    assert done.stderr == f"warning: {warning}\n"


@pytest.mark.slow
def test_a_stalled_server_is_not_waited_for_when_its_requests_time_out(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with stalled_server() as uri:
        result = train(tmp_path / "run", uri)
    assert "timed out" in assert_unharmed(tmp_path / "run", result.to_json())


def started(tmp_path: Path, uri: str, *more: str) -> subprocess.Popen[str]:
    """Start a run whose store never answers and for which it would wait long."""
    options = short_options(f"tracking.uri={uri}", "tracking.timeout_s=100", *more)
    return subprocess.Popen(
        [sys.executable, "-m", "distsgd.cli", "train", "--quiet", "--run-dir", "run", *options],
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_HTTP_REQUEST_TIMEOUT": "1000"},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.parametrize(
    "signum", [pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGINT, signal.SIGTERM)]
)
def test_a_signal_ends_the_waiting_for_mlflow_and_not_the_success(tmp_path, signum):
    with stalled_server() as uri, started(tmp_path, uri) as process:
        wait_for(Path("run/result.json"))
        process.send_signal(signum)
        errors = process.communicate(timeout=30)[1]
    assert process.returncode == 0
    assert errors == f"warning: {assert_unharmed(Path('run'), json.loads(Path('run/result.json').read_bytes()))}\n"


@pytest.mark.slow
def test_a_second_ctrl_c_ends_the_waiting_of_a_stopped_run(tmp_path, monkeypatch):
    (tmp_path / "faults").mkdir()
    faults = tmp_path / "faults" / "faults.json"
    moments = ("journaled", "written")
    faults.write_text(json.dumps([asdict(Fault("driver", 0, 23, moment, "SIGINT")) for moment in moments]))
    monkeypatch.setenv(VARIABLE, str(faults))
    with stalled_server() as uri, started(tmp_path, uri) as process:
        errors = process.communicate(timeout=90)[1]
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "distsgd: stopped at once by a second Ctrl-C; continue with --resume"
    assert json.loads(Path("run/result.json").read_bytes())["status"] == "KILLED"


@pytest.mark.slow
def test_a_stopped_run_does_not_wait_for_mlflow_until_it_is_killed(tmp_path):
    with stalled_server() as uri, started(tmp_path, uri, "train.epochs=100000") as process:
        wait_for(Path("run/checkpoints"))
        process.terminate()
        errors = process.communicate(timeout=30)[1]
    assert process.returncode == 143
    warning, line = errors.splitlines()
    assert "send the rest with `distsgd sync run`" in warning
    assert line.startswith("distsgd: stopped by SIGTERM after step")
    assert json.loads(Path("run/result.json").read_bytes())["status"] == "KILLED"


HOLD_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_a_locked_database_is_a_warning_and_sync_completes_it(tmp_path, empty_store):
    command_line = [sys.executable, "-c", HOLD_LOCK, str(tmp_path / "mlflow.db")]
    with subprocess.Popen(command_line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        options = short_options("tracking.timeout_s=2")
        done = command("train", "--quiet", "--run-dir", "run", *options, cwd=tmp_path)
        holder.stdin.close()
    assert done.returncode == 0
    assert_unharmed(Path("run"), json.loads(Path("run/result.json").read_bytes()))
    assert done.stderr.count("\n") == 1
    assert sync(Path("run")).lines == 9
    assert_complete(empty_store, tmp_path / "run")


def test_a_required_store_that_is_down_is_exit_2_before_anything_is_made(tmp_path):
    uri = dead_uri()
    options = short_options(f"tracking.uri={uri}", "tracking.required=true")
    done = command("train", "--run-dir", "run", *options, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"distsgd: tracking.required is true, and the MLflow store '{uri}' cannot be reached")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", [pytest.param("stalled", marks=pytest.mark.slow), "failing", "no folder"])
def test_a_required_store_that_does_not_answer_is_refused(tmp_path, kind, monkeypatch):
    assert tracking.REQUIRED_S < 14  # of the 15 seconds that a refusal may take
    monkeypatch.setattr(tracking, "REQUIRED_S", 3.0)
    servers = {"stalled": stalled_server, "failing": failing_server}
    store = servers[kind]() if kind in servers else contextlib.nullcontext("sqlite:////proc/none/mlflow.db")
    with store as uri, pytest.raises(ConfigError, match=r"tracking.required is true, and the MLflow store .* cannot"):
        train(tmp_path / "run", uri, tracking__required=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_required_store_that_answers_is_used(tmp_path, server):
    train(tmp_path / "run", server.uri, tracking__required=True, tracking__experiment="required")
    assert_complete(server.uri, tmp_path / "run", experiment="required")


@pytest.mark.parametrize("uri", ["mlruns", "./mlruns", "/data/mlruns", "file:///data/mlruns", "C:\\mlruns"])
def test_a_folder_as_store_is_refused(tmp_path, uri):
    with pytest.raises(ConfigError, match="a folder, and MLflow no longer keeps runs in folders; expected sqlite:///"):
        train(tmp_path / "run", uri)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("uri", ["ftp://host/x", "sqllite:///mlflow.db", "http:", "sqlite:///", "postgresql:"])
def test_an_invalid_store_uri_is_refused(tmp_path, uri):
    with pytest.raises(ConfigError, match=r"tracking.uri is .*; expected sqlite:///mlflow.db"):
        train(tmp_path / "run", uri)
    assert not (tmp_path / "run").exists()


def test_the_uri_from_the_environment_is_checked_too(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mlruns")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI is 'mlruns'"):
        distsgd.train(SHORT | {"run.dir": str(tmp_path / "run")})
    done = distsgd.train(SHORT | {"run.dir": str(tmp_path / "run"), "tracking.enabled": False})
    assert done.status == "FINISHED"
