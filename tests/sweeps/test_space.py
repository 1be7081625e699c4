"""The search space: what is read from the command line, what is refused, and in which order settings come."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsgd.config import Config, number_type
from distsgd.errors import ConfigError
from distsgd.sweeps.space import Grid, Range, make_space, parse_grid, parse_random, setting_config


def space(grid=None, random=None, trials=None, seeds=1, **base):
    return make_space(grid or {}, random or {}, trials=trials, seeds=seeds, base=Config.build(base))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("optim.lr=0.01,0.1,1", [0.01, 0.1, 1]),
        ("model.activation=relu, tanh", ["relu", "tanh"]),
        ("optim.nesterov=true,false", [True, False]),
        ('data.features=["a"],["a","b"]', [["a"], ["a", "b"]]),
        ("data.train=a.parquet,1", ["a.parquet", 1]),
    ],
)
def test_values_of_a_grid_are_toml_or_text(text, values):
    assert parse_grid([text]) == {text.partition("=")[0]: values}


def test_grids_are_combined_and_the_last_one_changes_fastest():
    found = space({"optim.lr": [0.1, 1.0], "model.hidden": [4, 8]})
    assert found.settings == 4
    assert [tuple(point.values()) for point in found.points] == [(0.1, 4), (0.1, 8), (1.0, 4), (1.0, 8)]
    assert found.grids == (Grid("optim.lr", (0.1, 1.0)), Grid("model.hidden", (4, 8)))


def test_ranges_know_whether_their_key_takes_integers():
    found = space(random={"optim.l2": "log:1e-6:1e-2", "train.batch_size": "log:16:256"}, trials=7)
    assert found.ranges == (
        Range("optim.l2", 1e-6, 1e-2, "log", integer=False),
        Range("train.batch_size", 16.0, 256.0, "log", integer=True),
    )
    assert found.settings == 7


def test_a_grid_of_class_weights_has_an_empty_table_for_none():
    grid = parse_grid(["train.class_weight=balanced,{}"])
    space = make_space(grid, {}, trials=None, seeds=1, base=Config())
    found = [setting_config(Config(), corner).train.class_weight for corner in space.corners]
    assert found == ["balanced", {}]
    with pytest.raises(ConfigError, match=r"class_weight is 'none': .* or \{\} for no weights"):
        make_space({"train.class_weight": ["balanced", "none"]}, {}, trials=None, seeds=1, base=Config())


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("optim.lr", float),
        ("model.hidden", int),
        ("train.max_steps", int),
        ("optim.clip_norm", float),
        ("optim.nesterov", None),
        ("model.activation", None),
        ("data.features", None),
        ("train.class_weight", None),
    ],
)
def test_which_keys_take_numbers(key, kind):
    assert number_type(key) is kind


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "something to vary"),
        ({"grid": {"optim.learning_rate": [1]}}, "did you mean 'optim.lr'"),
        ({"grid": {"optim.lr": [0.1, -1.0]}}, "the setting optim.lr=-1.0 of the sweep is refused"),
        ({"grid": {"optim.lr": ["high"]}}, "the setting optim.lr=high"),
        ({"grid": {"optim.lr": [0.1, 0.1]}}, "has 0.1 twice"),
        ({"grid": {"optim.lr": []}}, "expected a list of values"),
        ({"grid": {"optim.lr": ["", 1]}}, "an empty value"),
        ({"grid": {"run.workers": [1, 2]}}, "does not change the trained weights"),
        ({"grid": {"train.seed": [1, 2]}, "seeds": 2}, "varied by --seeds already"),
        ({"grid": {"optim.lr": [0.1]}, "trials": 3}, "the grid has 1 setting, and --trials is 3"),
        (
            {"grid": {"optim.lr": [0.1, 1.0]}, "random": {"optim.l2": "log:1e-3:1"}, "trials": 1},
            "some would not be tried",
        ),
        ({"grid": {"optim.lr": [0.1]}, "random": {"optim.lr": "log:1e-3:1"}, "trials": 1}, "both a grid and a range"),
        ({"random": {"optim.l2": "log:1e-6:1e-2"}}, "--trials says how many"),
        ({"random": {"optim.l2": "log:1e-6"}, "trials": 2}, "expected optim.l2=log:LOW:HIGH"),
        ({"random": {"optim.l2": "normal:0:1"}, "trials": 2}, "expected optim.l2=log:LOW:HIGH"),
        ({"random": {"optim.l2": "log:0:1"}, "trials": 2}, "begin above 0"),
        ({"random": {"optim.l2": "log:a:b"}, "trials": 2}, "not numbers"),
        ({"random": {"optim.l2": "log:1:0.1"}, "trials": 2}, "below its high end"),
        ({"random": {"optim.l2": "uniform:0:inf"}, "trials": 2}, "below its high end"),
        ({"random": {"model.hidden": "log:1.5:8"}, "trials": 2}, "takes integers"),
        ({"random": {"model.activation": "log:1:8"}, "trials": 2}, "does not take numbers"),
        ({"random": {"data.val_fraction": "uniform:0.1:0.5"}, "trials": 2}, "use --grid"),
        ({"random": {"optim.momentum": "uniform:0.5:1"}, "trials": 2}, "optim.momentum=1.0"),
        ({"random": {"train.batch_size": "log:2:256"}, "trials": 2}, "smaller than train.num_shards"),
        ({"random": {"optim.l2": "log:1e-6:1e-2"}, "trials": 9000, "seeds": 2}, "at most 10,000"),
    ],
)
def test_what_cannot_be_tried_is_refused_in_one_message(asked, message):
    with pytest.raises(ConfigError) as refusal:
        space(**asked)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["optim.lr", "=1,2", "optim.lr=", " "])
def test_a_grid_without_key_or_values_is_refused(text):
    with pytest.raises(ConfigError, match=r"--grid takes KEY="):
        parse_grid([text])


def test_a_key_that_is_given_twice_is_refused():
    with pytest.raises(ConfigError, match=r"names optim\.l2 twice"):
        parse_random(["optim.l2=log:1:2", "optim.l2=log:2:3"])


@given(
    st.dictionaries(st.text(max_size=8), st.lists(st.one_of(st.floats(), st.text(max_size=5)), max_size=3), max_size=3)
)
def test_any_grid_is_a_space_or_refused(grid):
    with contextlib.suppress(ConfigError):
        assert space(grid).settings >= 1


@given(st.text(max_size=20))
def test_any_range_is_a_space_or_refused(text):
    with contextlib.suppress(ConfigError):
        assert space(random={"optim.l2": text}, trials=2).settings == 2
