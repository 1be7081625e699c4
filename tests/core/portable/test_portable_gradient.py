"""The portable gradient: the same bits for every cut and order, and as near to float64's as promised."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsgd.core.backend import to_host
from distsgd.core.backprop import loss_and_gradient_sums as reference_sums
from distsgd.core.gradcheck import Double
from distsgd.core.net import Net
from distsgd.core.portable.backprop import loss_and_gradient_sums
from distsgd.core.portable.bounds import DataBounds
from distsgd.core.portable.step import Grids
from distsgd.core.portable.update import gradient
from distsgd.core.portable.workspace import PortableWorkspace
from distsgd.core.workspace import Workspace

LOSSES = ("softmax", "hinge", "logistic", "squared")
ACTIVATIONS = ("relu", "leaky_relu", "elu", "gelu", "tanh", "sigmoid")


class Problem:
    """A net, its parameters and a table, whose first `batch` rows are a mini-batch."""

    def __init__(self, net: Net, kind: str = "normal", batch: int = 64, weighted: bool = False, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        rows, self.net, self.batch, self.factor = 2 * batch, net, batch, 1.0
        X = rng.standard_normal((rows, net.features))
        if kind == "ill-scaled":
            X *= np.exp2(rng.integers(-20, 20, net.features))
        self.X = X.astype(np.float32)
        if kind == "pixels":
            self.X = (rng.integers(0, 256, X.shape) * (rng.random(X.shape) < 0.3)).astype(np.uint8)
            self.factor = float(np.float32(1 / 255))
        self.y = rng.integers(0, net.classes, rows)
        if net.loss == "logistic":
            self.y = rng.integers(0, 2, (rows, net.classes)).astype(np.float32)
        if net.loss == "squared":
            self.y = rng.standard_normal((rows, net.classes)).astype(np.float32)
        self.weights = rng.uniform(0.1, 3, rows).astype(np.float32) if weighted else None
        self.flat = net.initial(seed) + rng.normal(0, 0.02, net.size).astype(np.float32)
        if kind == "ill-scaled":
            first = net.split(self.flat)[0 if net.hidden else 2]
            first /= np.abs(self.X).max(axis=0)[:, None]
        self.bounds = DataBounds.of(self.X, self.y, self.weights, self.factor)

    def sums(self, index, xp=np) -> tuple[np.ndarray, float]:
        """Return the portable sums over some rows."""
        net, flat = self.net, xp.asarray(self.flat)
        grids = Grids(net, self.bounds, self.batch, xp).of(net.split(flat))
        out, workspace = xp.empty(net.size, xp.float64), PortableWorkspace(net, max(len(index), 1), xp)
        weights = None if self.weights is None else xp.asarray(self.weights[index])
        loss = loss_and_gradient_sums(
            net.split(flat),
            *(xp.asarray(self.X[index]), xp.asarray(self.y[index]), weights),
            grids=grids,
            out=net.split(out),
            workspace=workspace,
        )
        return to_host(out), loss

    def gradient(self) -> np.ndarray:
        """Return the portable gradient sums of the mini-batch, as update rules get them."""
        out, whole = np.empty(self.net.size, np.float32), slice(0, self.net.size)
        grids = Grids(self.net, self.bounds, self.batch)
        gradient(self.sums(np.arange(self.batch))[0], whole, self.net, grids, out, np)
        return out

    def reference(self) -> tuple[np.ndarray, float]:
        """Return the sums in float64."""
        net, rows, out = self.net, slice(0, self.batch), np.empty(self.net.size)
        X, weights = self.X[rows] * np.float64(self.factor), None if self.weights is None else self.weights[rows]
        workspace = Workspace(net, self.batch, Double())
        loss = reference_sums(
            net.split(self.flat.astype(np.float64)), X, self.y[rows], weights, out=net.split(out), workspace=workspace
        )
        return out, loss


PROBLEMS = [
    *(Problem(Net(20, 12, 5, activation=name)) for name in ACTIVATIONS),
    *(Problem(Net(20, 12, 3, loss=name), kind) for name in LOSSES for kind in ("pixels", "ill-scaled")),
    *(Problem(Net(20, 12, 7, loss=name), weighted=True) for name in LOSSES),
    *(Problem(Net(20, 0, 2, loss=name), weighted=True) for name in LOSSES),
    *(Problem(Net(20, 0, 1, loss=name), "pixels") for name in ("logistic", "squared")),
    Problem(Net(20, 12, 4, label_smoothing=0.1), batch=200),
]


BENCHMARKED = {
    "64-32-10": lambda: Problem(Net(64, 32, 10), batch=256),
    "784-256-10": lambda: Problem(Net(784, 256, 10), "pixels", batch=256),
    "3072-20-10": lambda: Problem(Net(3072, 20, 10), batch=256),
    "3072-1024-10": lambda: Problem(Net(3072, 1024, 10), batch=256),
}
"""The nets of docs/benchmarks.md."""


@pytest.mark.parametrize("net", BENCHMARKED)
def test_the_gradients_of_the_benchmarks_nets_are_those_of_float64(net):
    test_the_gradient_is_that_of_float64(BENCHMARKED[net]())


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: f"{p.net}")
def test_the_gradient_is_that_of_float64(problem):
    found, (expected, _) = problem.gradient(), problem.reference()
    for part in problem.net.bounds:
        if part.start < part.stop:
            difference = np.abs(found[part] - expected[part]).max()
            assert difference <= 1e-5 * np.abs(expected[part]).max()


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: f"{p.net}")
def test_sums_are_the_same_for_any_cut_and_order(xp, problem):
    rng = np.random.default_rng(1)
    whole, loss = problem.sums(np.arange(problem.batch), xp)
    assert loss == pytest.approx(problem.reference()[1], rel=1e-6)
    order = rng.permutation(problem.batch)
    parts = np.split(order, np.sort(rng.integers(0, problem.batch, 4)))
    added, losses = np.zeros(problem.net.size), 0.0
    for part in parts:
        sums, of_part = problem.sums(part, xp)
        added += sums
        losses += of_part
    assert added.tobytes() == (whole + 0.0).tobytes()
    assert losses == loss


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: f"{p.net}")
def test_sums_are_integers_of_53_bits_on_their_grids(problem):
    net = problem.net
    grids = Grids(net, problem.bounds, problem.batch).of(net.split(problem.flat))
    sums, _ = problem.sums(np.arange(problem.batch))
    for part, quantum in zip(net.bounds, grids.gradient, strict=True):
        steps = np.ldexp(sums[part], -quantum)
        assert (steps == np.rint(steps)).all()
        assert np.abs(steps).max(initial=0) <= 2.0**53


DEEP = Problem(Net(50, 16, 4, activation="elu"), weighted=True)


@given(st.permutations(range(DEEP.batch)), st.lists(st.integers(0, DEEP.batch), max_size=6), st.randoms())
def test_no_cut_and_no_order_of_additions_changes_a_bit(order, cuts, random):
    whole, loss = DEEP.sums(np.arange(DEEP.batch))
    parts = [DEEP.sums(part) for part in np.split(np.array(order), sorted(cuts))]
    while len(parts) > 1:  # any two at a time, as in any tree
        (a, of_a), (b, of_b) = (parts.pop(random.randrange(len(parts))) for _ in range(2))
        parts.append((a + b, of_a + of_b))
    assert (parts[0][0] + 0.0).tobytes() == (whole + 0.0).tobytes()
    assert parts[0][1] == loss


@pytest.mark.parametrize("net", [Net(9000, 0, 3), Net(3, 8500, 2)], ids=lambda net: net.widths)
def test_inner_dimensions_that_are_cut_give_the_same_sums_too(net):
    problem = Problem(net, batch=6)
    whole, parts = problem.sums(np.arange(6)), [problem.sums(np.arange(i, i + 2)) for i in (0, 2, 4)]
    assert sum(gradient for gradient, _ in parts).tobytes() == (whole[0] + 0.0).tobytes()
    assert sum(loss for _, loss in parts) == whole[1]
    assert np.abs(whole[0] - problem.reference()[0]).max() <= 1e-5 * np.abs(whole[0]).max()


def test_weights_add_up_exactly_in_any_order():
    problem = Problem(Net(5, 0, 2), weighted=True)
    grids, w = Grids(problem.net, problem.bounds, 64), problem.weights
    whole = grids.weight(w[:64], 64)
    assert whole == grids.weight(w[40:64], 24) + grids.weight(w[:40], 40)
    assert whole == pytest.approx(float(w[:64].astype(np.float64).sum()), rel=1e-9)
    assert grids.weight(None, 7) == 7.0


def test_too_many_examples_or_classes_for_exact_sums_are_refused():
    bounds = DataBounds.of(np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match="at most 1048576"):
        Grids(Net(3, 0, 2), bounds, 2**20 + 1)
    with pytest.raises(ValueError, match="bounds of 3 features"):
        Grids(Net(4, 0, 2), bounds, 8)
