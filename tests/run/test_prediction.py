"""`distsgd predict`: rows in order, nothing but the model's columns, the same bytes whatever happens on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from runs import Cli, eventually, invoke, leaving_nothing

import distsgd
from distsgd.data import csv_output
from distsgd.data.parts import Parts
from distsgd.run import prediction

ROWS = 3_000


def table(rows: int = ROWS, *, seed: int = 3) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "id": np.arange(rows) * 7 % 1000,
            "size": rng.normal(50.0, 20.0, rows),
            "color": rng.choice(["red", "green", "blue"], rows),
            "count": rng.integers(0, 9, rows).astype(np.int32),
            "flag": rng.random(rows) < 0.5,
            "label": rng.choice(["no", "yes", "perhaps"], rows),
        }
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run on a table with numbers, a category and a boolean."""
    folder = tmp_path_factory.mktemp("trained")
    pq.write_table(table(200), folder / "train.parquet")
    values = {
        "data.train": str(folder / "train.parquet"),
        "data.exclude": ["id"],
        "data.normalize": "standard",
        "run.workers": 0,
        "run.dir": str(folder / "run"),
        "tracking.enabled": False,
        "train.max_steps": 20,
    }
    distsgd.train(values)
    return folder / "run"


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of 512 rows."""
    monkeypatch.setattr(prediction, "PART_ROWS", 512)


def test_rows_are_joined_to_their_predictions_one_by_one(trained, own_folder, small_parts):
    os.mkdir("rows")
    rows = table()
    for number, start in enumerate(range(0, ROWS, 700)):
        part = rows.slice(start, 700)
        pq.write_table(part.select(part.column_names[::-1] if number % 2 else part.column_names), f"rows/{number}.pq")
    found = invoke("predict", str(trained), "--data", "rows", "--out", "out.parquet", "--keep", "id,label")
    assert found.code == 0, found.err
    assert "3,000 rows" in found.out
    out = pq.read_table("out.parquet")
    assert out.column_names == ["id", "label", "prediction", "probabilities"]
    assert out["id"].equals(rows["id"])
    assert out["label"].equals(rows["label"])
    model = distsgd.Classifier.load(trained)
    with pytest.warns(UserWarning, match="ignored"):
        expected, probabilities = model.predict(rows), model.predict_proba(rows)
    assert out["prediction"].to_pylist() == expected.tolist()
    np.testing.assert_allclose(np.stack(out["probabilities"].to_numpy()), probabilities, atol=1e-6)
    assert json.loads(out.schema.metadata[b"distsgd.classes"]) == model.classes.tolist()
    assert sorted(os.listdir()) == ["out.parquet", "rows", "tmp"]


def test_labels_are_not_needed_and_other_formats_give_the_same(trained, own_folder):
    rows = table(300).drop(["label", "id"])
    pq.write_table(rows, "a.parquet")
    rows.to_pandas().to_csv("b.csv", index=False)
    for name in ("a.parquet", "b.csv"):
        assert invoke("predict", str(trained), "--data", name, "--out", f"{name[0]}.out.parquet", "--quiet").out == ""
    assert Path("a.out.parquet").read_bytes() == Path("b.out.parquet").read_bytes()


class _StoppedError(Exception):
    """What ends a prediction in the middle."""


def test_a_prediction_that_was_stopped_goes_on_and_its_file_is_the_same(trained, own_folder, small_parts, monkeypatch):
    pq.write_table(table(), "rows.parquet")
    prediction.predict(trained, "rows.parquet", Path("whole.parquet"), keep=["id"])
    write, stop_at = Parts.write, 3

    def stopping(self: Parts, number: int, rows: pa.Table) -> None:
        if number == stop_at:
            raise _StoppedError
        write(self, number, rows)

    monkeypatch.setattr(Parts, "write", stopping)
    with pytest.raises(_StoppedError):
        prediction.predict(trained, "rows.parquet", Path("out.parquet"), keep=["id"])
    assert not Path("out.parquet").exists()
    monkeypatch.setattr(Parts, "write", write)
    done = prediction.predict(trained, "rows.parquet", Path("out.parquet"), keep=["id"])
    assert done.resumed_rows == 3 * 512
    assert Path("out.parquet").read_bytes() == Path("whole.parquet").read_bytes()
    assert not list(Path().glob(".out*"))


@pytest.mark.parametrize("change", ["keep", "data", "model"])
def test_parts_of_another_prediction_are_not_used(change, trained, own_folder, small_parts, monkeypatch):
    pq.write_table(table(), "rows.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(Parts, "join", lambda *_: (_ for _ in ()).throw(_StoppedError()))
        with pytest.raises(_StoppedError):
            prediction.predict(trained, "rows.parquet", Path("out.parquet"), keep=["id"])
    keep, run = ["id"], trained
    if change == "keep":
        keep = ["label"]
    elif change == "data":
        pq.write_table(table(seed=4), "rows.parquet")
    else:
        config = distsgd.Config.build(json.loads((trained / "config.json").read_text())["distsgd"]["requested"])
        run = Path("other")
        distsgd.train(config.with_values({"run.dir": "other", "train.max_steps": 3}))
    done = prediction.predict(run, "rows.parquet", Path("out.parquet"), keep=keep)
    assert done.resumed_rows == 0
    prediction.predict(run, "rows.parquet", Path("again.parquet"), keep=keep)
    assert Path("out.parquet").read_bytes() == Path("again.parquet").read_bytes()


@pytest.mark.slow
def test_tasks_on_ray_give_the_same_bytes_in_order(trained, own_folder, small_parts, joined):
    pq.write_table(table(), "rows.parquet")
    prediction.predict(trained, "rows.parquet", Path("here.parquet"), keep=["id"])
    prediction.predict(trained, "rows.parquet", Path("ray.parquet"), keep=["id"], workers=2)
    assert Path("here.parquet").read_bytes() == Path("ray.parquet").read_bytes()


def with_column(name: str, values: object) -> pa.Table:
    rows = table(50)
    place = rows.column_names.index(name)
    return rows.set_column(place, name, pa.array(values))


MISFITS = {
    "a missing column": (table(50).drop(["size"]), "no column 'size'"),
    "a near name": (table(50).rename_columns(["id", "sizes", "color", "count", "flag", "label"]), "did you mean 'siz"),
    "text for numbers": (with_column("size", ["a"] * 50), "column 'size' is string, expected numbers"),
    "numbers for text": (with_column("color", list(range(50))), "column 'color' is int64, expected text"),
    "a null": (with_column("count", [1] * 30 + [None] * 20), "row 30 (counted from 0): null in column 'count'"),
    "an infinity": (with_column("size", [np.inf] * 50), "inf in column 'size'"),
    "a number for true": (with_column("flag", [2] * 50), "trained on true and false"),
    "several": (table(50).drop(["size", "count"]), "no column 'size'; no column 'count'"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_rows_that_do_not_fit_are_refused_with_the_difference(name, trained, own_folder):
    rows, expected = MISFITS[name]
    pq.write_table(rows, "rows.parquet")
    found = invoke("predict", str(trained), "--data", "rows.parquet", "--out", "out.parquet")
    assert found.code == 2
    assert expected in found.err
    assert found.err.startswith("distsgd: ")
    assert not Path("out.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--out", "out.txt"], "ends in .parquet, or in .csv"),
        (["--out", "nowhere/out.parquet"], "no folder 'nowhere'"),
        (["--out", "rows.parquet"], "which the rows are read from"),
        (["--out", "out.parquet", "--keep", "idd"], "no column 'idd' (did you mean 'id'?) to keep"),
        (["--out", "out.parquet", "--keep", "prediction"], "rename it in the data"),
    ],
)
def test_a_target_that_cannot_be_written_is_refused(arguments, expected, trained, own_folder):
    pq.write_table(table(50).append_column("prediction", pa.array(range(50))), "rows.parquet")
    found = invoke("predict", str(trained), "--data", "rows.parquet", *arguments)
    assert found.code == 2
    assert expected in found.err


def test_a_folder_without_a_run_is_refused(own_folder):
    found = invoke("predict", "tmp", "--data", "digits", "--out", "out.parquet")
    assert found.code == 2
    assert "no run is in 'tmp'" in found.err


def test_the_runs_in_a_sweeps_directory_are_named(trained, own_folder):
    shutil.copytree(trained, "sweep/trial-001")
    for words in (
        ["predict", "sweep", "--data", "digits", "--out", "out.parquet"],
        ["evaluate", "sweep", "--data", "digits"],
        ["sync", "sweep"],
    ):
        found = invoke(*words)
        assert found.code == 2
        assert "name one of the 1 that are in it, such as 'sweep/trial-001'" in found.err


def test_a_value_that_no_training_row_had_is_pointed_out(trained, own_folder):
    pq.write_table(with_column("color", ["red"] * 40 + ["pink"] * 10), "rows.parquet")
    found = invoke("predict", str(trained), "--data", "rows.parquet", "--out", "out.parquet")
    assert found.code == 0
    assert "10 rows have a value in column 'color' that no training row has" in found.err


@pytest.mark.slow
def test_a_prediction_that_is_killed_is_completed_by_the_same_command(trained, tmp_path):
    rows = pa.concat_tables([table(60_000)] * 10)
    with leaving_nothing(tmp_path) as cli:
        pq.write_table(rows, tmp_path / "rows.parquet")
        command = ("predict", str(trained), "--data", "rows.parquet", "--keep", "id", "--out")
        assert cli.run(*command, "whole.parquet").code == 0
        _kill_in_the_middle(cli, command)
        found = cli.run(*command, "out.parquet")
        assert "continuing after row" in found.err
        assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def _kill_in_the_middle(cli: Cli, command: tuple[str, ...]) -> None:
    process = cli.start(*command, "out.parquet")
    assert eventually(lambda: (cli.folder / ".out.parquet.parts/00000001.parquet").exists())
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (cli.folder / "out.parquet").exists()


def test_columns_of_any_type_that_parquet_holds_can_be_kept(trained, own_folder, small_parts):
    count, rows = np.arange(ROWS), table()
    kept = {
        "seconds": pa.array(count, pa.timestamp("s")),
        "zoned": pa.array(count, pa.timestamp("s", "Europe/Paris")),
        "time": pa.array(count.astype(np.int32)).cast(pa.time32("s")),
        "date64": pa.array(count * 86_400_000, pa.date64()),
        "date32": pa.array(count.astype(np.int32)).cast(pa.date32()),
        "codes": pa.array(count % 5).dictionary_encode(),
        "names": pa.array([f"n{i % 3}" for i in range(ROWS)]).dictionary_encode(),
        "decimal": pa.array(count).cast(pa.decimal128(21, 2)),
        "list": pa.array([[i, None] for i in range(ROWS)]),
        "struct": pa.array([{"x": i} for i in range(ROWS)]),
        "half": pa.array(count.astype(np.float16)),
        "binary": pa.array([b"x"] * ROWS),
    }
    for name, column in kept.items():
        rows = rows.append_column(name, column)
    with pa.OSFile("rows.arrow", "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows)
    arguments = ["--data", "rows.arrow", "--out", "out.parquet", "--keep", ",".join(kept)]
    found = invoke("predict", str(trained), *arguments)
    assert found.code == 0, found.err
    out = pq.read_table("out.parquet")
    assert out.column_names == [*kept, "prediction", "probabilities"]
    for name, column in kept.items():
        assert out[name].to_pylist() == column.to_pylist(), name
    again = invoke("predict", str(trained), "--data", "out.parquet", "--out", "x.parquet")
    assert "no column 'size'" in again.err


def test_a_type_that_parquet_does_not_hold_is_refused_by_name(trained, own_folder):
    rows = table(50).append_column("span", pa.array([(1, 2, 3)] * 50, pa.month_day_nano_interval()))
    with pa.OSFile("rows.arrow", "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows)
    found = invoke("predict", str(trained), "--data", "rows.arrow", "--out", "out.parquet", "--keep", "id,span")
    assert found.code == 2
    assert "column 'span' is month_day_nano_interval, which Parquet cannot hold" in found.err
    assert not list(Path().glob(".out*"))


def test_a_column_that_is_named_twice_is_kept_once(trained, own_folder):
    pq.write_table(table(50), "rows.parquet")
    found = invoke("predict", str(trained), "--data", "rows.parquet", "--out", "out.parquet", "--keep", "id,count,id")
    assert found.code == 0, found.err
    assert pq.read_table("out.parquet").column_names == ["id", "count", "prediction", "probabilities"]


def test_a_name_that_ends_in_csv_gives_the_same_as_csv(trained, own_folder, small_parts):
    pq.write_table(table(), "rows.parquet")
    for name in ("out.parquet", "out.csv"):
        found = invoke("predict", str(trained), "--data", "rows.parquet", "--out", name, "--keep", "id,color")
        assert found.code == 0, found.err
    expected, out = pq.read_table("out.parquet"), pyarrow.csv.read_csv("out.csv")
    names = [f"probabilities[{label}]" for label in ("no", "perhaps", "yes")]
    assert out.column_names == ["id", "color", "prediction", *names]
    for name in ("id", "color", "prediction"):
        assert out[name].to_pylist() == expected[name].to_pylist()
    probabilities = np.array(expected["probabilities"].to_pylist(), np.float32)
    for number, name in enumerate(names):  # float32 comes back with every bit
        assert np.array_equal(np.array(out[name], np.float32), probabilities[:, number])
    assert not list(Path().glob(".out*"))


def test_csv_goes_on_after_a_kill_and_is_the_same_to_the_last_byte(trained, own_folder, small_parts, monkeypatch):
    pq.write_table(table(), "rows.parquet")
    arguments = ["predict", str(trained), "--data", "rows.parquet", "--out", "out.csv", "--keep", "id"]
    assert invoke(*arguments).code == 0
    expected = Path("out.csv").read_bytes()
    Path("out.csv").unlink()
    write = Parts.write

    def stopped(self, number, rows):
        if number == 3:
            raise KeyboardInterrupt
        write(self, number, rows)

    with monkeypatch.context() as patched:
        patched.setattr(Parts, "write", stopped)
        assert invoke(*arguments).code == 130
    assert not Path("out.csv").exists()
    again = invoke(*arguments)
    assert "continuing after row 1,536 of 3,000" in again.err
    assert Path("out.csv").read_bytes() == expected


def test_a_column_that_csv_cannot_hold_is_refused_before_anything_is_written(trained, own_folder):
    rows = table(50).append_column("pixels", pa.array([[1, 2]] * 50))
    pq.write_table(rows, "rows.parquet")
    found = invoke("predict", str(trained), "--data", "rows.parquet", "--out", "out.csv", "--keep", "pixels")
    assert found.code == 2
    assert "column 'pixels' is list<element: int64>, which CSV cannot hold; leave it out of --keep" in found.err
    assert sorted(os.listdir()) == ["rows.parquet", "tmp"]


def test_several_labels_become_a_column_for_each_in_csv():
    lists = pa.array([[0, 1], [1, 1]]), pa.array([[0.25, 0.5], [0.75, 1.0]], pa.list_(pa.float32()))
    metadata = {csv_output.CLASSES: b'["spam", "urgent"]'}
    rows = pa.table({"prediction": lists[0], "probabilities": lists[1]}).replace_schema_metadata(metadata)
    assert csv_output.flat(rows).to_pydict() == {
        "prediction[spam]": [0, 1],
        "prediction[urgent]": [1, 1],
        "probabilities[spam]": [0.25, 0.75],
        "probabilities[urgent]": [0.5, 1.0],
    }
