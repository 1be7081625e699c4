"""The Slurm script: run for real on one node, under commands of Slurm that are fakes and check their arguments."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fake_slurm
import pytest
from runs import Cli, command, eventually, invoke

from distsgd import train
from distsgd.config import Config
from distsgd.errors import JobError
from distsgd.submission.request import Request
from distsgd.submission.settings import GRACE_S, WARNING_S, Resources
from distsgd.submission.slurm import QueuedJob, SlurmJob

REPOSITORY = Path(__file__).resolve().parents[2]
MNIST = ["jobs/mnist.toml", "--data", "/shared/mnist/train.parquet", "--val", "/shared/mnist/test.parquet"]
MNIST += ["--run-dir", "/shared/runs/mnist"]


def script(**values) -> str:
    config = Config.build({"run.dir": "/shared/my runs/mine"}, values)
    return SlurmJob(Request.of(config, shared=True), Resources(), "distsgd submit 'it''s'").manifest()


@pytest.mark.timeout(60)
def test_the_script_in_jobs_is_what_is_printed():
    command = [sys.executable, "-m", "distsgd.cli", "submit", *MNIST, "--to", "slurm", "--print"]
    shown = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True).stdout
    assert (REPOSITORY / "jobs" / "slurm.sh").read_text() == re.sub(
        "^python=.*$", "python=python", shown, flags=re.MULTILINE
    )


def test_bash_reads_the_script(tmp_path):
    path = tmp_path / "script.sh"
    path.write_text(script(**{"data.label": "a 'b' $c", "data.train": "/shared/x y.parquet"}))
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=10)


def test_its_settings_are_those_of_all_jobs():
    asked = fake_slurm.directives(script())
    assert asked["signal"] == f"B:USR1@{WARNING_S}"
    assert WARNING_S > GRACE_S
    assert (asked["nodes"], asked["cpus-per-task"], asked["mem"], asked["time"]) == ("2", "2", "4096M", "60")
    assert asked["output"].startswith("/shared/my runs/distsgd-mine-")
    assert "RAY_AUTH_MODE=token" in script()


class Slurm(Cli):
    """The command with the fakes first in its path."""

    def __init__(self, folder: Path) -> None:
        (folder / "bin").mkdir()
        fake_slurm.install(folder / "bin")
        (folder / "faults").mkdir()
        faults = folder / "faults" / "faults.json"
        faults.write_text('[{"role": "driver", "index": 0, "step": 60, "moment": "journaled", "signal": "SIGSTOP"}]')
        path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        super().__init__(folder, {"PATH": path, "DISTSGD_FAULTS": str(faults)})

    def job(self) -> dict:
        (path,) = (self.folder / "bin").glob("*.json")
        return json.loads(path.read_text()) | {"id": path.stem}

    def halted(self) -> int:
        """Return the driver's process once it has halted in the middle of the run."""
        assert eventually((self.folder / "faults" / "0.struck").exists)
        (driver,) = [pid for pid in self.processes() if "distsgd.cli train" in command(pid)]
        return driver


@pytest.fixture
def slurm(tmp_path) -> Iterator[Slurm]:
    found = Slurm(tmp_path)
    try:
        yield found
        assert not found.await_end(30)
        with contextlib.suppress(ValueError):
            assert not Path(f"/tmp/distsgd-{found.job()['id']}").exists()
        assert not list(tmp_path.glob("runs/.ray-token-*"))
    finally:
        found.kill()


def options(**values) -> list[str]:
    words = ["--to", "slurm", "--nodes", "1", "--cpus", "1", "--run-dir", "runs/mine"]
    values = {"tracking__enabled": "false"} | values
    return words + [f"--set={key.replace('__', '.')}={value}" for key, value in values.items()]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_job_out_of_time_is_queued_again_and_ends_with_the_same_bits(slurm, tmp_path):
    process = slurm.start("submit", *options(train__epochs=6))
    driver = slurm.halted()
    os.kill(slurm.job()["pid"], signal.SIGUSR1)
    os.kill(driver, signal.SIGCONT)
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, out + err
    assert "out of time; the run is checkpointed, and the job is queued again" in out
    assert "stopped by SIGTERM" in out
    assert "resuming" in out
    assert out.count("status        FINISHED") == 1
    values = {"train.epochs": 6, "run.workers": 0, "run.dir": str(tmp_path / "serial"), "tracking.enabled": False}
    result = json.loads((tmp_path / "runs" / "mine" / "result.json").read_bytes())
    assert result["weights_sha256"] == train(values).weights_sha256


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_second_submission_attaches_and_a_stopped_job_is_not_queued_again(slurm, tmp_path):
    first = slurm.run("submit", *options(), "--detach")
    assert (first.code, "submitted as job" in first.err) == (0, True), first
    driver = slurm.halted()
    second = slurm.start("submit", *options())
    assert f"the job {slurm.job()['id']} (distsgd-mine-" in second.stderr.readline()
    stop = [tmp_path / "bin" / "scancel", "--batch", "--signal=TERM", slurm.job()["id"]]
    subprocess.run(stop, timeout=20, check=True)
    os.kill(driver, signal.SIGCONT)
    out, err = second.communicate(timeout=100)
    assert (second.returncode, "was stopped" in err) == (143, True), out + err
    assert "queued again" not in out
    assert list((tmp_path / "runs" / "mine" / "checkpoints").glob("*.json"))


def test_what_slurm_or_distsgd_refuses_is_not_submitted(own_folder, monkeypatch):
    commands = own_folder / "bin"
    commands.mkdir()
    fake_slurm.install(commands)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    for words, message in (
        (["--nodes", "9"], "Requested node configuration is not available"),
        (["--data", "nothing.parquet"], f"'{own_folder}/nothing.parquet' does not exist"),
        (["--memory", "much"], "--memory is 'much'"),
        (["--run-dir", 'runs/"mine"'], "may have no quotes"),
        (["--run-dir", "runs/a\rb"], "may have no quotes, control characters, % or"),
    ):
        found = invoke("submit", *options(), *words)
        assert (found.code, message in found.err) == (2, True), found
    assert not list(commands.glob("*.json"))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("JobState=PENDING ExitCode=0:0", ("PENDING", None)),
        ("JobState=COMPLETING ExitCode=0:0", ("RUNNING", None)),
        ("JobState=COMPLETED ExitCode=0:0", ("SUCCEEDED", 0)),
        ("JobState=FAILED ExitCode=2:0", ("FAILED", 2)),
        ("JobState=FAILED ExitCode=0:9", ("FAILED", -9)),
        ("JobState=CANCELLED ExitCode=0:15", ("STOPPED", None)),
        ("JobState=TIMEOUT ExitCode=0:0", ("FAILED", None)),
        ("JobState=NODE_FAIL ExitCode=0:0", ("FAILED", None)),
    ],
)
def test_states_of_slurm_are_read(answer, expected, monkeypatch):
    monkeypatch.setattr("distsgd.submission.slurm.output_of", lambda _: f"JobId=1 {answer} Other=x")
    state = QueuedJob("1", Path("log")).state()
    assert (state.status, state.exit_code) == expected


def test_a_job_that_slurm_has_forgotten_is_reported(tmp_path, monkeypatch):
    fake_slurm.install(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(JobError, match="does not know the job 17 any more"):
        QueuedJob("17", Path("log")).state()
