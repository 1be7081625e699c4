"""The progress of a run in a notebook, and when `distsgd.train` shows it."""

from __future__ import annotations

import sys
import types
import xml.etree.ElementTree as ET

import pytest

import distsgd
from distsgd.cli.notebook import in_notebook

QUICK = {"run.workers": 0, "tracking.enabled": False, "train.epochs": 2, "model.hidden": 4}


@pytest.fixture
def outputs(monkeypatch):
    """The contents of the outputs of a notebook's cell, each as the list of what it was in turn."""
    shown: list[list[str]] = []

    class Handle:
        def __init__(self, content):
            self.contents = [content.data]
            shown.append(self.contents)

        def update(self, content):
            self.contents.append(content.data)

    class Html:
        def __init__(self, data):
            self.data = data

    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    ipython.display = types.ModuleType("IPython.display")
    ipython.display.HTML = Html
    ipython.display.display = lambda content, display_id: Handle(content)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    return shown


def test_a_notebook_shows_one_output_that_ends_with_the_last_step(own_folder, outputs, capfd):
    result = distsgd.train(QUICK)
    assert len(outputs) == 1
    for content in outputs[0]:
        ET.fromstring(content)
    last = ET.fromstring(outputs[0][-1])
    bar = last.find(".//progress")
    assert bar.get("value") == bar.get("max") == str(result.steps)
    assert "training 64-4-10" in outputs[0][-1]
    assert last.find(".//code").text.startswith("epoch 2/2")
    assert last.find(".//i") is None
    assert capfd.readouterr() == ("", "")


def test_updates_are_few_however_many_lines_are_logged(own_folder, outputs):
    distsgd.train(QUICK | {"train.log_every": 1, "train.epochs": 4})
    assert len(outputs[0]) < 40


def test_progress_is_off_if_asked_or_outside_of_notebooks(own_folder, outputs, capfd, monkeypatch):
    distsgd.train(QUICK, progress=False)
    sys.modules["IPython"].get_ipython = lambda: None
    assert not in_notebook()
    distsgd.train(QUICK)
    monkeypatch.delitem(sys.modules, "IPython")
    assert not in_notebook()
    assert outputs == []
    assert capfd.readouterr() == ("", "")


def test_progress_is_printed_outside_of_notebooks_if_asked(own_folder, capfd):
    distsgd.train(QUICK, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "epoch 2/2" in err


def test_nothing_is_being_done_after_the_end(outputs):
    from distsgd.cli.notebook import NotebookObserver

    with NotebookObserver() as observer:
        observer.stage("opening rows.csv")
    assert ET.fromstring(outputs[0][0]).find(".//i") is not None
    assert ET.fromstring(outputs[0][-1]).find(".//i") is None


def test_texts_are_escaped(outputs):
    from distsgd.cli.notebook import NotebookObserver

    with NotebookObserver() as observer:
        observer.note("warning: <script> & more")
        observer.stage("reading a<b: 1 of 2 rows")
    assert ET.fromstring(outputs[0][0]).find("div").text == "warning: <script> & more"
