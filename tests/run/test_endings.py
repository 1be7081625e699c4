"""The ends of a run: signals, closed terminals and pipes, and hooks that end training."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from runs import QUICK, Cli, eventually, finished, invoke, journal, options, result

from distsgd.run import opening
from distsgd.run.ending import STATUS, Reason

ENDLESS = options({"train.epochs": 10**6, "tracking.enabled": "false"})


@pytest.fixture
def cli(own_folder):
    found = Cli(own_folder)
    yield found
    found.kill()


def start(cli: Cli, **popen) -> subprocess.Popen[str]:
    """Start a run of the serial loop that ends when it is ended, and return once it trains."""
    process = cli.start("train", "--workers=0", "--run-dir=run", *ENDLESS, **popen)
    assert eventually(lambda: process.poll() is not None or journal(cli.folder / "run"))
    assert process.poll() is None, process.communicate()
    return process


@pytest.mark.timeout(100)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_a_stop_with_a_checkpoint(cli, signum):
    process = start(cli)
    process.send_signal(signum)
    stopped = finished(process, 60)
    assert stopped.code == 128 + signum, stopped.err
    found = result(cli.folder / "run")
    assert found["status"] == "KILLED"
    assert f"stopped by {signum.name} after step {found['steps']} of" in stopped.err.splitlines()[-1]
    assert (cli.folder / "run" / "checkpoints" / f"{found['steps']:08d}.json").exists()


@pytest.mark.timeout(100)
def test_a_closed_terminal_is_a_stop_with_a_checkpoint(cli):
    """What is printed afterwards goes nowhere, and the shell tells of the terminal a second time."""
    ours, theirs = os.openpty()
    process = start(cli, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    os.close(ours)
    for _ in range(2):
        process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 129
    found = result(cli.folder / "run")
    assert found["status"] == "KILLED"
    assert (cli.folder / "run" / "checkpoints" / f"{found['steps']:08d}.json").exists()


@pytest.mark.timeout(100)
def test_below_nohup_a_run_goes_on_after_the_terminal_is_closed(cli):
    process = start(cli, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    step = journal(cli.folder / "run")[-1]["step"]
    assert eventually(lambda: journal(cli.folder / "run")[-1]["step"] > step + 1000)
    process.send_signal(signal.SIGTERM)
    assert finished(process, 60).code == 143


@pytest.mark.timeout(100)
def test_a_reader_that_goes_away_does_not_end_a_run(cli):
    arguments = options(QUICK, {"train.epochs": 200, "train.max_steps": 4600})
    process = cli.start("train", "--workers=0", "--run-dir=run", *arguments, stderr=subprocess.STDOUT)
    process.stdout.readline()
    process.stdout.close()
    process.wait(60)
    assert result(cli.folder / "run")["status"] == "FINISHED"


@pytest.mark.parametrize("reason", [Reason.COMPLETE, Reason.STOPPED])
def test_a_hook_ends_training_with_the_reason_that_it_gives(own_folder, monkeypatch, reason):
    ends = []

    def second_epoch(end):
        ends.append(end)
        return reason if len(ends) == 2 else None

    standard = opening.standard_hooks
    monkeypatch.setattr(opening, "standard_hooks", lambda *parts: [*standard(*parts), second_epoch])
    found = invoke("train", "--workers=0", "--run-dir=run", *options(QUICK, {"train.max_steps": 200}))
    assert found.code == (0 if reason is Reason.COMPLETE else 130), found.err
    assert [end.step for end in ends] == [23, 46]
    assert all(end.metrics["val/loss"] > 0 and end.is_evaluated for end in ends)
    assert (result(Path("run"))["steps"], result(Path("run"))["status"]) == (46, reason.status)
    assert Path("run/model.npz").exists() == (reason is Reason.COMPLETE)
    assert [record["step"] for record in journal(Path("run"))][-1] == 46


def test_every_reason_has_a_status():
    assert set(STATUS) == set(Reason)


@pytest.mark.slow
def test_three_runs_of_one_second_have_directories_of_their_own(cli):
    arguments = ["train", "--workers=0", "--quiet", *options(QUICK)]
    processes = [cli.start(*arguments) for _ in range(3)]
    for process in processes:
        assert finished(process).code == 0
    paths = list((cli.folder / "runs").iterdir())
    assert len(paths) == 3
    assert {result(path)["status"] for path in paths} == {"FINISHED"}


def test_a_run_directory_below_the_home_directory(cli):
    found = cli.run("train", "--workers=0", *options(QUICK, {"run.dir": "~/run"}))
    assert found.code == 0, found.err
    assert result(cli.folder / "home" / "run")["status"] == "FINISHED"
    resumed = cli.run("train", "--resume", *options({"run.dir": "~/run"}))
    assert "nothing is left to do" in resumed.err
