"""The learning-rate range test: its curve, its suggestion, and that it is the same for any way to train."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import invoke, timeless

from distsgd.errors import ConfigError, Stopped, TrainingError
from distsgd.run.ending import Reason
from distsgd.run.find_lr import RangeCurve, UntilDiverged, find_lr
from distsgd.run.observer import Observer

QUIET = {"model.hidden": 16, "run.workers": 0, "tracking.enabled": False}


def records(losses, low=1e-4, factor=1.1):
    found = []
    for step, loss in enumerate(losses):
        found.append(
            {"step": step + 1, "train/lr": low * factor**step} | ({} if loss is None else {"train/loss": loss})
        )
    return found


def bowl(steps=120):
    """Losses that fall, are lowest at about step 80, and grow without limit."""
    return [2.0 - 1.8 / (1 + math.exp((60 - step) / 6)) + math.exp((step - 100) / 4) for step in range(steps)]


def test_the_curve_ends_where_the_smoothed_loss_is_four_times_its_lowest():
    curve = RangeCurve.of(records(bowl()))
    assert curve.diverged_at is not None
    assert len(curve.rates) == len(curve.losses) == len(curve.smoothed) < 120
    assert curve.steepest_at < curve.lowest_at < curve.diverged_at
    assert max(curve.smoothed) <= 4 * min(curve.smoothed[: curve.smoothed.index(max(curve.smoothed)) + 1])
    assert curve.suggestion == float(f"{curve.lowest_at / 10:.2g}")


def test_a_constant_loss_is_smoothed_to_itself():
    assert RangeCurve.of(records([2.5] * 50)).smoothed == pytest.approx([2.5] * 50)


@pytest.mark.parametrize("loss", [None, math.inf, math.nan])
def test_a_loss_that_is_not_finite_ends_the_curve(loss):
    curve = RangeCurve.of(records([2.0, 1.9, loss, 1.0]))
    assert curve.losses == [2.0, 1.9]
    assert curve.diverged_at == pytest.approx(1e-4 * 1.1**2)


@pytest.mark.timeout(10)
def test_a_long_test_is_looked_at_in_time():
    """The lowest loss is known at each step, and not looked for: that took a minute for so many."""
    assert len(RangeCurve.of(records([1.0] * 50_000, factor=1.0)).rates) == 50_000


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=60))
def test_the_run_ends_exactly_if_the_curve_does(losses):
    curve = RangeCurve.of(records(losses))
    assert (UntilDiverged()(records(losses)) is Reason.DIVERGED) == (curve.diverged_at is not None)
    assert curve.diverged_at is not None or len(curve.rates) == len(losses)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"low": 0.0}, "expected 0 < lowest < highest"),
        ({"low": 1.0, "high": 0.1}, "expected 0 < lowest < highest"),
        ({"high": math.inf}, "expected 0 < lowest < highest"),
        ({"steps": 5}, "at least 20"),
    ],
)
def test_ranges_that_are_none_are_refused(values, message, own_folder):
    with pytest.raises(ConfigError, match=message):
        find_lr(QUIET, **values)
    assert not Path("runs").exists()


def test_the_test_is_a_run_that_ends_at_the_same_step_with_the_same_bits(own_folder):
    found = [find_lr(QUIET | {"run.dir": f"runs/{n}", "run.threads": n}) for n in (1, 2)]
    first, second = found
    assert first.curve.diverged_at is not None
    assert first.result.steps % UntilDiverged.every == 0
    assert first.result.steps < 200
    assert first.result.weights_sha256 == second.result.weights_sha256
    assert timeless(Path("runs/1")) == timeless(Path("runs/2"))
    assert first.curve == second.curve
    assert 0.01 < first.curve.suggestion < 1
    assert first.picture.read_bytes().startswith(b"\x89PNG")
    assert first.picture.read_bytes() == second.picture.read_bytes()
    assert json.loads(Path("runs/1/find_lr.json").read_text())["suggestion"] == first.curve.suggestion


def test_a_loss_that_never_falls_gives_no_suggestion(own_folder):
    with pytest.raises(TrainingError, match="begin with a lower one"):
        find_lr(QUIET | {"optim.l2": 0.0}, low=1e3, high=1e4, steps=20)


class Notes(Observer):
    def __init__(self, stop: bool = False) -> None:
        self.notes: list[str] = []
        self._stop = stop

    def note(self, text: str) -> None:
        self.notes.append(text)

    def started(self, spec, run_dir, *, nodes) -> None:
        if self._stop:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.slow
def test_a_loss_that_falls_until_the_end_is_told(own_folder):
    notes = Notes()
    found = find_lr(QUIET, low=1e-3, high=0.05, steps=60, observer=notes)
    assert found.curve.lowest_at == found.curve.rates[-1]
    assert "warning: the loss fell until the last rate, 0.05" in notes.notes[-1]


def test_a_test_that_is_stopped_does_not_offer_to_be_resumed(own_folder):
    with pytest.raises(Stopped, match="cannot be resumed: begin again") as stopped:
        find_lr(QUIET, observer=Notes(stop=True))
    assert stopped.value.exit_code == 143


def test_the_command_prints_what_to_set_and_mlflow_has_the_picture(empty_store):
    from mlflow.tracking import MlflowClient

    found = invoke("find-lr", "--workers", "0", "--set", "model.hidden=16", "--run-dir", "mine", "--quiet")
    assert found.code == 0, found.err
    values = dict(line.split(maxsplit=1) for line in found.out.splitlines() if not line.startswith(("steep", "lowest")))
    assert "--set optim.lr=" in found.out
    client = MlflowClient(empty_store)
    experiment = client.get_experiment_by_name("distsgd")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "find-lr 1e-05 to 10"
    assert run.data.metrics["find_lr/suggestion"] == float(values["suggestion"].split(",")[0])
    artifacts = {artifact.path for artifact in client.list_artifacts(run.info.run_id, "find_lr")}
    assert artifacts == {"find_lr/find_lr.png", "find_lr/find_lr.json"}


def test_a_wrong_range_is_one_message_and_exit_code_two(own_folder):
    found = invoke("find-lr", "--from", "1", "--to", "0.1", "--workers", "0")
    assert found.code == 2
    assert found.err.count("\n") == 1
