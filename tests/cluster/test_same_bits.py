"""The same weights and the same journal for any number of workers, after any stop and any crash."""

from __future__ import annotations

import dataclasses
import json
import logging
import random
import shlex
import signal
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from runs import RAY_ENVIRONMENT, Cli, eventually, finished, invoke, options, result, slow_but_for, timeless

import distsgd
from distsgd.system.faults import VARIABLE, Fault

pytestmark = pytest.mark.usefixtures("own_folder", "joined")

BASE = {
    "model.hidden": 16,
    "optim.l2": 1e-3,
    "train.epochs": 2,
    "train.num_shards": 4,
    "train.log_every": 7,
    "tracking.enabled": False,
}

CASES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "digits": ({}, [{"run.workers": 1}, {"run.workers": 2}, {"run.workers": 3}, {"run.workers": 2, "run.link": "ray"}]),
    "replacement, momentum, no normalisation, five shards": (
        {
            "train.sampling": "replacement",
            "optim.momentum": 0.9,
            "optim.lr": 0.003,
            "data.normalize": "none",
            "train.num_shards": 5,
        },
        [{"run.workers": 3}],
    ),
    "a last batch smaller than its seven shards, Nesterov, uint8, cosine": (
        {
            "data.train": "bytes.npz",
            "data.val_fraction": 0.1,
            "data.normalize": "unit",
            "train.batch_size": 60,
            "train.num_shards": 7,
            "optim.momentum": 0.8,
            "optim.nesterov": True,
            "optim.schedule": "cosine",
        },
        [{"run.workers": 3}],
    ),
    "clipped, a warm-up, all rows in each batch": (
        {"train.batch_size": 5000, "train.epochs": 9, "optim.clip_norm": 0.5, "optim.warmup_steps": 4},
        [{"run.workers": 2}],
    ),
    "AdamW, GELU": (
        {"optim.rule": "adamw", "model.activation": "gelu", "train.num_shards": 5},
        [{"run.workers": 2}, {"run.workers": 3}],
    ),
    "AdaGrad, no hidden layer": (
        {"optim.rule": "adagrad", "model.hidden": 0},
        [{"run.workers": 3}, {"run.workers": 2, "run.link": "ray"}],
    ),
}


def write_bytes() -> None:
    """Write 137 rows of bytes, of which 14 are held out and 123 are trained on: batches of 60, 60 and 3."""
    rng = np.random.default_rng(3)
    np.savez("bytes.npz", X=rng.integers(0, 256, (137, 20), dtype=np.uint8), y=np.arange(137) % 3)


QUICK = ("a last batch smaller than its seven shards, Nesterov, uint8, cosine",)


@pytest.mark.parametrize("case", slow_but_for(CASES, *QUICK))
def test_any_number_of_workers(case):
    values, dispatchers = CASES[case]
    write_bytes()
    serial = distsgd.train(BASE | values | {"run.workers": 0, "run.dir": "serial"})
    assert serial.steps == 6 if "bytes.npz" in values.values() else serial.steps >= 9
    assert serial.train_loss is not None
    assert serial.train_loss < 5
    for number, dispatcher in enumerate(dispatchers):
        found = distsgd.train(BASE | values | dispatcher | {"run.dir": f"{number}"})
        assert found.weights_sha256 == serial.weights_sha256, dispatcher
        assert timeless(Path(f"{number}")) == timeless(Path("serial")), dispatcher


def test_another_seed_or_number_of_shards_changes_the_weights():
    runs = [{}, {"train.seed": 1}, {"train.num_shards": 3}, {"data.split_seed": 2}]
    found = [
        distsgd.train(BASE | more | {"run.workers": 0, "run.dir": f"{number}"}) for number, more in enumerate(runs)
    ]
    assert len({run.weights_sha256 for run in found}) == len(runs)


LONG = BASE | {"model.hidden": 128, "train.epochs": 100, "optim.momentum": 0.5, "optim.lr": 0.05}
"""A run that takes a few seconds."""

STEPS = 100 * 23


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """The directory of a long run without interruptions."""
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    distsgd.train(LONG | {"run.workers": 0, "run.dir": str(path)})
    assert result(path)["steps"] == STEPS
    return path


def assert_same(path: Path, undisturbed: Path) -> None:
    found, expected = result(path), result(undisturbed)
    assert found["status"] == "FINISHED"
    for key in ("weights_sha256", "steps", "epochs", "train/loss", "val/loss", "val/accuracy"):
        assert found[key] == expected[key], key
    assert timeless(path) == timeless(undisturbed)


def start_long_run(cli: Cli, address: str, step: int, *arguments: str) -> Any:
    """Start a long run with two workers on the cluster, or resume it; return once it has halted after `step` steps."""
    faults = cli.folder / f"faults-{step}"
    faults.mkdir()
    halt = Fault("driver", 0, step, "journaled", "SIGSTOP")
    (faults / "faults.json").write_text(json.dumps([dataclasses.asdict(halt)]))
    cli.environment[VARIABLE] = str(faults / "faults.json")
    process = cli.start("train", "--address", address, "--run-dir", "run", "--workers", "2", *arguments)
    assert eventually(lambda: process.poll() is not None or is_stopped(process.pid))
    assert process.poll() is None, process.communicate()
    return process


def is_stopped(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED


@pytest.mark.parametrize(
    ("signum", "code"),
    [pytest.param(signum, 128 + signum, marks=pytest.mark.slow) for signum in (signal.SIGTERM, signal.SIGINT)],
)
def test_stopped_at_a_random_step_and_resumed(signum, code, own_folder, cluster, undisturbed):
    step = random.randrange(1, STEPS // 2)
    cli = Cli(own_folder, RAY_ENVIRONMENT)
    process = start_long_run(cli, cluster.address, step, *options(LONG))
    for arguments in ([], ["--resume"]):
        refused = invoke("train", "--run-dir", "run", "--workers", "0", *arguments)
        assert refused.code == 2, refused.err
        assert ("another driver is using" if arguments else "holds another run") in refused.err
    process.send_signal(signum)
    process.send_signal(signal.SIGCONT)
    stopped = finished(process)
    assert stopped.code == code, stopped.err
    assert "Traceback" not in stopped.err
    found = result(own_folder / "run")
    assert found["status"] == "KILLED"
    assert step <= found["steps"] < STEPS
    assert not (own_folder / "run" / "model.npz").exists()
    line = stopped.err.splitlines()[-1]
    assert line.startswith(f"distsgd: stopped by {signum.name} after step {found['steps']} of {STEPS}; ")
    _, remedy = line.split("continue with: distsgd ")
    resumed = cli.run(*shlex.split(remedy), "--workers", "3")
    assert resumed.code == 0, resumed.err
    assert f"after step {found['steps']} of {STEPS}" in resumed.err
    assert_same(own_folder / "run", undisturbed)


@pytest.mark.slow
def test_a_killed_driver_and_another_killed_driver(own_folder, cluster, undisturbed):
    steps = sorted(random.sample(range(1, STEPS * 3 // 4), 2))
    cli = Cli(own_folder, RAY_ENVIRONMENT)
    for step, arguments in zip(steps, (options(LONG), ["--resume"]), strict=True):
        process = start_long_run(cli, cluster.address, step, *arguments)
        process.kill()
        assert finished(process).code == -signal.SIGKILL
        assert not (own_folder / "run" / "result.json").exists()
    finished_run = distsgd.train({"run.dir": "run", "run.workers": 0}, resume=True)
    assert finished_run.steps == STEPS
    assert_same(own_folder / "run", undisturbed)
    again = cli.run("train", "--resume", "--run-dir", "run")
    assert again.code == 0
    assert "has finished; nothing is left to do" in again.err
    assert_same(own_folder / "run", undisturbed)


@pytest.mark.slow
def test_a_killed_driver_of_a_run_whose_rule_has_two_state_vectors(own_folder, cluster):
    """Adam's bias correction needs the number of the step, as its mean and its squares are those of the checkpoint."""
    keys = LONG | {"optim.rule": "adam", "optim.momentum": 0.0, "optim.lr": 0.002, "model.activation": "tanh"}
    undisturbed = distsgd.train(keys | {"run.workers": 0, "run.dir": "undisturbed"})
    process = start_long_run(Cli(own_folder, RAY_ENVIRONMENT), cluster.address, 500, *options(keys))
    process.kill()
    assert finished(process).code == -signal.SIGKILL
    assert distsgd.train({"run.dir": "run", "run.workers": 3}, resume=True).steps == undisturbed.steps == STEPS
    assert_same(own_folder / "run", own_folder / "undisturbed")


@pytest.mark.slow
def test_missing_shared_memory_is_logged_in_one_line(own_folder, monkeypatch, caplog):
    from distsgd.cluster.worker_group import WorkerGroup

    connect_all = WorkerGroup.connect_all

    def connect_elsewhere(self: WorkerGroup, server: Any, location: Any) -> None:
        connect_all(self, server, location._replace(address="distsgd-nobody-listens-here"))

    serial = distsgd.train(BASE | {"run.workers": 0, "run.dir": "serial"}).weights_sha256
    monkeypatch.setattr(WorkerGroup, "connect_all", connect_elsewhere)
    with caplog.at_level(logging.WARNING, "distsgd"):
        found = distsgd.train(BASE | {"run.workers": 1, "run.dir": "run"})
    assert found.weights_sha256 == serial
    (line,) = [record.getMessage() for record in caplog.records if "shared memory" in record.getMessage()]
    assert "is reached by plain Ray calls: no shared memory (ConnectionRefusedError" in line
