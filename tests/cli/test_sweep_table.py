"""What is shown of a sweep: the table on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import warnings

import pytest
from rich.console import Console

import distsgd
from distsgd.cli.sweep_progress import LiveSweepObserver, PlainSweepObserver, QuietSweepObserver, table
from distsgd.errors import RunWarning
from distsgd.sweeps.observer import Row

ROWS = [
    Row(number=1, parameters={"optim.lr": 0.01}, state="FINISHED", epoch=5.0, loss=0.3, accuracy=0.91),
    Row(number=2, parameters={"optim.lr": 0.1}, state="FINISHED", epoch=5.0, loss=0.1, accuracy=0.97, is_best=True),
    Row(number=3, parameters={"optim.lr": 1.0}, state="RUNNING", epoch=2.25, epochs=5.0, loss=0.2),
    Row(number=4, parameters={"optim.lr": 10.0}, state="FAILED", epoch=0.1, error="not finite"),
    Row(number=5, parameters={"optim.lr": 2.0}),
]


def shown(found, *, width=100, height=40) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None)
    console.print(found)
    return console.file.getvalue()


def test_the_table_has_a_row_for_each_trial():
    text = shown(table(ROWS, "2 at a time, into runs/mine", 20))
    lines = [line.split() for line in text.splitlines()]
    assert "5 trials: 2 finished, 1 running, 1 failed, 1 pending; 2 at a time, into runs/mine" in text
    assert ["trial", "optim.lr", "epoch", "loss", "accuracy", "state"] in lines
    assert ["2", "0.1", "5", "0.1000", "0.9700", "FINISHED", "(best)"] in lines
    assert ["3", "1.0", "2.25/5", "0.2000", "RUNNING"] in lines
    assert ["5", "2.0", "PENDING"] in lines


def test_of_more_trials_than_lines_the_best_and_those_that_run_are_shown():
    rows = [Row(number=n, parameters={"optim.lr": n}, state="FINISHED", loss=float(n)) for n in range(4, 50)]
    text = shown(table([*ROWS, *rows], "", 4))
    numbers = [line.split()[0] for line in text.splitlines()[2:]]
    assert numbers == ["1", "2", "3", "4"]


def test_with_several_seeds_the_mark_is_of_the_setting_with_the_best_mean(capsys):
    row = Row(number=1, parameters={"optim.lr": 0.1, "train.seed": 1}, state="FINISHED", is_best=True)
    row.seeds, row.finished_seeds = 3, 2
    assert "FINISHED (best mean, of 2/3 seeds)" in shown(table([row], "", 20))
    observer = PlainSweepObserver()
    observer.sweep_started([row], at_once=1, path="runs/mine")
    observer.trial_changed(row)
    assert capsys.readouterr().err.endswith("FINISHED: best mean, of 2/3 seeds so far\n")


def test_a_script_is_warned_of_what_the_command_line_warns_of(monkeypatch):
    """Of the rows at once; of trials when all of them have ended, because a filter may make errors of warnings."""

    def made_up(config, asked, *, observer, **more):
        observer.note("features (2): a, b")
        observer.note("warning: column 'a' looks like an index")
        observer.sweep_started(ROWS, at_once=2, path="runs/mine")
        observer.note("warning: MLflow lacks a part of it (trial 2)")
        for row in ROWS:
            observer.trial_changed(row)
        said.extend(str(found.message) for found in caught)
        return "what was found"

    said: list[str] = []
    monkeypatch.setattr("distsgd.sweeps.sweep.sweep", made_up)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert distsgd.sweep(grid={"optim.lr": [0.1, 1.0]}) == "what was found"
    assert said == ["column 'a' looks like an index"]
    assert [str(found.message) for found in caught] == [
        "column 'a' looks like an index",
        "MLflow lacks a part of it (trial 2)",
        "trial 4 (optim.lr=10.0) failed: not finite",
    ]
    assert {(found.category, found.filename) for found in caught} == {(RunWarning, __file__)}


@pytest.mark.parametrize("width", [20, 40, 200])
def test_the_table_fits_the_terminal(width):
    text = shown(table(ROWS, "2 at a time, into runs/mine", 20), width=width)
    assert max(map(len, text.splitlines())) <= width


def test_a_terminal_shows_the_table_until_the_end_and_failures_above_it():
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=30, color_system=None)
    with LiveSweepObserver(console) as observer:
        observer.stage("starting Ray on this machine")
        observer.sweep_started(ROWS, at_once=2, path="runs/mine")
        observer.trial_changed(ROWS[3])
    text = console.file.getvalue()
    assert "trial 4 (optim.lr=10.0) failed: not finite" in text
    assert "2 at a time, into runs/mine" in text.rpartition("failed: not finite")[2]


def test_without_a_terminal_there_is_a_line_for_each_trial_that_has_ended(capsys):
    now = [0.0]
    observer = PlainSweepObserver(clock=lambda: now[0])
    observer.sweep_started(ROWS, at_once=2, path="runs/mine")
    for row in ROWS:
        observer.trial_changed(row)
    observer.progressed()
    now[0] = 61.0
    observer.progressed()
    assert capsys.readouterr().err.splitlines() == [
        "sweep of 5 trials, 2 at a time, into runs/mine",
        "trial 1/5  optim.lr=0.01  FINISHED  epoch 5  loss 0.3000  accuracy 0.9100",
        "trial 2/5  optim.lr=0.1  FINISHED  epoch 5  loss 0.1000  accuracy 0.9700: best so far",
        "trial 4/5  optim.lr=10.0  FAILED  epoch 0.1: not finite",
        "running: trial 3  optim.lr=1.0  epoch 2.25/5  loss 0.2000",
    ]


def test_a_quiet_sweep_prints_failures_alone(capsys):
    observer = QuietSweepObserver()
    observer.sweep_started(ROWS, at_once=2, path="runs/mine")
    for row in ROWS:
        observer.trial_changed(row)
    observer.note("features (64): pixels")
    assert capsys.readouterr().err == "trial 4 (optim.lr=10.0) failed: not finite\n"
