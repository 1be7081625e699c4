"""`distsgd submit` on a real cluster with dashboard and token, as a user runs it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from certificates import write_authority
from ray_cluster import RayCluster, ray_cluster
from runs import command, eventually
from tls_relay import tls_relay

from distsgd import train

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster(nodes=1, environment={}) as running:
        yield running


class Submitter:
    """Runs the command in a folder of its own, with the cluster's token."""

    def __init__(self, cluster: RayCluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder

    def start(self, *arguments: str, **options) -> subprocess.Popen[str]:
        environment = options.pop("env", self.cluster.environment)
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | options
        words = [sys.executable, "-m", "distsgd.cli", "submit", "--address", self.cluster.dashboard, *arguments]
        return subprocess.Popen(words, cwd=self.folder, env=environment, text=True, **pipes)

    def run(self, *arguments: str, **options) -> tuple[int, str]:
        process = self.start(*arguments, **options)
        try:
            out, _ = process.communicate(timeout=150)
        finally:
            process.kill()
            process.wait()
        return process.returncode, out

    def halted(self, process: subprocess.Popen[str], fault: int) -> None:
        """Wait until the driver of the process's job has been halted."""
        try:
            self.cluster.await_fault(fault)
        except RuntimeError:
            process.kill()
            pytest.fail(process.communicate()[0])


@pytest.fixture
def submitter(cluster, tmp_path) -> Submitter:
    return Submitter(cluster, tmp_path)


def options(run_dir: Path, **values) -> list[str]:
    words = ["--workers", "1", "--run-dir", str(run_dir), "--set", "tracking.timeout_s=60"]
    return words + [f"--set={key.replace('__', '.')}={value}" for key, value in values.items()]


def result(run_dir: Path) -> dict:
    return json.loads((run_dir / "result.json").read_bytes())


def test_what_is_refused_exits_with_2_and_the_message(submitter, tmp_path):
    table = pa.table({"a": np.arange(40.0), "label": np.arange(40) % 2})
    bad = table.set_column(0, "a", pa.array([float("inf"), *range(39)]))
    pq.write_table(table, tmp_path / "rows.parquet")
    pq.write_table(bad, tmp_path / "bad.parquet")
    rows, run_dir = str(tmp_path / "rows.parquet"), tmp_path / "run"
    for words, message in (
        (["--set", "optim.lr=-1"], "optim.lr is -1"),
        (["--data", "/nowhere/rows.parquet"], "'/nowhere/rows.parquet' does not exist"),
        (["--data", rows, "--workers", "4"], "Ray has 1 in all"),
        (["--data", str(tmp_path / "bad.parquet")], "inf in column 'a'"),  # which only reading the rows shows
    ):
        code, out = submitter.run(*options(run_dir), *words)
        assert (code, message in out, "Traceback" in out) == (2, True, False), out
        assert not run_dir.exists()


def test_a_sweep_is_a_job_too_and_repeats_no_finished_trial(submitter, tmp_path):
    words = ["--run-dir", str(tmp_path / "sweep"), "--grid", "optim.lr=0.1,0.2", "--set", "train.max_steps=5"]
    words += ["--set", "tracking.enabled=false", "--set", "run.workers=1"]
    code, out = submitter.run(*words)
    assert (code, "submitted as distsgd-sweep-" in out) == (0, True), out
    trials = json.loads((tmp_path / "sweep" / "sweep.json").read_bytes())["trials"]
    assert [trial["state"] for trial in trials] == ["FINISHED", "FINISHED"]
    code, out = submitter.run(*words)
    assert (code, "is complete; nothing is left to train" in out) == (0, True), out


def test_token_and_address_are_checked_first(submitter, cluster, tmp_path):
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    without = {name: value for name, value in cluster.environment.items() if not name.startswith("RAY_AUTH")}
    for environment, words, message in (
        (cluster.environment | {"RAY_AUTH_TOKEN_PATH": str(wrong)}, [], "refuses this token"),
        (without | {"RAY_AUTH_MODE": "disabled"}, [], "requires its token"),
        (cluster.environment, ["--address", "http://127.0.0.1:9"], "no Ray cluster answers"),
        (cluster.environment, ["--address", "ray://127.0.0.1:9"], "expected the address of the cluster's dashboard"),
    ):
        code, out = submitter.run(*options(tmp_path / "run"), *words, env=environment)
        assert (code, message in out, "Traceback" in out) == (2, True, False), out


def test_the_clusters_own_distsgd_is_used_through_a_proxy_with_tls(submitter, cluster, tmp_path):
    write_authority(tmp_path / "authority")
    files, run_dir = tmp_path / "authority", tmp_path / "run"
    with tls_relay(cluster.dashboard, files / "crt", files / "key") as address:
        words = [*options(run_dir, train__max_steps=5), "--address", address]
        code, out = submitter.run(*words)
        assert (code, "is not trusted here" in out, "set REQUESTS_CA_BUNDLE" in out) == (2, True, True), out
        trusting = cluster.environment | {"REQUESTS_CA_BUNDLE": str(files / "ca.crt")}
        code, out = submitter.run(*words, "--installed", env=trusting)
        assert (code, "submitted as distsgd-run-" in out, "status        FINISHED" in out) == (0, True, True), out
    assert result(run_dir)["steps"] == 5


def test_a_job_survives_its_submitters_and_a_run_its_jobs(submitter, cluster, tmp_path):
    """The job is left, stopped, killed, lost with the head, and submitted again each time: same bits."""
    run_dir = tmp_path / "shared" / "run"
    words = [str(REPOSITORY / "jobs" / "digits.toml"), *options(run_dir, train__epochs=12, checkpoint__every_s=0.1)]
    cluster.inject(("SIGSTOP", 60), ("SIGKILL", 120), ("SIGSTOP", 180))

    first = submitter.start(*words)
    submitter.halted(first, 0)
    first.kill()
    out, _ = first.communicate()
    name = out.partition("submitted as ")[2].split()[0]
    assert "the cluster has 1 CPU on 1 node" in out
    assert f"MLflow store: sqlite:///{tmp_path}/shared/mlflow.db" in out

    second = submitter.start(*words)
    assert f"the job {name} is there, and RUNNING" in second.stdout.readline()
    assert eventually(lambda: "into" in second.stdout.readline())
    second.send_signal(signal.SIGINT)  # without a terminal, the job is left alone
    out, _ = second.communicate(timeout=60)
    assert (second.returncode, "runs on; the same command shows its log again" in out) == (130, True), out

    code, out = answered(submitter, words, cluster, run_dir)
    assert (code, "was stopped; submit it again" in out) == (143, True), out
    assert "stopping the job, which writes its checkpoint first" in out
    assert "continue with: distsgd submit --address" in out
    assert result(run_dir)["status"] == "KILLED"
    stopped_at = result(run_dir)["steps"]
    assert (run_dir / "checkpoints" / f"{stopped_at:08}.json").exists()

    code, out = submitter.run(*words)
    assert (code, "was killed by SIGKILL" in out) == (1, True), out
    assert f"resuming '{run_dir}' after step {stopped_at} of 276" in out

    fifth = submitter.start(*words)
    submitter.halted(fifth, 2)
    cluster.restart_head()
    out, _ = fifth.communicate(timeout=100)
    assert (fifth.returncode, "the cluster does not answer" in out) == (1, True), out
    assert f"was started again, and the job {name[:-1]}3 ended with the one before" in out
    assert "submit it again: the run continues from its newest checkpoint" in out

    code, out = submitter.run(*words)
    assert (code, out.count("status        FINISHED"), f"distsgd ui {run_dir}" in out) == (0, 1, True), out
    serial = train({"train.epochs": 12, "run.workers": 0, "run.dir": str(tmp_path / "s"), "tracking.enabled": False})
    assert result(run_dir)["weights_sha256"] == serial.weights_sha256


def answered(submitter: Submitter, words: list[str], cluster: RayCluster, run_dir: Path) -> tuple[int, str]:
    """Attach on a terminal, press Ctrl-C, and say that the job is to be stopped, which is halted until then."""
    ours, theirs = pty.openpty()
    process = submitter.start(*words, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""

    def read_until(expected: bytes) -> None:
        nonlocal shown
        while expected not in shown:
            try:
                shown += os.read(ours, 2**16)
            except OSError:  # the other side has gone
                assert expected == b"the end", shown
                return

    try:
        read_until(b" into ")
        process.send_signal(signal.SIGINT)
        read_until(b"go on following it (f)")
        os.write(ours, b"s\n")
        read_until(b"checkpoint first")
        (driver,) = [pid for pid in cluster.processes() if is_driver(pid, run_dir)]
        # Before Ray's signal is there, it would train on, to where the next fault is injected.
        assert eventually(lambda: is_pending(driver, signal.SIGTERM))
        os.kill(driver, signal.SIGCONT)
        read_until(b"the end")
        return process.wait(60), shown.decode()
    finally:
        os.close(ours)
        process.kill()
        process.wait()


def is_pending(pid: int, signum: int) -> bool:
    """Return whether a process has yet to receive a signal that was sent to it."""
    status = Path(f"/proc/{pid}/status").read_text()
    pending = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
    return any(signals >> (signum - 1) & 1 for signals in pending)


def is_driver(pid: int, run_dir: Path) -> bool:
    line = command(pid)
    return line.startswith("python jobs/train.py") and str(run_dir) in line
