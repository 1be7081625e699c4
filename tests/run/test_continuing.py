"""A run that has finished is made longer, and has the bits of one that had been that long from the start."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
from runs import invoke, options, result, timeless

from distsgd.engine.local import LocalTrainer
from distsgd.rundir.classifier import Classifier, weights_sha256

SHORT = {"model.hidden": 8, "train.epochs": 2, "train.log_every": 7, "tracking.enabled": "false"}
STEPS = 23
"""Of an epoch over the digits."""

PLANS = {
    "constant": {"optim.momentum": 0.9, "optim.warmup_steps": 60},
    "step": {"optim.schedule": "step", "optim.decay_every": 1.5},
}


def train(path: str, *layers, resume: bool = False, workers: int = 0):
    arguments = ["--resume"] if resume else []
    return invoke("train", f"--run-dir={path}", f"--workers={workers}", *arguments, *options(*layers))


def same_figures(left: Path, right: Path) -> bool:
    keys = ("weights_sha256", "steps", "train/loss", "val/loss", "val/accuracy", "recall", "best_epoch", "remarks")
    return [result(left)[key] for key in keys] == [result(right)[key] for key in keys]


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_longer_run_has_the_bits_of_one_that_was_as_long_from_the_start(own_folder, plan):
    longer = {"train.epochs": 5}
    assert train("whole", SHORT, plan, longer).code == 0
    assert train("run", SHORT, plan).code == 0
    before = result(Path("run"))["weights_sha256"]
    found = train("run", longer, resume=True)
    assert found.code == 0, found.err
    assert f"resuming 'run' after step {2 * STEPS} of {5 * STEPS}" in found.err
    assert same_figures(Path("run"), Path("whole"))
    assert timeless(Path("run")) == timeless(Path("whole"))
    assert result(Path("run"))["weights_sha256"] != before
    assert weights_sha256(Classifier.load("run/model.npz").flat) == result(Path("whole"))["weights_sha256"]
    again = train("run", resume=True)
    assert again.err == "the run in 'run' has finished; nothing is left to do\n"


def test_a_run_cut_by_a_number_of_steps_goes_on_within_its_epoch(own_folder):
    assert train("whole", SHORT).code == 0
    assert train("run", SHORT, {"train.max_steps": 30}).code == 0
    assert train("run", {"train.max_steps": 1000}, resume=True).code == 0
    assert same_figures(Path("run"), Path("whole"))


def test_a_longer_run_that_is_stopped_goes_on_to_its_new_end(own_folder, monkeypatch):
    assert train("whole", SHORT, {"train.epochs": 4}).code == 0
    assert train("run", SHORT).code == 0
    run = LocalTrainer.run

    def run_until_the_stop(self, until, tick):
        reached = run(self, min(until, 60), tick)
        if reached == 60:
            signal.raise_signal(signal.SIGTERM)
        return reached

    with monkeypatch.context() as patch:
        patch.setattr(LocalTrainer, "run", run_until_the_stop)
        assert train("run", {"train.epochs": 4}, resume=True).code == 143
    assert result(Path("run"))["status"] == "KILLED"
    assert Classifier.load("run/model.npz").flat.size  # of the shorter run
    found = train("run", resume=True)
    assert found.code == 0, found.err
    assert f"after step 60 of {4 * STEPS}" in found.err
    assert same_figures(Path("run"), Path("whole"))


def test_an_unfinished_run_can_be_made_longer_too(own_folder):
    assert train("whole", SHORT, {"train.epochs": 3}).code == 0
    assert train("run", SHORT).code == 0
    Path("run/result.json").unlink()  # as if the driver had died at the end
    assert train("run", {"train.epochs": 3}, resume=True).code == 0
    assert same_figures(Path("run"), Path("whole"))


def test_without_a_name_the_run_of_another_length_is_found(own_folder):
    first = invoke("train", "--workers=0", *options(SHORT))
    assert first.code == 0
    found = invoke("train", "--workers=0", "--resume", *options(SHORT, {"train.epochs": 3}))
    assert found.code == 0, found.err
    (path,) = Path("runs").iterdir()
    assert result(path)["steps"] == 3 * STEPS


@pytest.mark.parametrize(
    ("first", "then", "words"),
    [
        (
            {"optim.schedule": "cosine"},
            {"train.epochs": 3},
            "with optim.schedule=cosine the learning rate of every step",
        ),
        ({}, {"train.epochs": 1}, "train.epochs was 2 and is 1; train.epochs can only be raised"),
        ({}, {"train.max_steps": 40}, "train.max_steps can only be raised"),
        ({}, {"train.epochs": 3, "optim.lr": 0.5}, "beside train.epochs and train.max_steps, nothing that the weights"),
        ({}, {"optim.lr": 0.5}, "cannot be resumed with another configuration: optim.lr was 0.1 and is 0.5"),
        ({"train.max_steps": 30}, {"train.epochs": 3}, "train.max_steps is 30; raise it, too"),
        ({"train.max_steps": 60}, {"train.max_steps": 90}, "train.epochs is 2; raise it"),
    ],
    ids=["cosine", "fewer epochs", "fewer steps", "another rate, too", "another rate", "cut by steps", "cut by epochs"],
)
def test_what_cannot_be_continued_is_refused_with_the_reason(own_folder, first, then, words):
    assert train("run", SHORT, first).code == 0
    before = result(Path("run"))
    found = train("run", then, resume=True)
    assert found.code == 2
    assert words in found.err
    assert len(found.err.splitlines()) == 1
    assert result(Path("run")) == before


def test_a_finished_run_without_its_last_checkpoint_is_refused(own_folder):
    assert train("run", SHORT).code == 0
    shutil.rmtree("run/checkpoints")
    found = train("run", {"train.epochs": 3}, resume=True)
    assert found.code == 2
    assert "cannot be continued without its last checkpoint" in found.err
    assert result(Path("run"))["status"] == "FINISHED"


def test_mlflow_has_the_model_of_the_longer_run(own_folder, empty_store):
    from tracking_helpers import only_run

    tracked = {"tracking.enabled": "true", "tracking.uri": empty_store}
    assert train("run", SHORT, tracked).code == 0
    assert train("run", {"train.epochs": 3}, resume=True).code == 0
    run = only_run(empty_store)
    assert run.info.status == "FINISHED"
    assert sorted(output.step for output in run.outputs.model_outputs) == [2 * STEPS, 3 * STEPS]
    assert run.data.tags["weights_sha256"] == result(Path("run"))["weights_sha256"]


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.usefixtures("joined")
def test_on_ray_as_well(own_folder):
    assert train("whole", SHORT, {"train.epochs": 4}).code == 0
    assert train("run", SHORT, workers=2).code == 0
    assert train("run", {"train.epochs": 4}, resume=True, workers=3).code == 0
    assert same_figures(Path("run"), Path("whole"))
