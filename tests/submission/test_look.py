"""What the look says of a run that has begun, and of one that has finished."""

from __future__ import annotations

from distsgd import train
from distsgd.cluster.job_state import JobState
from distsgd.config import Config
from distsgd.errors import DataError, Problem
from distsgd.submission.look import look
from distsgd.submission.ray_job import _problem


def test_only_a_run_with_something_left_to_do_is_said_to_be_resumed(tmp_path):
    values = {
        "train.max_steps": 5,
        "run.workers": 0,
        "run.dir": str(tmp_path / "run"),
        "tracking.enabled": False,
    }
    resumed = f"the run in '{tmp_path / 'run'}' has begun, and is resumed"
    train(values)
    assert list(look(Config.build(values))) == []  # the job says that nothing is left to do
    assert list(look(Config.build(values | {"train.max_steps": 9}))) == [resumed]
    (tmp_path / "run" / "result.json").unlink()
    assert list(look(Config.build(values))) == [resumed]


def test_all_problems_of_the_rows_are_told_as_the_look_has_told_them():
    error = DataError(problems=[Problem("a.csv: column 'day' is a date", ("leave it out",)), Problem("no label")])
    log = f"look: the cluster has 1 CPU\ndistsgd: {error}\n\n(driver exits)\n"
    assert _problem(JobState("FAILED"), log) == str(error)
    assert len(str(error).splitlines()) == 5
    assert _problem(JobState("FAILED"), "distsgd: one\ndistsgd: another line\nmore\n") == "another line"
