"""The confusion of classes: the same from any blocks, and the figures of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from distsgd.core.net import Net
from distsgd.core.predictor import Predictor
from distsgd.data import ArrayRows, BatchTransform
from distsgd.engine.confusion import Confusion, pairs_of
from distsgd.engine.validation import Extras, Validation, block_count, evaluation


def counted(y: np.ndarray, predicted: np.ndarray, classes: int, cuts: int = 3) -> Confusion:
    parts = zip(np.array_split(y, cuts), np.array_split(predicted, cuts), strict=True)
    return Confusion.of([pairs_of(*part, classes) for part in parts], classes)


@pytest.mark.parametrize("seed", range(5))
def test_the_figures_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 8))
    y = np.concatenate([np.arange(classes), rng.integers(classes, size=200) ** 2 % classes])
    predicted = np.where(rng.random(len(y)) < 0.6, y, rng.integers(classes, size=len(y)))
    found = counted(y, predicted, classes)
    assert found.matrix().tolist() == metrics.confusion_matrix(y, predicted, labels=range(classes)).tolist()
    assert found.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(y, predicted))
    assert found.macro_f1 == pytest.approx(metrics.f1_score(y, predicted, average="macro"))
    np.testing.assert_allclose(found.recall, metrics.recall_score(y, predicted, average=None))
    assert found.majority_share == np.bincount(y).max() / len(y)
    guess = np.full(len(y), found.majority)
    gained, lost = np.sum((predicted == y) & (guess != y)), np.sum((predicted != y) & (guess == y))
    assert found.gain() == (gained, lost, gained + lost)


def test_classes_without_rows_do_not_count():
    found = counted(np.array([0, 0, 2]), np.array([0, 3, 2]), 5)
    assert found.support.tolist() == [2, 0, 1, 0, 0]
    assert np.isnan(found.recall).tolist() == [False, True, False, True, True]
    assert found.balanced_accuracy == 0.75
    assert found.macro_f1 == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_there_may_be_more_classes_than_a_matrix_has_room_for():
    classes = 65_536
    y = np.arange(1000) * 65
    found = counted(y, np.where(y % 2, y, 0), classes)
    assert len(found.pairs.numbers) == 1000
    assert found.correct.sum() == 1 + np.count_nonzero(y % 2)


@pytest.mark.parametrize("count", [1, 513, 1500])
def test_blocks_give_the_confusion_of_all_rows_at_once(xp, count):
    net, rng = Net(6, 5, 3), np.random.default_rng(count)
    rows = ArrayRows(rng.normal(size=(count, 6)).astype(np.float32), rng.integers(3, size=count))
    flat = net.initial(3)
    validation = Validation(net, rows, BatchTransform(), "cpu" if xp is np else "cuda")
    blocks = validation.evaluate(flat, range(block_count(count)), Extras(confusion=True))
    predictor = Predictor(net=net, flat=flat, classes=np.arange(3), shift=np.zeros(6), scale=np.ones(6))
    expected = counted(rows.y, predictor.predict(rows.X), 3, cuts=1)
    for order in (blocks, blocks[::-1]):
        found = evaluation(order, net)
        assert found.confusion.matrix().tolist() == expected.matrix().tolist()
        assert found.metrics["val/accuracy"] == found.confusion.correct.sum() / count


@pytest.mark.parametrize("seed", range(3))
def test_weights_count_as_in_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    y, w = rng.integers(4, size=300), rng.choice([0.25, 1.0, 7.5], 300)
    predicted = np.where(rng.random(300) < 0.6, y, rng.integers(4, size=300))
    parts = [pairs_of(y[part], predicted[part], 4, w[part]) for part in (slice(0, 90), slice(90, 300))]
    found = Confusion.of(parts, 4)
    given = {"sample_weight": w}
    assert found.is_weighted
    np.testing.assert_allclose(found.matrix(), metrics.confusion_matrix(y, predicted, **given))
    assert found.accuracy == pytest.approx(metrics.accuracy_score(y, predicted, **given))
    assert found.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(y, predicted, **given))
    assert found.macro_f1 == pytest.approx(metrics.f1_score(y, predicted, average="macro", **given))
    np.testing.assert_allclose(found.recall, metrics.recall_score(y, predicted, average=None, **given))
    assert found.majority_share == pytest.approx(np.bincount(y, w).max() / w.sum())
    assert [rows.tolist() for rows in found.rows()] == [rows.tolist() for rows in counted(y, predicted, 4).rows()]
    gained, lost = (predicted == y) & (y != found.majority), (predicted != y) & (y == found.majority)
    expected = (w[gained].sum(), w[lost].sum(), (w[gained | lost] ** 2).sum())
    assert found.gain() == pytest.approx(expected)
