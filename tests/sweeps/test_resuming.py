"""What a sweep that is resumed may be asked for, what its file must hold, and the command that trains a trial again."""

from __future__ import annotations

import contextlib
import json
import random
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from distsgd.config import Config, parse_assignments
from distsgd.errors import ConfigError, RunDirectoryError
from distsgd.sweeps import plan, search, store
from distsgd.sweeps.beginning import resumed_sweep
from distsgd.sweeps.options import SearchOptions
from distsgd.sweeps.plan import TrialPlan
from distsgd.sweeps.pruning import Pruner
from distsgd.sweeps.space import make_space
from distsgd.sweeps.trial import Metric, Trial

RANGE = {"optim.lr": "log:0.01:1"}


def written(folder: Path, *, seeds: int = 2, prune: bool = False, **requested: object) -> store.Sweep:
    """Write the file of a sweep of two settings, the first of which was trained."""
    base = Config.build({key.replace("__", "."): value for key, value in requested.items()})
    space = make_space({}, RANGE, trials=2, seeds=seeds, base=base)
    sweep = store.Sweep(parent="mine", space=space, method="random", prune=prune, requested=base.explicit())
    TrialPlan(sweep, base, Metric("val/loss", lower_is_better=True)).draw_setting()
    for trial in sweep.trials:
        trial.state, trial.result, trial.run_dir = "FINISHED", {"val/loss": 0.5}, str(folder)
    sweep.best = 1
    store.SweepFile(folder).write(sweep)
    return sweep


def resumed(folder: Path, **options: object) -> store.Sweep:
    with contextlib.ExitStack() as stack:
        return resumed_sweep(Config.build({"run.dir": str(folder)}), SearchOptions(**options), stack).sweep


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 3}, "began with --seeds 2, and --seeds 3 is asked for"),
        ({"search": "tpe"}, "began with --search random, and --search tpe is asked for"),
        ({"prune": True}, "began with no --prune, and --prune is asked for"),
        ({"prune": True, "seeds": 1}, "began with --seeds 2 and no --prune, and --seeds 1 and --prune is asked for"),
        ({"trials": 1}, "began with --trials 2, and --trials 1 is asked for; it may only be raised"),
        ({"trials": 6000}, "12,000 trials, and a sweep has at most 10,000"),
        ({"random": RANGE, "trials": 3, "seeds": 1}, "began with --seeds 2, and --seeds 1"),
        ({"random": {"optim.lr": "log:0.01:2"}, "trials": 2}, "varies other values"),
    ],
)
def test_no_option_of_a_resumed_sweep_is_ignored(tmp_path, options, message):
    written(tmp_path)
    with pytest.raises(ConfigError, match=message):
        resumed(tmp_path, **options)


def test_a_grid_does_not_grow_by_trials_alone(tmp_path):
    base = Config()
    space = make_space({"optim.lr": [0.1, 0.2]}, {}, trials=None, seeds=1, base=base)
    store.SweepFile(tmp_path).write(store.Sweep(parent="", space=space, method="random", prune=False, requested={}))
    with pytest.raises(ConfigError, match="the grid has 2 settings, and --trials is 3"):
        resumed(tmp_path, trials=3)


def test_what_the_sweep_began_with_may_be_said_again_or_left_out(tmp_path):
    written(tmp_path, prune=True)
    assert resumed(tmp_path).prune
    assert resumed(tmp_path, prune=True, search="random", seeds=2, trials=2).space.settings == 2
    assert resumed(tmp_path, trials=5).space.settings == 5
    assert resumed(tmp_path, random=RANGE).space.settings == 2
    found = resumed(tmp_path, random=RANGE, trials=7)
    assert (found.space.settings, found.space.seeds, found.prune) == (7, 2, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["trials"][1].update(number=1), "trial 2 has the number 1 and the setting 0"),
        (lambda content: content["trials"][0].update(number=-4), "trial 1 has the number -4"),
        (lambda content: content["trials"][1].update(setting=1), "should have the setting 0"),
        (lambda content: content["trials"].pop(0), "trial 1 has the number 2"),
        (lambda content: content.update(best=3), "the best trial is said to be number 3, and there are 2"),
        (lambda content: content["space"].update(seeds=0), "2 trials, for 2 settings with 0 seeds"),
        (lambda content: content["space"].update(settings=-1), "2 trials, for -1 settings"),
        (lambda content: content["space"].update(settings=10**9), "at most 10000 are possible"),
        (lambda content: content["trials"][0]["parameters"].clear(), "trial 1 has other parameters"),
        (lambda content: content["trials"][0].update(state="DONE"), "trials.0.state"),
    ],
)
def test_a_file_whose_trials_cannot_be_those_of_its_space_is_refused(tmp_path, change, message):
    written(tmp_path)
    content = json.loads((tmp_path / store.FILE).read_text())
    change(content)
    del content["sha256"], content["sealed"]
    (tmp_path / store.FILE).write_text(json.dumps(content))
    with pytest.raises(RunDirectoryError, match=message):
        store.read(tmp_path)


def test_any_changed_bit_of_the_file_is_found(tmp_path):
    written(tmp_path)
    file = tmp_path / store.FILE
    whole, draw = file.read_bytes(), random.Random(5)
    for _ in range(100):
        bit = draw.randrange(8 * len(whole))
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        with pytest.raises(RunDirectoryError, match="damaged or of another version"):
            store.read(tmp_path)
    file.write_bytes(whole)
    assert store.read(tmp_path).best == 1


def test_a_file_without_a_digest_is_read(tmp_path):
    """Versions before wrote none."""
    expected = written(tmp_path)
    content = json.loads((tmp_path / store.FILE).read_text())
    del content["sha256"], content["sealed"]
    (tmp_path / store.FILE).write_text(json.dumps(content, indent=1) + "\n")
    assert [trial.parameters for trial in store.read(tmp_path).trials] == [t.parameters for t in expected.trials]


def test_the_file_follows_its_trials(tmp_path):
    sweep, file = written(tmp_path), store.SweepFile(tmp_path)
    file.write(sweep)
    sweep.trials[1].state, sweep.trials[1].error, sweep.trials[1].result = "FAILED", "why", {"steps": 3}
    file.write(sweep)
    found = store.read(tmp_path).trials[1]
    assert (found.state, found.error, found.result) == ("FAILED", "why", {"steps": 3})


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        ({}, "distsgd train --workers 0"),
        ({"run__workers": 2}, "distsgd train --workers 2 --device cpu"),
        ({"run__workers": 2, "run__device": "cpu"}, "distsgd train --workers 2 --device cpu"),
        ({"run__device": "cuda"}, "distsgd train --workers 1 --device cuda"),
    ],
)
def test_the_command_of_a_trial_has_its_workers_and_its_device(tmp_path, requested, expected):
    """On a machine with a GPU, `distsgd train` would use it, and have other bits; or find fewer GPUs than cores."""
    sweep = written(tmp_path, seeds=1, **requested)
    plan = TrialPlan(sweep, sweep.base, Metric("val/loss", lower_is_better=True))
    words = shlex.split(plan.command(sweep.trials[0]))
    assignments = [value for word, value in pairwise(words) if word == "--set"]
    assert parse_assignments(assignments) == sweep.trials[0].parameters
    assert set(shlex.split(expected)) == set(words) - {"--set", *assignments}


def test_a_trial_is_judged_once_for_each_validation_and_by_those_before_it_was_resumed(tmp_path):
    pruner = Pruner(Metric("val/loss", lower_is_better=True))

    def trial(number: int, losses: list[float]) -> Trial:
        folder = tmp_path / str(number)
        folder.mkdir()
        lines = [json.dumps({"step": step, "val/loss": loss}) + "\n" for step, loss in enumerate(losses, 1)]
        (folder / "metrics.jsonl").write_text("".join(lines))
        return Trial(number=number, setting=number, parameters={}, run_dir=str(folder), state="FINISHED")

    finished = [trial(number, [0.9, 0.5, 0.4]) for number in range(1, 7)]
    resumed = trial(7, [0.2, 0.8])
    assert not pruner.note(resumed, [{"step": 3, "train/loss": 0.7}])
    assert pruner.note(resumed, [{"step": 3, "val/loss": 0.8}])
    assert not pruner.is_hopeless(resumed, finished), "its first validation was better than theirs"
    assert pruner.note(trial(8, []), [{"step": 3, "val/loss": 0.8}])
    assert pruner.is_hopeless(Trial(number=8, setting=8, parameters={}, run_dir=""), finished)


@pytest.mark.parametrize("left", [["sealed", "sha256"], ["sealed"], ["sha256"]])
def test_a_file_that_an_editor_has_written_anew_is_refused(tmp_path, left):
    """It has the digest, or says that there is one, but not where this was written."""
    written(tmp_path)
    content = json.loads((tmp_path / store.FILE).read_text())
    for key in {"sealed", "sha256"} - set(left):
        del content[key]
    (tmp_path / store.FILE).write_text(json.dumps(content, indent=4))
    with pytest.raises(RunDirectoryError, match=r"edited|not as it was written"):
        store.read(tmp_path)


@pytest.mark.slow
def test_a_sweep_of_many_trials_on_rows_with_many_columns_can_be_read(tmp_path):
    """Its file names all columns for each of them."""
    sweep = written(tmp_path)
    features = {"used": [f"column {number:,} of the table" for number in range(4_000_000)], "left_out": {}}
    sweep.trials[0].result = {"features": features}
    store.SweepFile(tmp_path).write(sweep)
    assert (tmp_path / store.FILE).stat().st_size > 2**26
    assert store.read(tmp_path).key == sweep.key


def test_a_setting_of_thousands_takes_no_longer_to_draw_than_one_of_a_few(monkeypatch):
    """What has been drawn before is looked at by `tpe` alone, and the grid is combined once."""
    looked_at, described = list[int](), list[int]()
    distributions = search._distributions
    monkeypatch.setattr(plan, "settings_of", lambda trials: looked_at.append(len(trials)) or [])
    monkeypatch.setattr(
        search, "_distributions", lambda space: described.append(len(space.grids)) or distributions(space)
    )
    options = SearchOptions(grid={"train.seed": list(range(20))}, random={"optim.lr": "log:0.1:1"}, trials=20)
    base = Config.build({"run.workers": 0})
    space = options.space(base)
    sweep = store.Sweep(parent="", space=space, method="random", prune=False, requested=base.explicit())
    trials = TrialPlan(sweep, base, Metric.named("loss"))
    points = space.points
    while trials.draw_setting():
        pass
    assert looked_at == described == [0] * 20
    assert space.points is points
    assert [trial.parameters["train.seed"] for trial in sweep.trials] == list(range(20))
