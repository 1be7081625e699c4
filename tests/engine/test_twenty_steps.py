"""Every update rule with every activation and loss: twenty steps against float64, and one answer for any division."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_training import serial_parameters, some_spec, worker_of

from distsgd.core import numerics
from distsgd.core.activations import ACTIVATIONS
from distsgd.core.losses import LOSSES
from distsgd.core.reduction import PartialSum, assign
from distsgd.core.update_rules import RULES
from distsgd.data import ArrayRows
from distsgd.engine.local import LocalTrainer
from distsgd.engine.server import ParameterServer
from distsgd.engine.snapshot import Snapshot
from distsgd.engine.spec import RunSpec
from distsgd.engine.threads import ThreadedTraining
from distsgd.rundir import checkpoint
from distsgd.rundir.classifier import weights_sha256

STEPS, OUTPUTS, L2 = 20, 4, 0.01

SETTINGS = {
    "plain": {},
    "momentum": {"optim.momentum": 0.9},
    "nesterov": {"optim.momentum": 0.9, "optim.nesterov": True},
    **{rule: {"optim.rule": rule} for rule in RULES if rule != "sgd"},
}
NETS = [*ACTIVATIONS, "no hidden layer"]
TARGETS = [*((loss, 0.0) for loss in LOSSES), ("softmax", 0.1)]


@functools.cache
def spec_of(rule: str, net: str, loss: str, smoothing: float, **more) -> RunSpec:
    """Return a run on random rows, all of them in every mini-batch unless `more` says otherwise."""
    values = {"optim.l2": L2, "train.batch_size": 64, "train.num_shards": 3} | SETTINGS[rule]
    values |= {"model.hidden": 0} if net not in ACTIVATIONS else {"model.activation": net, "model.hidden": 5}
    spec = some_spec(rows=64, classes=OUTPUTS, **values, **more)
    rng, kind = np.random.default_rng(7), LOSSES[loss].target
    y = rng.integers(OUTPUTS, size=64) if kind == "class" else rng.integers(2, size=(64, OUTPUTS)).astype("f4")
    if kind == "numbers":
        y = rng.normal(1, 2, (64, OUTPUTS)).astype("f4")
    shape = dataclasses.replace(spec.net, loss=loss, label_smoothing=smoothing)
    data = dataclasses.replace(spec.data, train=ArrayRows(spec.data.train.X, y))
    return dataclasses.replace(spec, net=shape, data=data)


def combinations() -> list:
    """Return every rule with every net and target, all but one target of each rule and net marked as slow."""
    return [
        pytest.param(rule, net, *target, marks=[pytest.mark.slow] * ((i + j + k) % len(TARGETS) != 0))
        for i, rule in enumerate(SETTINGS)
        for j, net in enumerate(NETS)
        for k, target in enumerate(TARGETS)
    ]


@pytest.mark.parametrize(("rule", "net", "loss", "smoothing"), combinations())
def test_twenty_steps_agree_with_an_independent_implementation(rule, net, loss, smoothing):
    spec = spec_of(rule, net, loss, smoothing)
    X, y = spec.data.train.X.astype("f8"), spec.data.train.y
    gradient = functools.partial(
        reference.gradients, X=X, y=y, activation=spec.net.activation, loss=loss, smoothing=smoothing, l2=L2
    )
    start = spec.net.split(spec.start.parameters.astype("f8"))
    steps = reference.updates(rule, tuple(start), gradient, spec.config.optim.lr)
    expected = np.concatenate([part.ravel() for part in next(itertools.islice(steps, STEPS - 1, None))])
    found = np.frombuffer(serial_parameters(spec, STEPS), np.float32)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.abs(found - spec.start.parameters).max() > 1e-3 * np.abs(expected).max(), "it has moved"


def through_a_file(folder, state: Snapshot) -> Snapshot:
    """Return a state as a resumed run reads it."""
    checkpoint.save(folder, state, {"run": "x"}, keep=1)
    found, problems = checkpoint.load_newest(folder, {"run": "x"})
    assert found is not None
    assert not problems
    return found


@settings(max_examples=15, deadline=None)
@given(
    rule=st.sampled_from(list(SETTINGS)),
    net=st.sampled_from(NETS),
    target=st.sampled_from(TARGETS),
    shards=st.integers(3, 7),
    stop=st.integers(0, 8),
    clip=st.sampled_from([None, 0.1]),
)
def test_any_division_and_any_stop_give_the_bits_of_the_serial_loop(
    tmp_path_factory, rule, net, target, shards, stop, clip
):
    more = {"train.num_shards": shards, "optim.clip_norm": clip, "train.batch_size": 23}
    spec = spec_of(rule, net, *target, **{key.replace(".", "__"): value for key, value in more.items()})
    expected, folder = serial_parameters(spec, 9), tmp_path_factory.mktemp("run") / "checkpoints"
    for workers in (1, 2, 3):
        training = ThreadedTraining(spec, workers)
        with numerics.pinned_blas(1, None):
            training.run(stop, lambda: None)
            training.recover(through_a_file(folder, training.snapshot()))
            training.run(9, lambda: None)
        training.close()
        assert training.snapshot().parameters.tobytes() == expected


class Workers:
    """A server's link to some workers in this process, whose answers come in the reverse order."""

    def __init__(self, spec: RunSpec, count: int) -> None:
        self.buffers = np.zeros((2, spec.net.size), np.float32)
        self._workers = [(worker_of(spec), share) for share in assign(count, spec.config.train.num_shards)]

    def exchange(self, step: int, buffer: int, shards: range) -> list[PartialSum]:
        answers = [worker.compute(step, self.buffers[buffer], share) for worker, share in self._workers]
        return [partial for answer in reversed(answers) for partial in reversed(answer)]


@pytest.mark.slow
@settings(max_examples=50)
@given(
    rule=st.sampled_from(list(SETTINGS)),
    net=st.sampled_from(NETS),
    target=st.sampled_from(TARGETS),
    shards=st.integers(3, 7),
    weighted=st.booleans(),
)
def test_one_hash_for_any_number_of_workers_and_threads(rule, net, target, shards, weighted):
    spec = spec_of(rule, net, *target, train__num_shards=shards, train__batch_size=23)
    if weighted:
        w = np.random.default_rng(shards).choice([0.25, 1, 20], 64).astype("f4")
        rows = dataclasses.replace(spec.data.train, w=w)
        spec = dataclasses.replace(spec, data=dataclasses.replace(spec.data, train=rows))
    steps = 2 * spec.plan.sampler.steps_per_epoch + 1
    found = {"workers 0": np.frombuffer(serial_parameters(spec, steps), np.float32)}
    for threads in (1, 2):
        trainer = LocalTrainer(dataclasses.replace(spec, config=spec.config.with_values({"run.threads": threads})))
        trainer.run(steps, lambda: None)
        found[f"threads {threads}"] = trainer.snapshot().parameters
        trainer.close()
    for count in (1, 2, 3):
        link = Workers(spec, count)
        server = ParameterServer(config=spec.config, net=spec.net, plan=spec.plan, start=spec.start, link=link)
        with numerics.pinned_blas(1, None):
            server.run(steps)
        found[f"workers {count}"] = server.parameters
    hashes = {how: weights_sha256(parameters) for how, parameters in found.items()}
    assert len(set(hashes.values())) == 1, hashes
    assert hashes["workers 0"] != weights_sha256(spec.start.parameters)


def test_without_a_hidden_layer_the_optimum_is_that_of_logistic_regression():
    """scikit-learn minimises C Σ L_i + ½ Σ W², which is the loss here for C = 1/(2λN)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    more = {"model__hidden": 0, "optim__l2": L2, "optim__lr": 0.5, "optim__momentum": 0.9, "train__batch_size": 96}
    spec = some_spec(**more)
    X, y = spec.data.train.X, (spec.data.train.X[:, 0] > 0) + spec.data.train.y // 2
    spec = dataclasses.replace(spec, data=dataclasses.replace(spec.data, train=ArrayRows(X, y)))
    _, _, W, b = spec.net.split(np.frombuffer(serial_parameters(spec, 600), np.float32).astype("f8"))
    s = X @ W + b
    p = np.exp(s - s.max(axis=1, keepdims=True))
    theirs = LogisticRegression(C=1 / (2 * L2 * len(X)), tol=1e-8, max_iter=1000).fit(X.astype("f8"), y)
    expected = log_loss(y, theirs.predict_proba(X))
    assert log_loss(y, p / p.sum(axis=1, keepdims=True)) == pytest.approx(expected, abs=1e-5)
    assert expected < 0.95 * np.log(3)
    np.testing.assert_allclose(W.T, theirs.coef_, atol=1e-4)
