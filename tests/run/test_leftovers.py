"""However a run on a local Ray ends: a minute later no process of it is alive and no file of it is left elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

import pytest
from runs import Cli, command, eventually, finished, journal, leaving_nothing, options, result

ENDLESS = options({"train.epochs": 10**6, "tracking.enabled": "false"})

AWHILE = pytest.mark.timeout(240)


@pytest.fixture
def cli(tmp_path):
    with leaving_nothing(tmp_path) as found:
        yield found


def start_endless_run(cli: Cli, **popen: Any) -> subprocess.Popen[str]:
    """Start a run on a local Ray that ends when it is ended, and return once it trains."""
    process = cli.start("train", "--workers", "2", "--run-dir", "run", *ENDLESS, **popen)
    assert eventually(lambda: process.poll() is not None or journal(cli.folder / "run"))
    assert process.poll() is None, process.communicate()
    assert len([pid for pid in cli.processes() if command(pid).startswith("ray::")]) >= 3
    return process


@AWHILE
@pytest.mark.slow
def test_after_sigterm(cli):
    process = start_endless_run(cli)
    process.terminate()
    assert finished(process).code == 143
    assert result(cli.folder / "run")["status"] == "KILLED"


@AWHILE
@pytest.mark.slow
def test_after_ctrl_c_on_a_terminal(cli):
    """A terminal sends SIGINT to all processes of the group, Ray's and the workers among them."""
    process = start_endless_run(cli, start_new_session=True)
    os.killpg(process.pid, signal.SIGINT)
    stopped = finished(process)
    assert stopped.code == 130, stopped.err
    assert "Traceback" not in stopped.err
    assert "continue with: distsgd train --resume --run-dir run" in stopped.err.splitlines()[-1]
    assert result(cli.folder / "run")["status"] == "KILLED"


@AWHILE
@pytest.mark.slow
def test_after_a_terminal_was_closed(cli):
    """Which sends SIGHUP to all processes of the group; Ray's own must not end before the checkpoint is written."""
    process = start_endless_run(cli, start_new_session=True)
    os.killpg(process.pid, signal.SIGHUP)
    stopped = finished(process)
    assert stopped.code == 129, stopped.err
    assert "Traceback" not in stopped.err
    assert "stopped by SIGHUP after step" in stopped.err.splitlines()[-1]
    found = result(cli.folder / "run")
    assert found["status"] == "KILLED"
    assert (cli.folder / "run" / "checkpoints" / f"{found['steps']:08d}.json").exists()


@AWHILE
@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code", "name"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")])
def test_after_a_signal_while_ray_starts(cli, signum, code, name):
    process = cli.start("train", "--workers", "2", "--run-dir", "run", *ENDLESS)
    assert eventually(lambda: any("/gcs_server" in command(pid) for pid in cli.processes()))
    process.send_signal(signum)
    stopped = finished(process)
    assert (stopped.code, stopped.out) == (code, ""), stopped.err
    assert stopped.err == f"distsgd: stopped by {name} outside training; whatever was trained is on disk\n"
    assert not (cli.folder / "run").exists()


@AWHILE
@pytest.mark.slow
def test_after_the_driver_was_killed(cli):
    process = start_endless_run(cli)
    process.kill()
    process.communicate()


@AWHILE
@pytest.mark.slow
def test_after_all_of_ray_was_killed(cli):
    """Ray then ends the driver, too, at once and without a word."""
    process = start_endless_run(cli)
    for pid in cli.processes():
        if pid != process.pid and "/ray/core/" in command(pid):
            os.kill(pid, signal.SIGKILL)
    failed = finished(process)
    assert failed.code == 1, failed.err
    assert "Traceback" not in failed.err


@AWHILE
@pytest.mark.slow
def test_after_an_error(cli):
    arguments = options({"optim.lr": 1e30, "train.epochs": 3, "tracking.enabled": "false"})
    failed = cli.run("train", "--workers", "2", "--run-dir", "run", *arguments)
    assert failed.code == 1, failed.err
    assert "Traceback" not in failed.err
    assert "not finite" in failed.err.splitlines()[-1]
    assert result(cli.folder / "run")["status"] == "FAILED"
    assert not (cli.folder / "run" / "model.npz").exists()
