"""Early stopping: what a gain is, which weights are kept, and the same end after a kill and for any way to train."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import Cli, invoke, journal, options, result, slow_but_for

import distsgd
from distsgd.errors import CheckpointError, ConfigError
from distsgd.run.stopping import Gains
from distsgd.system.faults import VARIABLE, Fault

EARLY = {
    "model.hidden": 8,
    "train.epochs": 40,
    "train.early_stopping": 2,
    "train.stopping_metric": "accuracy",
    "train.min_gain": 0.01,
    "tracking.enabled": False,
}


def expected(values: list[float], patience: int, min_gain: float) -> tuple[int, int]:
    """Return the best validation, counted from 1, and the one after which training ends; 0 if it does not."""
    best, without = -np.inf, 0
    for number, value in enumerate(values, 1):
        without = 0 if value > best and value >= best + min_gain else without + 1
        best = max(best, value)
        if without == patience:
            return 1 + values.index(best), number
    return 1 + values.index(best), 0


@given(
    values=st.lists(st.integers(0, 6).map(float), min_size=1, max_size=20),
    patience=st.integers(1, 4),
    min_gain=st.sampled_from([0.0, 1.0, 2.0]),
    metric=st.sampled_from(["val/loss", "val/accuracy"]),
    again=st.integers(1, 20),
)
def test_gains_are_a_function_of_the_validations_also_of_those_that_are_repeated(
    values, patience, min_gain, metric, again
):
    sign = -1.0 if metric == "val/loss" else 1.0
    gains, ended = Gains(metric, patience, min_gain), 0
    for step, value in enumerate(values, 1):
        gains.note(step, sign * value)
        if gains.are_over:
            ended = step
            break
    assert (gains.best_step, ended) == expected(values, patience, min_gain)
    best, without = gains.best_step, gains.without_gain
    last = ended or len(values)
    for step in range(min(again, last), last + 1):
        gains.note(step, sign * values[step - 1])
    assert (gains.best_step, gains.without_gain) == (best, without)


def trained(**values: object) -> distsgd.Result:
    return distsgd.train(EARLY | {"run.workers": 0} | {key.replace("__", "."): v for key, v in values.items()})


def test_training_ends_without_gains_and_keeps_the_best_weights(own_folder):
    found = trained(run__dir="early", run__threads=2)
    validated = [record["val/accuracy"] for record in found.records if "val/accuracy" in record]
    best, ended = expected(validated, 2, 0.01)
    assert 0 < ended < 40
    assert found.epochs == ended
    assert found.ended == f"no gain in val/accuracy for 2 validations; the weights are the best, after epoch {best:g}"
    assert found.val_accuracy == validated[best - 1]
    shorter = distsgd.train(
        {"model.hidden": 8, "train.epochs": best, "tracking.enabled": False, "run.workers": 0, "run.threads": 1}
    )
    assert found.weights_sha256 == shorter.weights_sha256
    assert found.recall == shorter.recall
    assert shorter.ended is None
    resumed = distsgd.train({"run.dir": "early", "train.epochs": 50}, resume=True)
    assert (resumed.weights_sha256, resumed.steps) == (found.weights_sha256, found.steps)


def test_macro_f1_of_every_validation_decides(own_folder):
    found = trained(train__stopping_metric="macro_f1")
    measured = [record["val/macro_f1"] for record in found.records if "val/macro_f1" in record]
    assert len(measured) == found.epochs
    assert found.macro_f1 == max(measured)


def test_without_held_out_rows_it_is_refused(own_folder):
    with pytest.raises(ConfigError, match=r"train\.early_stopping goes by held-out rows, and there are none"):
        trained(data__val_fraction=0)


def test_best_weights_that_are_gone_are_named(own_folder, monkeypatch):
    from distsgd.run import stopping

    monkeypatch.setattr(stopping.checkpoint, "load_all", lambda *_: ({}, {"00000023": "its arrays are damaged"}))
    with pytest.raises(CheckpointError, match=r"the best weights, those after step .*00000023: its arrays are damaged"):
        trained(train__min_gain=0.0)


def test_a_run_that_is_made_longer_has_its_best_weights_if_they_were_measured_before_its_first_end(own_folder):
    """The validation at that end, within an epoch, was better, and is not one of the longer run."""

    def train(max_steps: int, run_dir: str, **options) -> distsgd.Result:
        values = {"optim.lr": 3.0, "train.early_stopping": 1, "train.stopping_metric": "loss", "run.dir": run_dir}
        keys = EARLY | values | {"train.min_gain": 0.0, "run.workers": 0, "train.max_steps": max_steps}
        return distsgd.train(keys, **options)

    steps = train(1, "one").steps
    assert steps == 1
    whole = train(1000, "whole")
    kept = round(whole.steps * whole.best_epoch / whole.epochs)
    ends = [step for step in range(kept + 1, whole.steps) if train(step, f"until-{step}").val_loss < whole.val_loss]
    assert ends
    longer = train(1000, f"until-{ends[0]}", resume=True)
    assert longer.weights_sha256 == whole.weights_sha256
    assert longer.ended == whole.ended


MOMENTS = slow_but_for(["journaled", "validated", "checkpointed"], "journaled")


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.timeout(120)
def test_a_run_that_is_killed_ends_like_one_that_is_not(own_folder, moment):
    values = options(EARLY)
    assert invoke("train", "--workers=0", "--run-dir=whole", *values).code == 0
    whole = result(own_folder / "whole")
    last, best = whole["steps"], (json.loads(next((own_folder / "whole" / "best").glob("*.json")).read_text()))["step"]
    cli = Cli(own_folder)
    for number, step in enumerate((best, last)):
        folder = own_folder / f"faults{number}"
        folder.mkdir()
        fault = Fault(role="driver", index=0, step=step, moment=moment)
        (folder / "faults.json").write_text(json.dumps([dataclasses.asdict(fault)]))
        cli.environment[VARIABLE] = str(folder / "faults.json")
        more = ["--resume"] if number else []
        assert cli.run("train", "--workers=0", "--run-dir=killed", *more, *values).code == -9
    found = invoke("train", "--resume", "--run-dir=killed")
    assert found.code == 0, found.err
    killed = result(own_folder / "killed")
    for key in ("weights_sha256", "steps", "ended", "val/accuracy", "recall"):
        assert killed[key] == whole[key]
    assert [r["step"] for r in journal(own_folder / "killed")] == [r["step"] for r in journal(own_folder / "whole")]


@pytest.mark.slow
@pytest.mark.usefixtures("joined")
@pytest.mark.timeout(120)
def test_workers_end_like_threads(own_folder):
    whole = trained()
    with distsgd.session():
        for workers in (1, 3):
            found = trained(run__workers=workers)
            assert (found.weights_sha256, found.steps, found.ended) == (whole.weights_sha256, whole.steps, whole.ended)
            assert found.macro_f1 == whole.macro_f1
