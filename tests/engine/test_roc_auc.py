"""ROC-AUC: scikit-learn's, the same for any division of the blocks, and left out where it is not defined."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from distsgd.core.net import Net
from distsgd.core.predictor import Predictor
from distsgd.core.reduction import assign
from distsgd.data import ArrayRows, BatchTransform
from distsgd.engine import roc_auc
from distsgd.engine.roc_auc import Ranking, area
from distsgd.engine.validation import Extras, Validation, block_count, evaluation

ROC_AUC = Extras(roc_auc=True)
D = 6


@given(
    pairs=st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(1, 9)), min_size=1, max_size=30),
    weighted=st.booleans(),
)
def test_the_area_is_that_of_scikit_learn_also_with_equal_scores(pairs, weighted):
    positive, scores, weights = (np.array(column) for column in zip(*pairs, strict=True))
    w = weights / 4 if weighted else None
    found = area(positive, scores.astype(np.float32), w)
    if positive.all() or not positive.any():
        assert found is None
    else:
        assert found == pytest.approx(roc_auc_score(positive, scores, sample_weight=w), abs=1e-12)


def rows(count: int, net: Net, *, weighted: bool = False) -> ArrayRows:
    rng = np.random.default_rng(count)
    X = rng.normal(size=(count, D)).astype(np.float32)
    y = rng.integers(net.classes, size=count)
    y[: net.classes] = np.arange(net.classes)
    if net.loss == "logistic":
        y = rng.integers(2, size=(count, net.classes)).astype(np.float32)
    return ArrayRows(X, y, rng.choice([0.5, 1, 6], count).astype(np.float32) if weighted else None)


def expected(net: Net, held_out: ArrayRows, flat: np.ndarray, every: int = 1) -> float:
    model = Predictor(net=net, flat=flat, classes=np.arange(net.classes), shift=np.zeros(D), scale=np.ones(D))
    p, y = model.predict_proba(held_out.X)[::every], held_out.y[::every]
    w = None if held_out.w is None else held_out.w[::every]
    if net.loss == "softmax" and net.classes == 2:
        return float(roc_auc_score(y, p[:, 1], sample_weight=w))
    p = p.astype(np.float64)
    p = p / p.sum(axis=1, keepdims=True) if net.loss == "softmax" else p
    return float(roc_auc_score(y, p, multi_class="ovr", sample_weight=w))


NETS = [Net(D, 5, 2), Net(D, 5, 4), Net(D, 0, 3), Net(D, 5, 3, loss="logistic"), Net(D, 5, 1, loss="logistic")]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("net", NETS, ids=str)
def test_blocks_give_the_value_of_scikit_learn_in_any_order_and_division(net, weighted, xp):
    held_out, flat = rows(2200, net, weighted=weighted), net.initial(3) + np.float32(0.1)
    validation = Validation(net, held_out, BatchTransform(), "cpu" if xp is np else "cuda")
    parts = [validation.evaluate(flat, blocks, ROC_AUC) for blocks in assign(3, block_count(2200))]
    blocks = [block for part in parts for block in part]
    found = evaluation(blocks, net).metrics["val/roc_auc"]
    assert found == pytest.approx(expected(net, held_out, flat), abs=1e-6)
    random.Random(1).shuffle(blocks)
    assert evaluation(blocks, net).metrics["val/roc_auc"] == found


@pytest.mark.parametrize("net", NETS[:4], ids=str)
def test_of_more_rows_than_fit_into_memory_every_kth_counts(net, monkeypatch):
    held_out, flat = rows(1700, net), net.initial(3)
    width = 1 if net.classes == 2 else net.classes
    monkeypatch.setattr(roc_auc, "VALUES", 300 * width)
    validation = Validation(net, held_out, BatchTransform(), "cpu")
    blocks = validation.evaluate(flat, range(block_count(1700)), ROC_AUC)
    assert Ranking(net, held_out).every == 6
    kept = sum(block.ranked.probabilities.size for block in blocks)
    assert kept == 284 * width <= roc_auc.VALUES
    assert evaluation(blocks, net).metrics["val/roc_auc"] == pytest.approx(
        expected(net, held_out, flat, every=6), abs=1e-6
    )


def test_it_is_left_out_where_a_class_has_no_rows_and_of_losses_without_probabilities():
    net = Net(D, 5, 4)
    some = rows(600, net)
    lacking = ArrayRows(some.X, some.y % 3)
    cases = [(net, lacking), (dataclasses.replace(net, loss="hinge"), some)]
    numbers = ArrayRows(some.X, some.X[:, :4].copy())
    for kind, held_out in [*cases, (dataclasses.replace(net, loss="squared"), numbers)]:
        blocks = Validation(kind, held_out, BatchTransform(), "cpu").evaluate(net.initial(1), range(2), ROC_AUC)
        assert all(block.ranked is None for block in blocks)
        assert "val/roc_auc" not in evaluation(blocks, kind).metrics
    assert Ranking(net, lacking).undefined == [3]


def test_labels_that_are_the_same_in_all_rows_are_left_out_of_the_mean():
    net = Net(D, 5, 3, loss="logistic")
    some, flat = rows(600, net), net.initial(1)
    y = some.y.copy()
    y[:, 1] = 1
    held_out = ArrayRows(some.X, y)
    blocks = Validation(net, held_out, BatchTransform(), "cpu").evaluate(flat, range(2), ROC_AUC)
    model = Predictor(net=net, flat=flat, classes=np.arange(3), shift=np.zeros(D), scale=np.ones(D))
    p = model.predict_proba(some.X)
    areas = [roc_auc_score(y[:, k], p[:, k]) for k in (0, 2)]
    assert evaluation(blocks, net).metrics["val/roc_auc"] == pytest.approx(np.mean(areas), abs=1e-9)
    assert Ranking(net, held_out).undefined == [1]
    y[:] = 1
    assert not Ranking(net, held_out).is_defined
