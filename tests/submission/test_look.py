"""What the look says of a run that has begun, and of one that has finished."""

from __future__ import annotations

from distsgd import train
from distsgd.config import Config
from distsgd.submission.look import look


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
