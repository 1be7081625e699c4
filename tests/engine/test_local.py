"""The local trainer can be stopped during validation."""

from __future__ import annotations

import numpy as np
import pytest

from distsgd import Config
from distsgd.data import load
from distsgd.engine import local
from distsgd.engine.local import LocalTrainer
from distsgd.engine.spec import RunSpec
from distsgd.engine.validation import BLOCK


@pytest.fixture
def trainer(own_folder, monkeypatch):
    monkeypatch.setattr(local, "TICK_S", 0.0)
    X = np.random.default_rng(0).random((5 * BLOCK, 3), dtype=np.float32)
    np.savez("rows.npz", X=X, y=np.arange(len(X)) % 2)
    config = Config.build({"data.train": "rows.npz", "data.val": "rows.npz", "model.hidden": 4})
    found = LocalTrainer(RunSpec.beginning(config, load(config.data)))
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


def test_a_tick_without_a_stop_request_changes_nothing(trainer):
    ticks = []
    found = trainer.evaluate(lambda: ticks.append(0))
    assert len(ticks) == 5
    assert set(found.metrics) == {"val/loss", "val/accuracy"}
    assert found.confusion is None
    assert found == trainer.evaluate(lambda: None)
