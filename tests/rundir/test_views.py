"""A result in Python and in a notebook: its history, its picture, and what it looks like."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from distsgd.errors import RunDirectoryError
from distsgd.rundir.result import Result

RECORDS = [
    {"step": 10, "epoch": 0.5, "train/loss": 2.0, "time/step_ms": 1.5, "timestamp_ms": 1},
    {"step": 20, "epoch": 1.0, "train/loss": 1.0, "val/loss": 1.1, "val/accuracy": 0.75, "timestamp_ms": 2},
]


@pytest.fixture
def result(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return Result(
        status="FINISHED",
        weights_sha256="ab" * 32,
        steps=20,
        epochs=1.0,
        train_loss=1.0,
        val_loss=1.1,
        val_accuracy=0.75,
        wall_s=2.5,
        samples_per_s=12_345.6,
        step_ms_p50=None,
        step_ms_p95=None,
        mlflow_run_id=None,
        numerics={"numpy": "2"},
        run_dir=tmp_path,
    )


def test_history_has_a_row_for_each_line_of_the_journal(result):
    assert result.records == RECORDS
    frame = result.history
    assert list(frame.columns)[:5] == ["step", "epoch", "train/loss", "val/loss", "val/accuracy"]
    assert set(frame.columns[5:]) == {"time/step_ms", "timestamp_ms"}
    assert frame["step"].tolist() == [10, 20]
    assert math.isnan(frame["val/accuracy"][0])
    assert frame["val/accuracy"][1] == 0.75


def test_history_of_a_run_without_lines_is_empty(result):
    (result.run_dir / "metrics.jsonl").write_text("")
    assert result.records == []
    assert list(result.history.columns) == ["step", "epoch", "train/loss", "val/loss", "val/accuracy"]
    assert len(result.history) == 0
    assert result.plot() is not None


def test_a_journal_that_is_gone_is_one_sentence(result):
    (result.run_dir / "metrics.jsonl").unlink()
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        _ = result.history


def test_plot_is_a_figure_that_a_notebook_displays(result):
    figure = result.plot()
    assert [axes.get_title() for axes in figure.axes] == ["loss", "accuracy"]
    assert ET.fromstring(figure._repr_svg_()).tag.endswith("svg")


def test_the_representation_is_one_line(result):
    assert repr(result) == (
        "<Result: FINISHED, 20 steps, 1 epoch, train/loss 1.0000, val/loss 1.1000, val/accuracy 0.7500, "
        f"weights abababababab, in {str(result.run_dir)!r}>"
    )
    stopped = replace(result, weights_sha256=None, train_loss=None, val_loss=None, val_accuracy=None)
    assert "None" not in repr(stopped)


def test_the_table_of_a_notebook_shows_what_was_measured_and_escapes_it(result):
    page = ET.fromstring(replace(result, warnings=["a <b> was & lost"])._repr_html_())
    rows = {row.find("th").text: row.find("td").text for row in page.iter("tr")}
    assert rows["val/accuracy"] == "0.75"
    assert rows["samples_per_s"] == "12,346"
    assert rows["run_dir"] == str(result.run_dir)
    assert "step_ms_p50" not in rows
    assert "numerics" not in rows
    assert [div.text for div in page.findall("div")] == ["warning: a <b> was & lost"]


@pytest.mark.parametrize("value", ["x", [1], {"a": "b"}, 7.5, True])
def test_a_result_file_with_values_of_other_types_is_none(result, value):
    path = result.run_dir / "result.json"
    path.write_text(json.dumps(result.to_json()))
    assert Result.read(result.run_dir) == result
    numbers = ("train/loss", "val/loss", "val/accuracy", "majority_share", "wall_s", "epochs")
    for key in result.to_json():
        if isinstance(value, float) and key in (*numbers, "balanced_accuracy", "macro_f1", "best_epoch"):
            continue
        if isinstance(value, float) and key in ("best_val_loss", "samples_per_s", "step_ms_p50", "step_ms_p95"):
            continue
        if value == "x" and key in ("weights_sha256", "mlflow_run_id", "ended", "arithmetic"):
            continue
        if value == {"a": "b"} and key in ("numerics", "features"):
            continue
        path.write_text(json.dumps(result.to_json() | {key: value}))
        assert Result.read(result.run_dir) is None, key
