"""A validation may take as long as its rows need, however short `run.timeout_s` is."""

from __future__ import annotations

import time

import numpy as np
import pytest

import distsgd
from distsgd.engine.validation import BLOCK

pytestmark = pytest.mark.usefixtures("own_folder", "joined")


@pytest.mark.slow
def test_a_validation_longer_than_the_timeout_loses_no_worker():
    rng = np.random.default_rng(1)
    for name, rows in (("train", 64), ("val", 200 * BLOCK + 7)):
        np.savez(f"{name}.npz", X=rng.random((rows, 4), dtype=np.float32), y=np.arange(rows) % 3)
    values = {"data.train": "train.npz", "data.val": "val.npz", "model.hidden": 4096, "train.max_steps": 1}
    values |= {"tracking.enabled": False, "train.batch_size": 8}
    began = time.monotonic()
    serial = distsgd.train(values | {"run.workers": 0, "run.dir": "serial"})
    serial_s = time.monotonic() - began
    timeout_s = serial_s / 4  # a half of the blocks takes longer than that
    found = distsgd.train(values | {"run.workers": 2, "run.dir": "run", "run.timeout_s": timeout_s})
    assert found.warnings == []
    assert (found.val_loss, found.val_accuracy) == (serial.val_loss, serial.val_accuracy)
