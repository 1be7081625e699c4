"""What is called an effect, what two runs share, and where their losses part."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from made_up import made_up

from distsgd.compare.comparison import compare
from distsgd.compare.effects import contrast
from distsgd.compare.page import page
from distsgd.compare.runs import Curve
from distsgd.compare.sameness import sameness
from distsgd.compare.settings import ROWS, settings_of
from distsgd.compare.words import bars
from distsgd.errors import ConfigError

LOW, HIGH = (0.90, 0.91, 0.92, 0.90, 0.93, 0.91, 0.92), (0.95, 0.97, 0.96, 0.94, 0.96, 0.97, 0.95)


def runs(values: tuple[float, ...], **keys):
    return [made_up(value, seed=seed, **keys) for seed, value in enumerate(values)]


def only_contrast(found):
    (one,) = found.contrasts
    return one


def test_a_difference_in_one_parameter_beyond_chance_is_an_effect():
    one = only_contrast(compare(runs(LOW, optim__lr=0.1) + runs(HIGH, optim__lr=0.3)))
    assert one.cause == "optim.lr"
    assert one.paired.p == 2 / 2**7
    assert one.paired.mean == pytest.approx(np.mean(LOW) - np.mean(HIGH))
    assert "an effect of optim.lr (0.3 to 0.1), the only difference: it is worse beyond chance" in one.sentences()[1]


def test_more_than_one_difference_is_not_called_an_effect():
    one = only_contrast(compare(runs(LOW, optim__lr=0.1) + runs(HIGH, optim__lr=0.3, train__batch_size=32)))
    assert one.cause is None
    assert "not called an effect: more than one thing differs, optim.lr, train.batch_size" in one.sentences()


@pytest.mark.parametrize(
    ("other", "what"),
    [({"digest": "d2"}, ROWS), ({"version": "0.2.0"}, "the version of distsgd")],
)
def test_other_rows_or_another_version_count_as_differences(other, what):
    found = compare(runs(LOW, optim__lr=0.1) + runs(HIGH, optim__lr=0.3, **other))
    assert only_contrast(found).cause is None
    assert what in only_contrast(found).differs


def test_runs_of_other_programs_are_never_said_to_be_an_effect():
    found = compare(runs(LOW, optim__lr=0.1, exact=False) + runs(HIGH, optim__lr=0.3, exact=False))
    assert only_contrast(found).cause is None
    assert "not called an effect: whether the rows were the same is not known" in only_contrast(found).sentences()


def test_workers_and_threads_are_no_difference():
    found = compare(runs(LOW[:3], run__workers=0) + runs(HIGH[3:5], run__workers=2, run__threads=1))
    assert len(found.settings) == 1
    assert "run.workers" in found.differing


def test_fewer_than_six_pairs_cannot_reach_five_percent_and_it_says_so():
    one = only_contrast(compare(runs(LOW[:5], optim__lr=0.1) + runs(HIGH[:5], optim__lr=0.3)))
    assert one.paired.p == 2 / 2**5
    assert "what is measured is not beyond chance" in one.sentences()[1]
    assert (
        one.sentences()[2] == "5 pairs cannot come to p < 0.05, whatever they are (0.0625 at best): that takes 6 seeds"
    )
    six = only_contrast(compare(runs(LOW[:6], optim__lr=0.1) + runs(HIGH[:6], optim__lr=0.3)))
    assert len(six.sentences()) == 2


def test_without_a_common_seed_settings_are_not_compared_as_pairs():
    high = [made_up(value, seed=10 + seed, optim__lr=0.3) for seed, value in enumerate(HIGH)]
    one = only_contrast(compare(runs(LOW, optim__lr=0.1) + high))
    assert one.paired is None
    assert "no seed in common" in one.sentences()[0]


def test_only_seeds_that_both_have_are_paired():
    settings = settings_of(runs(LOW, optim__lr=0.1) + runs(HIGH[:4], optim__lr=0.3), "val/accuracy")
    one = contrast(settings[1], settings[0], "val/accuracy")
    assert one.seeds == ("0", "1", "2", "3")
    assert one.paired.differences == pytest.approx([a - b for a, b in zip(LOW, HIGH[:4], strict=False)])


def test_many_comparisons_have_adjusted_p_values():
    found = compare(
        [run for rate in (0.1, 0.2, 0.3, 0.4) for run in runs(tuple(v * rate for v in LOW), optim__lr=rate)]
    )
    assert len(found.contrasts) == 3
    assert all(one.adjusted_p == pytest.approx(3 * one.paired.p) for one in found.contrasts)


def test_the_best_setting_comes_first_whatever_better_means():
    mixed = runs(LOW, optim__lr=0.1) + runs(HIGH, optim__lr=0.3)
    assert [setting.values["optim.lr"] for setting in compare(mixed).settings] == [0.3, 0.1]
    losses = [made_up(0.5, losses=(1.0, 0.2), optim__lr=0.1), made_up(0.9, losses=(1.0, 0.4), optim__lr=0.3)]
    assert [setting.values["optim.lr"] for setting in compare(losses, metric="val/loss").settings] == [0.1, 0.3]


def test_a_repeated_seed_counts_once():
    found = compare([*runs(LOW, run__workers=0), made_up(LOW[0], seed=0, run__workers=2)])
    assert len(found.settings[0].runs) == len(LOW)
    assert any("1 run repeating a seed, which counts once" in note for note in found.notes)
    other = compare([*runs(LOW, run__workers=0), made_up(0.5, seed=0, run__workers=2)])
    assert any("1 of them came to another val/accuracy" in note for note in other.notes)


def test_losses_and_steps_at_the_ends_of_what_there_is_are_shown():
    """As those of other programs' runs, whose infinities MLflow's databases have replaced by the largest floats."""
    largest = float(np.finfo(np.float64).max)
    curve = Curve.of([(-5, 3.0, 1.0), (1, largest, 2.0), (2, -largest, 3.0), (3, np.nan, 4.0), (2**63 - 1, 1.0, 5.0)])
    assert curve.steps[0] == -5
    assert curve.steps[-1] == 2**62
    odd = dataclasses.replace(made_up(0.5), key="odd", curves={"val/loss": curve, "val/accuracy": curve})
    found = compare([odd, made_up(0.9)])
    assert [bars(setting) for setting in found.settings if odd in setting.runs.values()] == ["█???▁"]
    assert "</html>" in page(found, "odd")


@pytest.mark.parametrize("rate", [10**400, np.inf, np.nan, -1.0], ids=["huge", "inf", "nan", "negative"])
def test_a_learning_rate_that_is_none_is_not_in_the_picture(rate):
    foreign = [dataclasses.replace(made_up(value), key=str(value), exact=False) for value in LOW[:3]]
    rates = [0.1, 1.0, rate]
    found = compare([dataclasses.replace(run, parameters={"lr": lr}) for run, lr in zip(foreign, rates, strict=True)])
    assert "<h2>Learning rate</h2>" in page(found, "odd")


def test_two_runs_that_differ_in_the_learning_rate_are_said_to_share_all_else():
    a = made_up(0.9, losses=(1.0, 0.5, 0.25), optim__lr=0.1)
    b = made_up(0.8, losses=(1.0, 0.5, 0.3), optim__lr=0.3, run__workers=2)
    found = sameness(a, b)
    assert found.sentences()[0] == (
        "these two runs saw the same rows in the same order from the same weights; what differs is "
        "optim.lr (0.1 and 0.3)"
    )
    assert found.sentences()[1].startswith("no bit depends on what else differs: run.workers")
    assert (found.parting.equal_until, found.parting.differs_at) == (20, 30)
    assert "up to step 20, and part at step 30" in found.sentences()[2]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"seed": 1}, "the same rows in another order from other weights"),
        ({"train__batch_size": 32}, "the same rows in another order from the same weights"),
        ({"model__hidden": 32}, "the same rows in the same order from other weights"),
        ({"digest": "d2"}, "these two runs saw different rows; what differs is the rows"),
        ({"exact": False}, "is not known"),
        ({}, "nothing differs that a bit depends on"),
    ],
)
def test_what_is_not_the_same_is_said(keys, words):
    assert words in sameness(made_up(), made_up(**keys)).sentences()[0]


def test_nets_without_a_hidden_layer_begin_with_the_same_weights_whatever_the_seed_is():
    found = sameness(made_up(model__hidden=0), made_up(seed=1, model__hidden=0))
    assert (found.rows, found.order, found.weights) == (True, False, True)


def test_losses_that_never_part_are_equal_at_all_common_steps():
    found = sameness(made_up(losses=(1.0, 0.5)), made_up(losses=(1.0, 0.5, 0.1)))
    assert (found.parting.differs_at, found.parting.compared) == (None, 2)
    first = sameness(made_up(losses=(1.0, 0.5)), made_up(losses=(1.0 + 1e-16, 0.5)))
    assert first.parting.differs_at is None  # the same number
    other = sameness(made_up(losses=(1.0, 0.5)), made_up(losses=(1.0 + 1e-15, 0.5)))
    assert (other.parting.equal_until, other.parting.differs_at) == (None, 10)


def test_unfinished_runs_are_in_no_setting():
    found = compare([*runs(LOW), made_up(0.99, seed=20, status="FAILED", name="broken")])
    assert sum(len(setting.runs) for setting in found.settings) == len(LOW)
    assert any("broken (FAILED)" in note for note in found.notes)
    with pytest.raises(ConfigError, match="none has finished"):
        compare([made_up(status="RUNNING")])


def test_runs_are_compared_by_the_metric_that_they_were_chosen_by():
    """The second run has the higher accuracy and the higher loss."""
    values = [
        {"accuracy": 0.8, "losses": (1.0, 0.2), "optim__lr": 0.1},
        {"accuracy": 0.9, "losses": (1.0, 0.4), "optim__lr": 0.3},
    ]
    for given, metric, best in (
        ([{}, {}], "val/accuracy", 0.3),
        ([{"in_sweep": True}] * 2, "val/loss", 0.1),
        ([{"in_sweep": True, "train__stopping_metric": "accuracy"}] * 2, "val/accuracy", 0.3),
        ([{"in_sweep": True}, {}], "val/accuracy", 0.3),
        ([{"train__stopping_metric": "macro_f1"}] * 2, "val/accuracy", 0.3),  # which they do not have
    ):
        found = compare([made_up(**one, **more) for one, more in zip(values, given, strict=True)])
        assert (found.metric, found.settings[0].values["optim.lr"]) == (metric, best)


def test_early_stopping_keeps_the_best_and_not_the_last():
    run = made_up(losses=(1.0, 0.2, 0.6), train__early_stopping=2)
    assert run.kept_at() == 20
    assert run.final("val/loss") == pytest.approx(0.22)
    assert run.final("train/loss") == 0.6
    assert made_up(losses=(1.0, 0.2, 0.6)).final("val/loss") == pytest.approx(0.66)


@pytest.mark.parametrize(("rows", "batch", "step", "samples"), [(10, 4, 3, 10), (10, 4, 4, 14), (None, 4, 3, 12)])
def test_samples_count_the_smaller_last_mini_batch(rows, batch, step, samples):
    run = made_up(rows=rows, train__batch_size=batch)
    assert run.samples(np.array([step])).tolist() == [samples]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1.7976931348623157e308])
def test_a_run_that_diverged_is_named_and_not_counted(value):
    bad = made_up(0.9, seed=9, losses=(1.0, value), optim__lr=0.1, name="diverged")
    found = compare([*runs(LOW, optim__lr=0.1), *runs(HIGH, optim__lr=0.3), bad], metric="val/loss")
    assert any(
        "1 finished run has no val/loss that is a number, and is not counted: diverged" in n for n in found.notes
    )
    assert sum(setting.summary("val/loss").count for setting in found.settings) == len(LOW) + len(HIGH)
    json.dumps(found.to_json())
    assert "<svg" in page(found, "one that diverged")
