"""A session keeps the Ray that its first run has started, for as long as it can be used and not longer."""

from __future__ import annotations

import contextlib
import os
from collections import namedtuple
from dataclasses import replace

import pytest
from runs import Cli, leaving_nothing

from distsgd.cluster import connection, local_ray
from distsgd.cluster.connection import ProcessConnection, RaySession, Use
from distsgd.cluster.local_ray import LocalRay
from distsgd.errors import ResourceError, TrainingError

ROOM = 100
"""Bytes of rows that there is room for in a session."""


@pytest.fixture
def ray(monkeypatch):
    """A connection of its own that writes down what is started and ended, instead of doing so."""
    made = ProcessConnection()
    monkeypatch.setattr(connection, "CONNECTION", made)
    recorded = Recorded(made)
    monkeypatch.setattr(connection, "_is_initialized", lambda: recorded.is_up)
    monkeypatch.setattr(LocalRay, "with_room", lambda self: replace(self, data_bytes=max(self.data_bytes, ROOM)))
    return recorded


class Recorded:
    def __init__(self, made: ProcessConnection) -> None:
        self.connection = made
        self.events: list[str] = []
        self.uses: list[Use] = []
        self.is_up = False

    def end(self) -> None:
        self.events.append("end")
        self.is_up = False

    @contextlib.contextmanager
    def run(self, rows: int = 50, cpus: int = 2, threads: str = "1", address: str | None = None):
        """Use the connection as a run does, whose rows are read in between."""
        wanted = address or LocalRay({"OMP_NUM_THREADS": threads}, cpus, rows)

        def connect(_, stack):
            self.events.append("start")
            self.is_up = True
            stack.callback(self.end)

        with self.connection.used(address, connect if address else None) as joined:
            if joined is not Use.NONE:
                self.uses.append(joined)
                yield
                return
            with self.connection.used(wanted, connect) as use:
                self.uses.append(use)
                yield


def test_without_a_session_every_run_starts_ray(ray):
    for _ in range(2):
        with ray.run():
            pass
    assert ray.events == ["start", "end"] * 2


def test_runs_in_a_session_share_one_ray_that_ends_with_it(ray):
    with RaySession() as session:
        for _ in range(3):
            with ray.run():
                pass
        assert ray.events == ["start"]
    assert ray.events == ["start", "end"]
    assert ray.uses == [Use.MADE, Use.KEPT, Use.KEPT]
    session.close()
    assert ray.events == ["start", "end"]


def test_sessions_within_each_other_end_ray_once(ray):
    with RaySession():
        with RaySession(), ray.run():
            pass
        assert ray.events == ["start"]
    assert ray.events == ["start", "end"]


def test_a_session_that_ends_during_a_run_leaves_ray_to_it(ray):
    session = RaySession()
    with ray.run():
        session.close()
        assert ray.events == ["start"]
    assert ray.events == ["start", "end"]


@pytest.mark.parametrize("needs", [{"rows": ROOM + 1}, {"cpus": 3}, {"threads": "2"}, {"address": "host:6379"}])
def test_a_ray_that_does_not_suit_is_replaced(ray, needs):
    with RaySession():
        with ray.run():
            pass
        with ray.run(**needs):
            pass
        assert ray.events == ["start", "end", "start"]
    assert ray.events == ["start", "end"] * 2


def test_a_run_that_needs_less_uses_what_there_is(ray):
    with RaySession(), ray.run():
        pass
    ray.events.clear()
    with RaySession():
        for rows in (50, 1):
            with ray.run(rows=rows, cpus=1 if rows == 1 else 2):
                pass
        assert ray.events == ["start"]


def test_in_a_session_there_is_room_for_the_rows_of_larger_runs(ray):
    """As in a grid search, whose last fit has the rows of all folds."""
    with RaySession():
        for rows in (1, 50, ROOM):
            with ray.run(rows=rows):
                pass
        assert ray.events == ["start"]


GIB = 2**30


@pytest.mark.parametrize(
    ("rows", "memory", "shared", "room"),
    [
        (1000, 16 * GIB, 16 * GIB, 4 * GIB - local_ray.STORE_RESERVE),
        (1000, 16 * GIB, 4 * GIB, 2 * GIB - local_ray.STORE_RESERVE),
        (1000, 16 * GIB, 64 * 2**20, 1000),  # as in a container
        (8 * GIB, 16 * GIB, 16 * GIB, 8 * GIB),
    ],
)
def test_the_room_in_a_session_is_a_part_of_what_is_free(monkeypatch, rows, memory, shared, room):
    monkeypatch.setattr(local_ray, "memory_limit", lambda: memory)
    monkeypatch.setattr(local_ray.shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(shared))
    assert LocalRay({}, 2, rows).with_room() == LocalRay({}, 2, room)


def test_without_shared_memory_there_is_no_more_room(monkeypatch):
    monkeypatch.setattr(local_ray, "SHARED_MEMORY", "/nowhere")
    assert LocalRay({}, 2, 1000).with_room() == LocalRay({}, 2, 1000)


def test_a_cluster_that_was_joined_is_kept_until_another_one_is_named(ray):
    with RaySession():
        for address in ("a:1", "a:1", None):
            with ray.run(address=address):
                pass
        assert ray.events == ["start"]
        with ray.run(address="b:1"):
            pass
        assert ray.events == ["start", "end", "start"]


@pytest.mark.parametrize(("error", "kept"), [(ResourceError, True), (KeyboardInterrupt, True), (TrainingError, False)])
def test_ray_is_kept_after_a_refusal_and_not_after_a_failure(ray, error, kept):
    with RaySession():
        with pytest.raises(error), ray.run():
            raise error("refused or failed")
        assert ray.events == (["start"] if kept else ["start", "end"])
        with ray.run():
            pass
    assert ray.events == ["start", "end"] * (1 if kept else 2)


def test_ray_is_started_again_after_the_caller_has_shut_it_down(ray):
    with RaySession():
        with ray.run():
            pass
        ray.is_up = False  # ray.shutdown()
        with ray.run():
            assert ray.is_up
    assert ray.uses == [Use.MADE, Use.MADE]
    assert ray.events == ["start", "end"] * 2


def test_an_error_in_the_session_ends_ray(ray):
    def analyse():
        with RaySession():
            with ray.run():
                pass
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        analyse()
    assert ray.events == ["start", "end"]


def test_a_session_that_is_never_closed_ends_with_the_interpreter(ray):
    session = RaySession()
    with ray.run():
        pass
    ray.connection._end_at_exit()
    assert ray.events == ["start", "end"]
    session.close()
    assert ray.events == ["start", "end"]


@pytest.mark.timeout(60)
def test_a_forked_process_does_not_end_its_parents_ray(ray):
    session = RaySession()
    with ray.run():
        pass
    child = os.fork()
    if child == 0:
        session.close()
        ray.connection._end_at_exit()
        os._exit(len(ray.events))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 1
    session.close()
    assert ray.events == ["start", "end"]


SCRIPT = """
import os, signal
import distsgd, numpy, ray
from distsgd.sklearn import DistSGDClassifier

def train(name):
    given = {"run.workers": 1, "tracking.enabled": False, "run.dir": name, "train.max_steps": 5}
    return distsgd.train(given).weights_sha256

try:
    with distsgd.session() as session:
        sha = train("first")
        node = ray.get_runtime_context().get_node_id()
        if os.fork() == 0:
            session.close()
            os._exit(0)
        os.wait()
        assert train("second") == sha
        larger = DistSGDClassifier(workers=1, max_iter=1)
        larger.fit(numpy.eye(20_000, 800, dtype="float32"), numpy.arange(20_000) % 2)  # 64 MB
        assert ray.get_runtime_context().get_node_id() == node
        ray.shutdown()
        assert train("third") == sha
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
except KeyboardInterrupt:
    print("interrupted", ray.is_initialized(), flush=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_session_on_ray_survives_a_fork_and_leaves_nothing_after_ctrl_c(tmp_path):
    with leaving_nothing(tmp_path) as cli:
        assert isinstance(cli, Cli)
        found = cli.run_python("-c", SCRIPT)
    assert found.code == 0, found.err
    assert found.out.splitlines() == ["interrupted False"]
    assert "Traceback" not in found.err
