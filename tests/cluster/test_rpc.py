"""The driver waits for several actors at once, and checks for signals meanwhile."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from distsgd.cluster import rpc
from distsgd.cluster.rpc import await_replies, await_reply, await_server
from distsgd.errors import ResourceError, ServerLostError, WorkerLostError
from distsgd.system.signals import StopRequest, noted_stop_signals

pytestmark = pytest.mark.usefixtures("joined")


@pytest.fixture
def actors():
    import os

    import ray

    class Actor:
        def reply(self, value, after_s=0.0):
            time.sleep(after_s)
            return value

        def die(self):
            os._exit(1)

        def refuse(self):
            raise ValueError("no")

    found = [ray.remote(Actor).options(num_cpus=0).remote() for _ in range(3)]
    ray.get([actor.reply.remote(0) for actor in found])
    yield found
    for actor in found:
        ray.kill(actor)


def test_one_timeout_for_all_and_ticks_meanwhile(actors):
    ticks: list[float] = []
    calls = [
        (actor.reply.remote(7, after_s), f"worker {n}")
        for n, (actor, after_s) in enumerate(zip(actors, (0, 9, 9), strict=True))
    ]
    began = time.monotonic()
    first, *others = await_replies(calls, 1.5, lambda: ticks.append(time.monotonic()))
    assert 1.4 < time.monotonic() - began < 2.7  # and not twice that
    assert first == 7
    for number, problem in enumerate(others, start=1):
        assert isinstance(problem, ResourceError)
        assert str(problem) == f"worker {number} has not answered for 1.5 s"
    assert len(ticks) >= 4


def test_a_dead_actor_gives_an_error_in_place_of_its_reply(actors):
    calls = [(actors[0].reply.remote(1), "a"), (actors[1].die.remote(), "worker 1"), (actors[2].reply.remote(3), "c")]
    first, death, last = await_replies(calls, 60, lambda: None)
    assert (first, last) == (1, 3)
    assert isinstance(death, WorkerLostError)
    assert str(death).startswith("worker 1 died (")


def test_what_tick_raises_ends_the_wait(actors):
    def tick() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await_replies([(actors[0].reply.remote(1, 9), "worker 0")], 60, tick)


def test_without_calls_there_is_nothing_to_wait_for():
    assert await_replies([], 60, lambda: None) == []


@pytest.mark.slow
def test_a_signal_to_stop_shortens_every_wait(actors, monkeypatch):
    monkeypatch.setattr(rpc, "STOPPING_S", 0.5)
    request = StopRequest()
    with noted_stop_signals(request):
        sender = threading.Timer(1.0, signal.raise_signal, [signal.SIGTERM])
        sender.start()
        began = time.monotonic()
        with pytest.raises(ServerLostError, match="is how long a run waits after a signal to stop"):
            await_server(actors[0].reply.remote(1, 9), 60)
        assert 1.4 < time.monotonic() - began < 5
        sender.join()
        with pytest.raises(ResourceError, match=r"worker 1 has not answered for 0\.5 s, which is "):
            await_reply(actors[1].reply.remote(1, 9), "worker 1", 60)
        (problem,) = await_replies([(actors[1].reply.remote(1, 9), "worker 1")], 60, lambda: None)
        assert isinstance(problem, ResourceError)
        assert await_server(actors[2].reply.remote(7), 60) == 7


def test_what_is_there_is_returned_even_if_no_time_is_left(actors):
    reply = actors[0].reply.remote(7)
    assert await_reply(reply, "worker 0", 60) == 7
    assert await_reply(reply, "worker 0", 0) == 7
