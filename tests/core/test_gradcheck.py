"""`distsgd gradcheck` and what it computes: right gradients pass, and each kind of wrong one is found and named."""

from __future__ import annotations

import numpy as np
import pytest
from runs import invoke

from distsgd.core import backprop, gradcheck, optim
from distsgd.core.activations import ACTIVATIONS, Tanh
from distsgd.core.gradcheck import all_agree, check_gradients
from distsgd.core.losses import LOSSES
from distsgd.core.net import Net

NET = Net(6, 5, 3, activation="tanh")


def compared(net: Net = NET, *, weighted: bool = False, l2: float = 0.01, samples: int = 1000):
    rng = np.random.default_rng(2)
    X, kind = rng.normal(size=(9, net.features)).astype("f4"), LOSSES[net.loss].target
    y = rng.integers(3, size=9) if kind == "class" else rng.integers(2, size=(9, 3)).astype("f4")
    weights = rng.uniform(0, 4, 9).astype("f4") if weighted else None
    return check_gradients(net, X, y, weights, l2=l2, seed=1, samples=samples)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", [*ACTIVATIONS, None])
def test_the_gradients_of_every_net_and_loss_are_right(activation, loss, weighted):
    net = Net(6, 5 if activation else 0, 3, activation=activation or "relu", loss=loss)
    found = compared(net, weighted=weighted)
    assert all_agree(found), found
    assert [line.name for line in found] == (["W1", "b1", "W2", "b2"] if activation else ["W2", "b2"])
    assert [line.checked for line in found] == [int(np.prod(line.shape)) for line in found]


def wrong_activation(monkeypatch):
    monkeypatch.setattr(Tanh, "backward", lambda self, dh, h, kept, xp: None)


def wrong_bias(monkeypatch):
    right = backprop.loss_and_gradient_sums

    def divided_twice(*arguments, out, **others):
        loss = right(*arguments, out=out, **others)
        out.b2[...] /= 9
        return loss

    monkeypatch.setattr(gradcheck, "loss_and_gradient_sums", divided_twice)


def wrong_l2(monkeypatch):
    right = optim.add_decay
    monkeypatch.setattr(
        optim, "add_decay", lambda total, weights, factor, **others: right(total, weights, factor / 2, **others)
    )


@pytest.mark.parametrize(
    ("change", "wrong"), [(wrong_activation, ["W1", "b1"]), (wrong_bias, ["b2"]), (wrong_l2, ["W1", "W2"])]
)
def test_a_wrong_gradient_is_found_where_it_is(monkeypatch, change, wrong):
    assert all_agree(compared())
    change(monkeypatch)
    assert [line.name for line in compared() if not line.agrees] == wrong


def test_a_kink_between_the_points_is_not_an_error():
    """The nearer points decide where ReLU's kink is between the others."""
    flat = np.array([3e-6])
    assert gradcheck._difference(lambda flat: max(0.0, flat[0]), flat, 0, 1.0) < 1e-9
    assert gradcheck._difference(lambda flat: max(0.0, flat[0]), flat, 0, 0.9) > 0.09


def test_some_elements_of_a_large_array_are_compared():
    assert [line.checked for line in compared(samples=7)] == [7, 5, 7, 3]


def test_the_command_prints_a_line_for_each_array(own_folder, monkeypatch):
    right = invoke("gradcheck", "--set", "model.activation=tanh", "--samples", "20")
    assert right.code == 0, right.err
    first, header, *lines = right.out.splitlines()
    assert first.startswith("64-64-10, tanh, softmax loss, L2 0.0001: the gradients of 64 rows of digits")
    assert header.split()[:2] == ["parameter", "shape"]
    assert [line.split()[0] for line in lines] == ["W1", "b1", "W2", "b2"]
    assert "WRONG" not in right.out
    wrong_activation(monkeypatch)
    wrong = invoke("gradcheck", "--set", "model.activation=tanh", "--samples", "20")
    assert wrong.code == 1
    assert [line.split()[0] for line in wrong.out.splitlines() if line.endswith("WRONG")] == ["W1", "b1"]


def test_the_command_refuses_as_training_does(own_folder):
    refused = invoke("gradcheck", "--data", "nowhere.csv")
    assert refused.code == 2
    assert "nowhere.csv" in refused.err
    assert "Traceback" not in refused.err
