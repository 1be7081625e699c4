"""Vectors sent through Ray calls, and answers that do not arrive."""

from __future__ import annotations

import os
import select
import signal
import time
from concurrent.futures import Future
from types import SimpleNamespace

import numpy as np
import pytest
from raylets import second_raylet
from runs import command, eventually, small_cluster

from distsgd.comm.ray_calls import CHUNK_BYTES, MAX_CHUNKS, ParameterChunks, RayPeer, cut, join, pack, unpack
from distsgd.comm.transport import PeerTimeoutError
from distsgd.core.reduction import CanonicalSummation, PartialSum

CHUNK = CHUNK_BYTES // 4
ONE, FOUR = CanonicalSummation(1), CanonicalSummation(4)


def parameters(size: int, step: int) -> np.ndarray:
    return np.random.default_rng(step).standard_normal(size, np.float32)


@pytest.mark.parametrize(
    "size", [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, MAX_CHUNKS * CHUNK, MAX_CHUNKS * CHUNK + 1]
)
def test_vectors_are_unchanged_by_splitting_and_joining(size):
    for vector in (parameters(size, 0), parameters(size, 0).astype(np.float64)):
        chunks = cut(vector)
        assert join(chunks).tobytes() == vector.tobytes()
        assert len(chunks) <= MAX_CHUNKS
        assert len(chunks) == 1 or max(chunk.nbytes for chunk in chunks) < 100_000


@pytest.mark.parametrize("size", [7, 2 * CHUNK + 5])
def test_partial_sums_are_unchanged_by_packing_and_unpacking(size):
    partials = [PartialSum((k, k + 1), parameters(size, k), k / 3, k + 5, k / 7) for k in range(3)]
    unpacked = unpack(pack(partials))
    assert [p._replace(gradient=None) for p in unpacked] == [p._replace(gradient=None) for p in partials]
    assert [p.gradient.tobytes() for p in unpacked] == [p.gradient.tobytes() for p in partials]


@pytest.mark.parametrize("size", [7, CHUNK, 2 * CHUNK + 5, MAX_CHUNKS * CHUNK])
def test_short_parameters_are_sent_inline(size):
    """Through Ray's object store, the smallest net's would take longer than a larger one's."""
    buffers = np.stack([parameters(size, 0), parameters(size, 1)])
    parameter_chunks = ParameterChunks(buffers)
    for step in range(3):
        for_step = parameter_chunks.for_step(step, step % 2)
        assert join(for_step).tobytes() == buffers[step % 2].tobytes()
        assert parameter_chunks.for_step(step, step % 2) is for_step, "once for all peers"
        assert len(for_step) == parameter_chunks.count(np.dtype(np.float32))


class Method:
    """An actor's method that is called and never answers."""

    def __init__(self) -> None:
        self.returns: list[int] = []

    def options(self, *, num_returns):
        self.returns.append(num_returns)
        return self

    def remote(self, *_):
        return [SimpleNamespace(future=Future) for _ in range(self.returns[-1])]


def test_a_call_returns_a_value_for_each_chunk_of_each_subtree_and_one_more():
    method, parameter_chunks = Method(), ParameterChunks(np.zeros((2, 2 * CHUNK + 5), np.float32))
    actor = SimpleNamespace(compute_chunks=method)
    peer = RayPeer(
        actor,
        "worker 0",
        "here",
        0,
        weight=1,
        parameter_chunks=parameter_chunks,
        summation=FOUR,
        timeout_s=1,
    )
    peer.start(0, range(1, 4), 0, update_here=False)  # the subtrees (1, 2) and (2, 4)
    assert method.returns == [1 + 2 * 3]
    peer.close()


TIMEOUT_S = 1.0


def class_with_large_answers() -> type:
    """Return an actor's class whose answers are too long to go with the reply: they stay in its node's object store.

    Made in a function, so that Ray sends the class itself: an actor's process cannot import this file.
    """

    class LargeAnswers:
        def compute_chunks(self, step, shards, *chunks):
            return pack([PartialSum((0, 1), np.ones(CHUNK * MAX_CHUNKS + 1, np.float32), 0.5, 3, 3.0)])

    return LargeAnswers


@pytest.mark.slow
def test_waiting_for_a_large_answer_from_an_unresponsive_node_times_out():
    import ray

    with small_cluster(cpus=1) as head, second_raylet(head.address, cpus=1) as second:
        ray.init(address=head.address, log_to_driver=False, logging_level="ERROR")
        try:
            assert eventually(lambda: ray.cluster_resources().get("CPU") == 2), "the second node did not join"
            here = ray.get_runtime_context().get_node_id()
            (there,) = [node["NodeID"] for node in ray.nodes() if node["NodeID"] != here]
            strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(there, soft=False)
            actor = ray.remote(class_with_large_answers()).options(num_cpus=0, scheduling_strategy=strategy).remote()
            chunks = ParameterChunks(np.zeros((2, CHUNK * MAX_CHUNKS + 1), np.float32))
            peer = RayPeer(
                actor,
                "worker 0",
                "there",
                0,
                weight=1,
                parameter_chunks=chunks,
                summation=ONE,
                timeout_s=TIMEOUT_S,
            )
            arrived = select.poll()
            arrived.register(peer.fileno(), select.POLLIN)

            peer.start(0, range(1), 0, update_here=False)
            assert arrived.poll(60_000)
            (partial,) = peer.receive().partials
            assert partial.gradient.sum() == CHUNK * MAX_CHUNKS + 1

            peer.start(1, range(1), 1, update_here=False)
            assert arrived.poll(60_000)
            raylets = [pid for pid in second.cli.processes() if "/raylet/raylet" in command(pid)]
            for pid in raylets:
                os.kill(pid, signal.SIGSTOP)
            began = time.monotonic()
            with pytest.raises(PeerTimeoutError, match="did not arrive within 1 s"):
                peer.receive()
            assert time.monotonic() - began < 5 * TIMEOUT_S
            peer.close()
            for pid in raylets:
                os.kill(pid, signal.SIGCONT)
        finally:
            ray.shutdown()
