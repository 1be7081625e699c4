"""What a user sees when a run cannot go on as it was: too few workers, a killed driver, a hurried stop, bad numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raylets import second_raylet
from runs import (
    RAY_ENVIRONMENT,
    Cli,
    chains,
    command,
    eventually,
    finished,
    journal,
    options,
    result,
    small_cluster,
    timeless,
)

import distsgd
from distsgd.cluster.trainer import RayTrainer
from distsgd.rundir import checkpoint
from distsgd.rundir import directory as rundir
from distsgd.system.faults import VARIABLE, Fault

BASE = {"model.hidden": 16, "train.epochs": 4, "train.log_every": 7, "tracking.enabled": "false"}

ENDLESS = BASE | {"train.epochs": 10**6}


@pytest.fixture
def cli(own_folder, cluster) -> Iterator[Cli]:
    """The command on the tests' cluster, where nothing of it is alive a minute after the test."""
    found = Cli(own_folder, {**RAY_ENVIRONMENT, "RAY_ADDRESS": cluster.address})
    try:
        yield found
        assert not found.await_end()
        assert not still_acting(own_folder)
    finally:
        found.kill()


def arm(cli: Cli, *faults: Fault) -> None:
    """Have faults strike the next run."""
    folder = cli.folder / "faults"
    folder.mkdir()
    (folder / "faults.json").write_text(json.dumps([dataclasses.asdict(fault) for fault in faults]))
    cli.environment[VARIABLE] = str(folder / "faults.json")


def actors(folder: Path) -> list[int]:
    """Return the actors that are alive of runs in a folder; the variable that arms faults gives them away."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it is gone meanwhile
            mine = entry.name.isdigit() and str(folder).encode() in (entry / "environ").read_bytes()
            if mine and b"Actor" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def still_acting(folder: Path) -> list[int]:
    """Return the actors that are alive when all of them should be gone."""
    eventually(lambda: not actors(folder), 60)
    return actors(folder)


def undisturbed(folder: Path, values: dict[str, Any]) -> Path:
    """Return the directory of a run of the serial loop."""
    path = folder / "undisturbed"
    distsgd.train(values | {"run.workers": 0, "run.dir": str(path)})
    return path


def assert_same(path: Path, expected: Path) -> None:
    assert result(path)["status"] == "FINISHED"
    assert result(path)["weights_sha256"] == result(expected)["weights_sha256"]
    assert timeless(path) == timeless(expected)
    assert chains(path) == chains(expected)


def newest_checkpoint(path: Path) -> int:
    """Return the step of the newest checkpoint of a run, which has to be valid."""
    directory, _, digest = rundir.read(path)
    found, problems = checkpoint.load_newest(directory.checkpoints, rundir.identity(directory, digest))
    assert found is not None
    assert not problems
    return found.step


@pytest.mark.slow
def test_too_few_workers_end_the_run_with_a_checkpoint_and_it_can_be_resumed(cli):
    """Every step is journalled, and hundreds of them between two looks at the server: no line may go missing."""
    arm(cli, Fault("worker", 1, 400, "computed"))
    limits = {"run.max_restarts": 0, "run.min_workers": 2}
    each = {"train.batch_size": 3, "train.num_shards": 3, "train.log_every": 1, "optim.lr": 0.005}
    # One worker alone does not get through it between two looks, nor is the loss first found in validation.
    long = BASE | each | {"train.epochs": 16, "train.eval_every": 16}
    failed = cli.run("train", "--run-dir=run", "--workers=2", *options(long, limits))
    assert failed.code == 1, failed.err
    assert "Traceback" not in failed.err
    message = failed.err.splitlines()[-1]
    assert message.startswith("distsgd: 1 of 2 workers is left, which is fewer than run.min_workers, 2, and ")
    assert "continue with --resume" in message
    lost = next(line for line in failed.err.splitlines() if " was lost " in line)
    assert re.match(r"warning: worker 1 on \S+ was lost in step 400: died: end of", lost)
    found = result(cli.folder / "run")
    assert (found["status"], found["steps"]) == ("FAILED", newest_checkpoint(cli.folder / "run"))
    assert 400 <= found["steps"] < 16 * 480
    resumed = cli.run("train", "--run-dir=run", "--resume", "--workers=3")
    assert resumed.code == 0, resumed.err
    assert_same(cli.folder / "run", undisturbed(cli.folder, long))


@pytest.mark.slow
def test_a_worker_that_is_not_replaced_any_more_is_done_without(cli):
    arm(cli, Fault("worker", 0, 40, "asked"))
    arguments = options(BASE, {"run.max_restarts": 0, "train.epochs": 120})
    found = cli.run("train", "--run-dir=run", "--workers=2", *arguments)
    assert found.code == 0, found.err
    assert (
        "warning: worker 0 is not replaced any more (run.max_restarts is 0); the others go on without it" in found.err
    )
    assert_same(cli.folder / "run", undisturbed(cli.folder, BASE | {"train.epochs": 120}))


@pytest.mark.slow
def test_a_server_that_is_not_replaced_any_more_ends_the_run_and_it_can_be_resumed(cli):
    arm(cli, Fault("server", 0, 30, "gathered"), Fault("server", 0, 60, "applied"))
    failed = cli.run("train", "--run-dir=run", "--workers=2", *options(BASE, {"run.max_restarts": 1}))
    assert failed.code == 1, failed.err
    assert "Traceback" not in failed.err
    message = failed.err.splitlines()[-1]
    assert message.startswith("distsgd: the parameter server died (")
    assert "is not replaced any more (run.max_restarts is 1); what was trained up to step 46 is in the" in message
    assert newest_checkpoint(cli.folder / "run") == result(cli.folder / "run")["steps"] == 46
    resumed = cli.run("train", "--run-dir=run", "--resume")
    assert resumed.code == 0, resumed.err
    assert_same(cli.folder / "run", undisturbed(cli.folder, BASE))


@pytest.mark.slow
def test_a_server_that_is_killed_while_it_starts_is_replaced(own_folder, monkeypatch):
    import ray

    def launch(trainer: RayTrainer, *arguments: Any) -> None:
        launched(trainer, *arguments)
        if not killed:
            killed.append(trainer._server)
            ray.kill(trainer._server)

    killed: list[Any] = []
    launched = RayTrainer._launch_server
    monkeypatch.setattr(RayTrainer, "_launch_server", launch)
    found = distsgd.train(BASE | {"run.dir": "run", "run.workers": 2})
    assert killed
    assert any("the parameter server" in text and "a new one is started" in text for text in found.warnings)
    assert_same(own_folder / "run", undisturbed(own_folder, BASE))


@pytest.mark.slow
def test_no_actor_outlives_a_killed_driver_on_a_cluster_by_a_minute(cli):
    arm(cli)
    process = cli.start("train", "--run-dir=run", "--workers=2", *options(ENDLESS))
    assert eventually(lambda: process.poll() is not None or len(journal(cli.folder / "run")) > 1)
    assert len(actors(cli.folder)) == 3
    process.kill()
    process.communicate()
    assert not still_acting(cli.folder)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_stopped_worker_is_named_within_15_seconds_and_replaced(own_folder, nodes):
    """With the default settings, on the server's node and alone on another, where it is connected by TCP."""
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(small_cluster(cpus=3 - nodes))
        cli = Cli(own_folder, {**RAY_ENVIRONMENT, "RAY_ADDRESS": cluster.address})
        stack.callback(cli.kill)
        arm(cli)
        second = stack.enter_context(second_raylet(cluster.address, cpus=2)) if nodes == 2 else None
        process = stack.enter_context(cli.start("train", "--run-dir=run", f"--workers={1 + nodes}", *options(ENDLESS)))
        stack.callback(process.kill)
        # By then a slow first step, in which libraries and rows are loaded, is forgotten.
        assert eventually(
            lambda: process.poll() is not None or [r for r in journal(own_folder / "run") if r["step"] > 500]
        )

        def workers() -> list[int]:
            elsewhere = () if second is None else second.cli.processes()  # two workers, and hence the server
            return [pid for pid in actors(own_folder) if "WorkerActor" in command(pid) and pid not in elsewhere]

        assert process.poll() is None, process.communicate()
        before = workers()
        assert len(before) == 3 - nodes
        os.kill(before[0], signal.SIGSTOP)
        began = time.monotonic()
        assert process.stderr is not None
        line = next(line for line in process.stderr if "warning" in line)
        assert time.monotonic() - began < 15
        computing = r"has not answered for 10 s while it computed shards? \d"
        # Stopped after its answer, before its node's gradients had left.
        sending = r"has not sent its gradients of step \d+ for 10 s, by the connection from \S+ to \S+"
        in_step = rf"step \d+: ({computing}|{sending})"
        # In a validation, the process may have been ended already, for a step in which it was silent.
        in_validation = "validation: (has not answered for 10 s|died)"
        assert re.match(rf"warning: worker \d on \S+ was lost in ({in_step}|{in_validation})", line), line
        assert eventually(lambda: before[0] not in workers() and len(workers()) == len(before))
        process.send_signal(signal.SIGTERM)
        stopped = finished(process)
        assert stopped.code == 143, stopped.err
        assert "warning: worker" not in stopped.err
        steps = result(own_folder / "run")["steps"]
        expected = undisturbed(own_folder, ENDLESS | {"train.max_steps": steps})
        assert result(own_folder / "run")["weights_sha256"] == result(expected)["weights_sha256"]


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(cli):
    """The first one waits for the end of a step, which a stopped worker puts off for ten seconds."""
    arm(cli, Fault("worker", 0, 30, "asked", "SIGSTOP"))
    process = cli.start("train", "--run-dir=run", "--workers=2", *options(ENDLESS))
    assert eventually(lambda: process.poll() is not None or (cli.folder / "faults" / "0.struck").exists())
    process.send_signal(signal.SIGINT)
    time.sleep(2)
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    stopped = finished(process)
    assert stopped.code == 130, stopped.err
    assert stopped.err.splitlines()[-1] == "distsgd: stopped at once by a second Ctrl-C; continue with --resume"
    assert result(cli.folder / "run")["status"] == "KILLED"
    newest_checkpoint(cli.folder / "run")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_signal_ends_a_run_whose_server_hangs(cli):
    """Otherwise it is waited for a minute, and then replaced."""
    arm(cli, Fault("server", 0, 30, "applied", "SIGSTOP"))
    process = cli.start("train", "--run-dir=run", "--workers=2", *options(ENDLESS))
    assert eventually(lambda: process.poll() is not None or (cli.folder / "faults" / "0.struck").exists())
    process.send_signal(signal.SIGTERM)
    stopped = finished(process)
    assert stopped.code == 143, stopped.err
    assert "warning: the parameter server has not answered for 1" in stopped.err
    assert "s, which is how long a run waits after a signal to stop; the steps after step 23 are lost" in stopped.err
    assert "stopped by SIGTERM after step 23 of 23000000; continue with: " in stopped.err
    assert newest_checkpoint(cli.folder / "run") == 23


@pytest.mark.slow
@pytest.mark.parametrize(("every", "step"), [(1, 23), pytest.param(4, 92, id="the last one")])
def test_a_signal_in_a_validation_ends_it_and_resuming_begins_with_it(cli, every, step):
    """A worker that hangs in a validation is waited for ten seconds, but not if a signal comes."""
    values = BASE | {"train.eval_every": every}
    arm(cli, Fault("worker", 0, 1, "validating", "SIGSTOP"))
    process = cli.start("train", "--run-dir=run", "--workers=2", *options(values))
    assert eventually(lambda: process.poll() is not None or (cli.folder / "faults" / "0.struck").exists())
    process.send_signal(signal.SIGTERM)
    stopped = finished(process)
    assert stopped.code == 143, stopped.err
    assert f"stopped by SIGTERM after step {step} of 92" in stopped.err
    assert "Traceback" not in stopped.err
    assert result(cli.folder / "run")["status"] == "KILLED"
    assert newest_checkpoint(cli.folder / "run") == step
    resumed = cli.run("train", "--run-dir=run", "--resume")
    assert resumed.code == 0, resumed.err
    assert f"after step {step} of 92" in resumed.err
    assert_same(cli.folder / "run", undisturbed(cli.folder, values))


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_replacement_that_never_gets_ready_is_given_up(cli):
    """Only the replacement's deadline is shortened, once its process is there: the rest may take long."""
    arm(cli, Fault("worker", 1, 40, "computed"), Fault("worker", 1, 1, "initializing", "SIGSTOP"))
    script = """
import dataclasses, time
from distsgd.cli import main
from distsgd.cluster.worker_group import WorkerGroup
from distsgd.cluster.worker_state import Starting

def advance(group, worker):
    before = worker.state
    original(group, worker)
    if worker.restarts and isinstance(worker.state, Starting) and worker.state is not before:
        worker._state = dataclasses.replace(worker.state, deadline=time.monotonic() + 5)

original, WorkerGroup._advance = WorkerGroup._advance, advance
main()
"""
    limits = {"run.max_restarts": 1, "run.min_workers": 2}
    arguments = ["train", "--run-dir=run", "--workers=2", *options(ENDLESS, limits)]
    failed = finished(cli.start_python("-c", script, *arguments), 200)
    assert failed.code == 1, failed.err
    assert re.search(r"warning: worker 1 on \S+ was lost: was not ready 60 s after its process started", failed.err)
    assert "distsgd: 1 of 2 workers is left, which is fewer than run.min_workers, 2, and " in failed.err
    newest_checkpoint(cli.folder / "run")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_auto_grows_and_shrinks_with_the_cluster(own_folder):
    values = ENDLESS | {"train.num_shards": 4}
    with small_cluster(cpus=1) as cluster:
        cli = Cli(own_folder, {**RAY_ENVIRONMENT, "RAY_ADDRESS": cluster.address})
        arm(cli)
        process = cli.start("train", "--run-dir=run", "--workers=auto", *options(values))
        try:
            assert eventually(lambda: process.poll() is not None or len(journal(own_folder / "run")) > 1)
            assert len(actors(own_folder)) == 2  # a server, a worker
            with second_raylet(cluster.address, cpus=2) as raylet:
                # Two workers more, and an aggregator, unless one of them was connected before the other was there.
                assert eventually(lambda: len(actors(own_folder)) in (4, 5))
                step = journal(own_folder / "run")[-1]["step"]
                assert eventually(lambda: journal(own_folder / "run")[-1]["step"] > step + 500)
                raylet.kill()
                assert eventually(lambda: len(actors(own_folder)) == 2)
                step = journal(own_folder / "run")[-1]["step"]
                assert eventually(lambda: journal(own_folder / "run")[-1]["step"] > step + 500)
            process.send_signal(signal.SIGTERM)
            stopped = finished(process)
            assert stopped.code == 143, stopped.err
            assert "Traceback" not in stopped.err
        finally:
            cli.kill()
    steps = result(own_folder / "run")["steps"]
    expected = distsgd.train(values | {"train.max_steps": steps, "run.workers": 0, "run.dir": "undisturbed"})
    assert result(own_folder / "run")["weights_sha256"] == expected.weights_sha256
    both = [
        [{key: record[key] for key in ("step", "train/loss") if key in record} for record in timeless(Path(name))[:-1]]
        for name in ("run", "undisturbed")
    ]
    assert both[0][: len(both[1])] == both[1][: len(both[0])]


@pytest.mark.slow
def test_numbers_that_overflow_stop_the_run_and_name_the_rows(cli):
    for workers in (0, 2):
        failed = cli.run(
            "train", f"--run-dir=run-{workers}", f"--workers={workers}", *options(BASE, {"optim.lr": 1e18})
        )
        assert failed.code == 1
        assert "Traceback" not in failed.err
        print(failed.err)
        message = failed.err.splitlines()[-1]
        assert "not finite" in message
        assert "shard" in message
        assert "row" in message
        assert "optim.lr" in message
        found = result(cli.folder / f"run-{workers}")
        assert found["status"] == "FAILED"
        assert found["steps"] == newest_checkpoint(cli.folder / f"run-{workers}")
        assert f"step {found['steps'] + 1}:" in message
    assert result(cli.folder / "run-0")["weights_sha256"] == result(cli.folder / "run-2")["weights_sha256"]


@pytest.mark.slow
def test_steps_with_bad_numbers_are_skipped_if_that_is_asked_for(cli):
    rng = np.random.default_rng(5)
    X, y = rng.standard_normal((300, 8)).astype(np.float32), np.arange(300) % 3
    X[[17, 18]] = 3e38  # hidden units overflow
    np.savez(cli.folder / "rows.npz", X=X, y=y)
    values = BASE | {"data.train": "rows.npz", "data.normalize": "none", "data.val_fraction": 0, "train.log_every": 1}
    values |= {"train.on_nonfinite": "skip", "train.batch_size": 20}
    expected = undisturbed(cli.folder, values)
    found = cli.run("train", "--run-dir=run", "--workers=2", *options(values))
    assert found.code == 0, found.err
    assert_same(cli.folder / "run", expected)
    lines = journal(cli.folder / "run")
    assert len(lines) == 4 * 15
    assert 4 <= lines[-1]["train/skipped_steps"] <= 8  # once or twice in each of four epochs
    assert np.isfinite(distsgd.Result.read(cli.folder / "run").model.predict_proba(X[:5])).all()
