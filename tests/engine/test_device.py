"""A worker on a device, with a fake CuPy whose arrays do not mix with NumPy's: the bits are those of the CPU."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from plain_training import some_spec, worker_of

from distsgd.config import OptimConfig
from distsgd.core import numerics, optim, reduction
from distsgd.core.backend import array_module, cuda_problem, to_host
from distsgd.core.reduction import PartialSum
from distsgd.core.update_rules import Step, update_rule
from distsgd.data import ArrayRows, BatchTransform
from distsgd.engine import worker
from distsgd.engine.aggregation import Aggregation
from distsgd.engine.serial import SerialLoop
from distsgd.engine.server import ParameterServer
from distsgd.engine.spec import RunSpec


@pytest.fixture(autouse=True)
def _one_blas_thread(stand_in):
    with numerics.pinned_blas(1, None):
        yield


def with_held_out(spec: RunSpec) -> RunSpec:
    shift = np.linspace(0, 1, spec.net.features, dtype=np.float32)
    transform = BatchTransform(shift, np.array([0.25], np.float32))
    return dataclasses.replace(spec, data=dataclasses.replace(spec.data, val=spec.data.train, transform=transform))


SPECS = {
    "float32": with_held_out(some_spec(train__num_shards=7)),
    "uint8": with_held_out(some_spec(features=130, rows=150, dtype="u1", model__hidden=33, train__num_shards=4)),
    "shards without examples": with_held_out(some_spec(rows=33, train__num_shards=9)),
}


def same(found: list[PartialSum], expected: list[PartialSum]) -> bool:
    return [(p.node, p.loss, p.examples, p.gradient.tobytes()) for p in found] == [
        (p.node, p.loss, p.examples, p.gradient.tobytes()) for p in expected
    ]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_worker_computes_numpys_bits(spec, monkeypatch):
    monkeypatch.setattr(worker, "PREFETCH_BYTES", 2**40)
    device, host, num_shards = worker_of(spec, "cuda"), worker_of(spec), spec.config.train.num_shards
    for step, shards in [(0, range(num_shards)), (1, range(1, 3)), (2, range(num_shards)), (3, range(3, 4))]:
        flat = spec.net.initial(step)
        out = np.full((reduction.max_subtrees(num_shards), spec.net.size), np.nan, np.float32)
        found = device.compute(step, flat, shards, out if step % 2 else None)
        assert all(isinstance(partial.gradient, np.ndarray) for partial in found)
        assert same(found, host.compute(step, flat, shards))
        device.prefetch(step + 1, shards, update_here=True)
        assert same(device.compute(step + 1, flat, shards), host.compute(step + 1, flat, shards))
    assert device.evaluate(flat, range(1)) == host.evaluate(flat, range(1))


@pytest.mark.parametrize("values", [{}, {"optim__momentum": 0.9, "optim__nesterov": True}, {"optim__clip_norm": 0.1}])
def test_training_with_a_device_worker_gives_the_bits_of_the_serial_loop(values):
    spec = with_held_out(some_spec(dtype="u1", **values))
    computing = worker_of(spec, "cuda")

    class Link:
        buffers = np.zeros((2, spec.net.size), np.float32)

        def exchange(self, step: int, buffer: int, shards: range) -> list[PartialSum]:
            return computing.compute(step, self.buffers[buffer], shards)

    server = ParameterServer(config=spec.config, net=spec.net, plan=spec.plan, start=spec.start, link=Link())
    assert server.run(10) == 10
    loop, state = SerialLoop(spec), spec.start
    for _ in range(10):
        state, _ = loop.step(state)
    assert server.parameters.tobytes() == state.parameters.tobytes()


@pytest.mark.parametrize(
    "config",
    [
        OptimConfig(l2=0.01),
        OptimConfig(l2=0.01, momentum=0.9, clip_norm=0.5),
        OptimConfig(momentum=0.9, nesterov=True),
        OptimConfig(rule="adagrad", l2=0.01),
        OptimConfig(rule="rmsprop", clip_norm=0.5),
        OptimConfig(rule="adam", l2=0.01),
        OptimConfig(rule="adamw", l2=0),
        OptimConfig(weight_decay=0.1, momentum=0.5),
    ],
)
@pytest.mark.parametrize("nodes", [[(0, 1), (1, 2)], [(0, 2)]])
def test_updates_on_the_device_have_numpys_bits(stand_in, monkeypatch, config, nodes):
    monkeypatch.setattr(optim, "BLOCK", 17)
    net = some_spec().net
    rng = np.random.default_rng(0)
    left, right, weights, state = (rng.standard_normal(net.size, np.float32) for _ in range(4))
    results = []
    for xp in (np, stand_in):
        gradients = [xp.asarray(gradient) for _, gradient in zip(nodes, (left, right), strict=False)]
        plan = reduction.additions(tuple(nodes), (0, 2))
        W = xp.asarray(weights)
        slots = {name: xp.asarray(abs(state)) for name in update_rule(config).slots}
        out, slots_out = xp.zeros(net.size, xp.float32), {name: xp.zeros(net.size, xp.float32) for name in slots}
        server = Aggregation(config, list(optim.blocks(net)), 2, xp=xp)
        clip = optim.clip_factor(config, server.squares(gradients, plan, 9, W))
        assert server.update(gradients, plan, W, slots, step=Step(9, 0.1, clip, 3), out=out, slots_out=slots_out)
        found = [out, *slots_out.values()]
        results.append([optim.l2_loss(net, out, 0.1, xp), *(to_host(array).tobytes() for array in found)])
    assert results[0] == results[1]


def test_the_fake_module_is_used_for_cuda_and_never_mixes_with_numpy(stand_in):
    assert cuda_problem() is None
    assert array_module("cuda") is stand_in
    assert numerics.fingerprint("cuda")["gpu"] == "no GPU at all"
    array = stand_in.ones(3, np.float32)
    for mixing in (
        lambda: np.add(array, array),
        lambda: np.concatenate([array]),
        lambda: np.asarray(array),
        lambda: array + np.ones(3),
        lambda: np.ones(3) + array,
        lambda: stand_in.add(array, np.ones(3)),
        lambda: array.take(np.array([0])),
        lambda: np.isfinite(array),
        lambda: np.dot(array, array),
        lambda: np.copyto(np.zeros(3, np.float32), array),
    ):
        with pytest.raises(TypeError):
            mixing()


def test_rows_are_copied_to_the_device_once():
    rows = ArrayRows(np.ones((4, 2), np.float32), np.zeros(4, np.int64)).on(array_module("cuda"))
    assert rows.on(array_module("cuda")).X is rows.X
