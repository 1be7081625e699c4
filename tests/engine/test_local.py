"""Training in this process: the serial loop, or threads with the same bits; both can be stopped."""

from __future__ import annotations

import numpy as np
import pytest

from distsgd import Config
from distsgd.data import load
from distsgd.engine import local, threads
from distsgd.engine.local import LocalTrainer
from distsgd.engine.spec import RunSpec
from distsgd.engine.validation import BLOCK, Validation, evaluation


@pytest.fixture(params=[1, 2], ids=["serial", "threads"])
def spec(own_folder, request):
    X = np.random.default_rng(0).random((5 * BLOCK, 3), dtype=np.float32)
    np.savez("rows.npz", X=X, y=np.arange(len(X)) % 2)
    config = Config.build(
        {"data.train": "rows.npz", "data.val": "rows.npz", "model.hidden": 4, "run.threads": request.param}
    )
    return RunSpec.beginning(config, load(config.data))


@pytest.fixture
def trainer(spec, monkeypatch):
    monkeypatch.setattr(local, "TICK_S", 0.0)
    monkeypatch.setattr(threads, "TICK_S", 0.0)
    found = LocalTrainer(spec)
    yield found
    found.close()


def test_validation_ends_when_a_tick_requests_a_stop(trainer):
    ticks = []

    def tick() -> None:
        ticks.append(len(ticks))
        if len(ticks) == 3:
            trainer.stop()

    assert trainer.evaluate(tick) is None
    assert len(ticks) == 3


def test_a_tick_without_a_stop_request_changes_nothing(trainer, spec):
    ticks = []
    found = trainer.evaluate(lambda: ticks.append(0))
    assert len(ticks) == 5
    assert set(found.metrics) == {"val/loss", "val/accuracy"}
    assert found.confusion is None
    assert found == trainer.evaluate(lambda: None)
    blocks = Validation(spec.net, spec.data.val, spec.data.transform, "cpu").evaluate(spec.start.parameters, range(5))
    assert found == evaluation(blocks, spec.net)


def test_the_logged_steps_and_the_last_one_are_recorded(trainer):
    every = trainer._config.train.log_every
    assert trainer.run(2 * every + 3, lambda: None) == 2 * every + 3
    assert [record["step"] for record in trainer.take_records()] == [every, 2 * every, 2 * every + 3]
    assert trainer.snapshot().last_record["step"] == 2 * every + 3
    assert trainer.take_records() == []


def test_a_tick_comes_after_each_interval_and_not_before(trainer, monkeypatch):
    ticks = []
    trainer.run(3, lambda: ticks.append(0))
    assert len(ticks) == 3
    monkeypatch.setattr(local, "TICK_S", 3600.0)
    monkeypatch.setattr(threads, "TICK_S", 3600.0)
    trainer.run(6, lambda: ticks.append(0))
    assert len(ticks) == 3
