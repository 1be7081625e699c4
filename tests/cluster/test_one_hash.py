"""One hash of the weights for rules, activations and losses: for any number of workers on Ray, a kill and a resume."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import RAY_ENVIRONMENT, Cli, finished, journal, options, result

import distsgd
from distsgd.system.faults import VARIABLE, Fault

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_folder", "joined")]

BASE = {
    "data.train": "rows.npz",
    "data.weight": "w",
    "model.hidden": 12,
    "train.epochs": 3,
    "train.batch_size": 50,
    "train.num_shards": 5,
    "train.log_every": 5,
    "tracking.enabled": False,
}

CASES: dict[str, dict[str, Any]] = {
    "adam, tanh, smoothed softmax, balanced classes": {
        "optim.rule": "adam",
        "model.activation": "tanh",
        "train.label_smoothing": 0.1,
        "train.class_weight": "balanced",
    },
    "rmsprop, no hidden layer, logistic": {"optim.rule": "rmsprop", "model.hidden": 0, "model.loss": "logistic"},
    "nesterov, gelu, hinge": {
        "optim.momentum": 0.9,
        "optim.nesterov": True,
        "optim.lr": 0.01,
        "model.activation": "gelu",
        "model.loss": "hinge",
    },
    "adamw, elu, squared": {"optim.rule": "adamw", "model.activation": "elu", "model.loss": "squared"},
}


def case(name: str) -> dict[str, Any]:
    """Write rows whose targets suit the loss; return the keys."""
    rng, values = np.random.default_rng(4), CASES[name]
    X, y = rng.normal(size=(300, 7)).astype("f4"), rng.integers(3, size=300)
    if values.get("model.loss") == "logistic":
        y = rng.integers(2, size=(300, 3))
    if values.get("model.loss") == "squared":
        y = rng.normal(size=(300, 2)).astype("f4")
    np.savez("rows.npz", X=X, y=y, w=rng.choice([0.0, 0.5, 1.0, 9.0], 300))
    return BASE | values


@pytest.mark.parametrize(("name", "counts"), list(zip(CASES, [(1, 2, 3), (3,), (2,), (3,)], strict=True)), ids=CASES)
def test_any_number_of_workers_gives_one_hash(name, counts):
    keys = case(name)
    runs = [distsgd.train(keys | {"run.workers": count, "run.dir": f"{count}"}) for count in counts]
    runs += [distsgd.train(keys | {"run.workers": 0, "run.threads": n, "run.dir": f"threads {n}"}) for n in (1, 2)]
    assert len({run.weights_sha256 for run in runs}) == 1
    metrics = [{key: value for key, value in run.records[-1].items() if key.startswith("val/")} for run in runs]
    assert all(found == metrics[0] for found in metrics)
    assert ("val/roc_auc" in metrics[0]) == (keys.get("model.loss", "logistic") == "logistic")


def test_a_killed_worker_and_a_killed_driver_change_nothing(own_folder, cluster):
    keys = case("adam, tanh, smoothed softmax, balanced classes")
    undisturbed = distsgd.train(keys | {"run.workers": 0, "run.dir": "undisturbed"})
    cli = Cli(own_folder, RAY_ENVIRONMENT)
    faults = own_folder / "faults"
    faults.mkdir()
    both = [Fault("worker", 1, 4, "computed"), Fault("driver", 0, 10, "journaled")]
    (faults / "faults.json").write_text(json.dumps([dataclasses.asdict(fault) for fault in both]))
    cli.environment[VARIABLE] = str(faults / "faults.json")
    arguments = ("--address", cluster.address, "--run-dir", "run", "--workers", "2")
    try:
        killed = finished(cli.start("train", *arguments, *options(keys)))
        assert killed.code == -signal.SIGKILL, killed.err
        assert len(list(faults.glob("*.struck"))) == 2
        assert not Path("run/result.json").exists()
        found = distsgd.train({"run.dir": "run", "run.workers": 3}, resume=True)
    finally:
        cli.kill()
    assert found.weights_sha256 == undisturbed.weights_sha256
    assert found.val_roc_auc == undisturbed.val_roc_auc
    assert result(Path("run"))["steps"] == undisturbed.steps == journal(Path("run"))[-1]["step"]
