"""Validation: loss and accuracy over blocks, the same for any division among workers."""

from __future__ import annotations

from operator import itemgetter

import numpy as np
import pytest

from distsgd.core.net import Net
from distsgd.core.predictor import Predictor
from distsgd.core.reduction import assign
from distsgd.data import ArrayRows, BatchTransform
from distsgd.data.gatherer import Gatherer
from distsgd.engine import validation
from distsgd.engine.validation import BlockResult, Validation, block_count, evaluation

NET = Net(6, 5, 3)
TRANSFORM = BatchTransform(np.float32([0, 1, 2, 3, 4, 5]), np.float32([0.5]))


def rows(count: int, dtype: str = "float32") -> ArrayRows:
    rng = np.random.default_rng(count)
    X = rng.integers(0, 9, (count, NET.features)).astype(dtype)
    return ArrayRows(X, rng.integers(NET.classes, size=count))


def device(xp) -> str:
    return "cpu" if xp is np else "cuda"


@pytest.mark.parametrize("count", [1, 511, 512, 513, 1500])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_loss_and_accuracy_agree_with_all_rows_at_once(xp, count, dtype):
    held_out, flat = rows(count, dtype), NET.initial(3)
    found = Validation(NET, held_out, TRANSFORM, device(xp)).evaluate(flat, range(block_count(count)))
    assert len(found) == -(-count // validation.BLOCK)
    X = (held_out.X.astype(np.float32) - TRANSFORM.shift) * TRANSFORM.scale
    predictor = Predictor(net=NET, flat=flat, classes=np.arange(3), shift=np.zeros(6), scale=np.ones(6))
    probabilities = predictor.predict_proba(X)
    losses = -np.log(probabilities[np.arange(count), held_out.y].astype(np.float64))
    assert evaluation(found, NET).metrics == {
        "val/loss": pytest.approx(losses.mean(), rel=1e-4),
        "val/accuracy": np.mean(predictor.predict(X) == held_out.y),
    }


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_any_division_of_the_blocks_gives_the_same_bits(workers):
    held_out, flat = rows(3000), NET.initial(3)
    whole = Validation(NET, held_out, TRANSFORM, "cpu").evaluate(flat, range(6))
    parts = []
    for blocks in reversed(assign(workers, 6)):
        parts += Validation(NET, held_out, TRANSFORM, "cpu").evaluate(flat, blocks)
    assert sorted(parts, key=itemgetter(0)) == whole
    assert evaluation(parts, NET) == evaluation(whole, NET)


def test_a_batch_contains_the_requested_rows_normalised(xp):
    for dtype in ("float32", "uint8"):
        some = rows(50, dtype)
        batch = Gatherer(some, TRANSFORM, 8, device(xp))
        index = np.array([3, 3, 49, 0, 17])
        X, y, _ = batch.gather(index)
        other_X, _, _ = batch.gather(np.arange(8), buffer=1)
        expected = (some.X[index].astype(np.float32) - TRANSFORM.shift) * TRANSFORM.scale
        np.testing.assert_allclose(X if xp is np else X.get(), expected, rtol=1e-6)
        assert (y if xp is np else y.get()).tolist() == some.y[index].tolist()
        assert len(other_X) == 8
        assert batch.buffer_bytes == 8 * (4 * 6 + 8)


def test_the_order_of_the_blocks_does_not_matter():
    blocks = [BlockResult(0, 1.0, 1e16, (3.0,)), BlockResult(1, 0.0, 1.0, (2.0,)), BlockResult(2, 0.0, 1.0, (0.0,))]
    expected = {"val/loss": 1e16 + 2, "val/accuracy": 5.0}
    assert evaluation(blocks, NET).metrics == evaluation(blocks[::-1], NET).metrics == expected


def test_overflowing_weights_give_a_non_finite_loss_without_a_warning():
    flat = np.full(NET.size, 1e38, np.float32)
    found = Validation(NET, rows(10), TRANSFORM, "cpu").evaluate(flat, range(1))
    assert not np.isfinite(evaluation(found, NET).metrics["val/loss"])
