"""What reading finds out about the files reaches whoever watches the run."""

from __future__ import annotations

import inspect
import warnings

import numpy as np
import pytest

from distsgd import train
from distsgd.cli.python_warnings import WarningObserver
from distsgd.errors import RunWarning
from distsgd.run.observer import Observer


class Notes(Observer):
    """Keeps the messages for the user."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def test_how_a_csv_file_is_read_is_said(tmp_path):
    (tmp_path / "rows.csv").write_text("a;label\n" + "1,5;x\n2,5;y\n" * 20)
    notes = Notes()
    serial = {"run.workers": 0, "run.dir": str(tmp_path / "run"), "train.max_steps": 0, "tracking.enabled": False}
    train({"data.train": str(tmp_path / "rows.csv"), **serial}, observer=notes)
    assert "rows.csv: read with ';' between columns and a decimal comma" in notes.texts


def indexed(tmp_path, **more):
    rng = np.random.default_rng(0)
    rows = {"id": np.arange(60), "a": rng.standard_normal(60), "label": rng.integers(0, 2, 60)}
    config = {"run.workers": 0, "run.dir": str(tmp_path / "run"), "train.max_steps": 1, "tracking.enabled": False}
    return train(config, data=rows, **more)


def test_a_script_gets_the_warnings_as_python_has_them(tmp_path):
    with pytest.warns(RunWarning, match="^column 'id' looks like an index; leave out what is no feature") as found:
        result = indexed(tmp_path)
    (warning,) = found
    assert warning.filename == __file__
    assert result.warnings == [str(warning.message)]


def test_what_is_warned_of_during_training_waits_for_its_end(tmp_path):
    observer = WarningObserver(inspect.currentframe())
    observer.started(None, tmp_path, nodes=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for text in ("warning: worker 1 was lost", "MLflow run: 1", "warning: worker 1 was lost"):
            observer.note(text)
    with pytest.warns(RunWarning) as found:
        observer.issue()
    assert [str(warning.message) for warning in found] == ["worker 1 was lost"]


def test_a_filter_that_makes_errors_of_warnings_stops_before_the_first_step(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RunWarning)
        with pytest.raises(RunWarning, match="'id' looks like an index"):
            indexed(tmp_path)
    assert not (tmp_path / "run" / "result.json").exists()


def test_who_watches_a_run_gets_its_warnings_once(tmp_path):
    notes = Notes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        indexed(tmp_path, observer=notes)
    assert sum("looks like an index" in text for text in notes.texts) == 1
