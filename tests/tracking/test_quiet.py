"""What the caller had set for mlflow is what he has afterwards."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings

import pytest
from mlflow_server import free_port
from tracking_helpers import SHORT, train
from urllib3.exceptions import InsecureRequestWarning

from distsgd.errors import ConfigError, TrackingError
from distsgd.tracking.quiet import SETTINGS, UNCHECKED, quiet_mlflow
from distsgd.tracking.sync import sync

RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"

AFTERWARDS = f"""
import logging, os
before = dict(os.environ)
import distsgd
distsgd.train({SHORT} | {{"run.dir": "run", "train.max_steps": 3}})
changed = {{name for name, value in os.environ.items() ^ before.items() if name.startswith("MLFLOW_")}}
assert not changed, changed
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES
assert MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() == 7
assert logging.getLogger("mlflow").isEnabledFor(logging.WARNING)
"""


@pytest.mark.slow
def test_after_training_the_callers_mlflow_has_its_retries_and_its_warnings(own_folder, empty_store):
    done = subprocess.run([sys.executable, "-c", AFTERWARDS], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


def mlflow_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}


@pytest.fixture
def before(monkeypatch):
    """The environment without what is set for mlflow, but for a variable that the caller has set himself."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    return mlflow_environment()


def test_settings_last_as_long_as_somebody_needs_them(before):
    level = logging.getLogger("mlflow").level
    with quiet_mlflow():
        assert os.environ[RETRIES] == "0"
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "3"
        inner = quiet_mlflow()
        inner.__enter__()
    assert os.environ[RETRIES] == "0"
    assert logging.getLogger("mlflow").level == logging.CRITICAL
    inner.__exit__(None, None, None)
    assert mlflow_environment() == before
    assert logging.getLogger("mlflow").level == level


def test_requests_to_a_server_whose_certificate_is_not_to_be_checked_do_not_fill_the_screen(recwarn):
    filters = list(warnings.filters)

    def request() -> int:
        warnings.warn(f"{UNCHECKED} to host '127.0.0.1'. Adding certificate ...", InsecureRequestWarning, stacklevel=1)
        return len(recwarn)

    with quiet_mlflow():
        with quiet_mlflow():
            pass
        assert request() == 0
    assert warnings.filters == filters
    assert request() == 1


def test_what_the_caller_changes_meanwhile_stays(before):
    with quiet_mlflow():
        os.environ[RETRIES] = "5"
    assert os.environ.pop(RETRIES) == "5"
    assert mlflow_environment() == before


def test_a_refused_run_and_a_sync_that_fails_leave_the_environment_as_it_was(own_folder, empty_store, before):
    dead = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ConfigError):
        train(own_folder / "refused", dead, tracking__required=True)
    assert mlflow_environment() == before
    train(own_folder / "run", empty_store, train__max_steps=3)
    with pytest.raises(TrackingError):
        sync(own_folder / "run", dead)
    assert mlflow_environment() == before


IMPORTED_LATE = """
import os, sys
from distsgd.config import TrackingConfig
from distsgd.tracking import tracker

seen = []

class Recorder:
    def find_spec(self, name, path=None, target=None):
        if name == "mlflow":
            seen.append(os.environ.get("MLFLOW_DISABLE_TELEMETRY"))

sys.meta_path.insert(0, Recorder())
tracker.IMPORT_S = 0.01
started = tracker.Tracker(TrackingConfig(), "http://127.0.0.1:9")
with tracker.importing:
    started.start()
    started._close()
    assert "MLFLOW_DISABLE_TELEMETRY" not in os.environ
started._thread.join()
assert seen == ["true"], seen
assert "MLFLOW_DISABLE_TELEMETRY" not in os.environ
"""


def test_an_import_that_outlasts_the_run_sends_no_telemetry(own_folder, before):
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED_LATE], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_filter_that_the_caller_has_set_stays():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=UNCHECKED)
        own = warnings.filters[0]
        with quiet_mlflow():
            pass
        assert own in warnings.filters
