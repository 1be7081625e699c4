"""Tables as people have them: what the first message says leads to rows that can be trained on, by copy and paste."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_helpers import load_from, load_table, refused, refused_table, some_rows, wide_table

from distsgd.config import DataConfig
from distsgd.core.names import LONGEST_NAME
from distsgd.data import DataSet, load

X, Y = some_rows(count=40)


def obeyed(message: str, folder: Path) -> None:
    """Run the first command of a message, in a folder."""
    command = re.search(r"(python -c|head -n) .*$", message, re.MULTILINE)
    assert command is not None, message
    if command[1] == "python -c":
        subprocess.run([sys.executable, *shlex.split(command[0])[1:]], cwd=folder, check=True, timeout=60)
    else:
        subprocess.run(command[0], shell=True, cwd=folder, check=True, timeout=10)


def written(folder: Path, name: str, header: str, rows: list[str], end: str = "") -> Path:
    (folder / name).write_text("\n".join([header, *rows]) + "\n" + end)
    return folder / name


def shapes(data: DataSet) -> tuple[int, int]:
    assert data.val is not None
    return len(data.train) + len(data.val), data.train.features


NUMBERED = [f"{i % 7},{i / 3:.2f},{i % 2}" for i in range(40)]


@pytest.mark.parametrize("end", ["Total,9866,\n", ",,\n,,\n"])
def test_a_total_below_the_table(tmp_path, end):
    path = written(tmp_path, "sales.csv", "a,b,label", NUMBERED, end)
    message = refused(path)
    assert (
        "leave out the rows without a label, with"
        if end == ",,\n,,\n"
        else "if that line is a total, leave it out with"
    ) in message
    assert f"with head -n 41 {path} > sales-new.csv" in message
    obeyed(message.replace(", or leave out: --set data.exclude=a", ""), tmp_path)
    assert shapes(load_from(tmp_path / "sales-new.csv")) == (40, 2)


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_rows_without_a_label(tmp_path, name):
    rows = [f"{i},{'' if i % 4 == 0 else 'ab'[i % 2]}" for i in range(40)]
    if name.endswith("csv"):
        message = refused(written(tmp_path, name, "a,label", rows))
    else:
        labels = pa.array([None if i % 8 == 0 else "" if i % 4 == 0 else "ab"[i % 2] for i in range(40)])
        message = refused_table(pa.table({"a": range(40), "label": labels}), tmp_path)
    assert "10 of 40 rows have no label in column 'label'" in message
    assert "leave out the rows without a label, with python -c" in message
    obeyed(message, tmp_path)
    (new,) = tmp_path.glob("*-new.parquet")
    assert shapes(load_from(new)) == (30, 1)


@pytest.mark.parametrize(("labels", "classes"), [([-1, 1] * 20, 2), ([x / 2 for x in range(40)], 4)])
def test_numbers_that_are_no_labels(tmp_path, labels, classes):
    message = refused_table(pa.table({"a": X[:, 0], "label": labels}), tmp_path)
    obeyed(message, tmp_path)
    assert len(load_from(tmp_path / "table-new.parquet").classes) == classes


@pytest.mark.parametrize(
    ("separator", "days"),
    [(";", [f"{1 + i % 28:02d}.{1 + i % 12:02d}.2025" for i in range(40)]), (",", ["12/24/2025"])],
)
def test_dates_as_people_write_them(tmp_path, separator, days):
    rows = [separator.join((days[i % len(days)], str(i % 7), str(i % 2))) for i in range(40)]
    path = written(tmp_path, "stays.csv", separator.join(("day", "a", "label")), rows)
    message = refused(path)
    assert "column 'day' is date32[day], and dates and times are no features" in message
    assert "--set data.exclude=day" in message
    assert load_from(path, exclude=("day",)).feature_names == ("a",)
    obeyed(message, tmp_path)
    assert load_from(tmp_path / "stays-new.parquet").feature_names == ("a", "day_month", "day_weekday")


@pytest.mark.parametrize("dayfirst", [";", ","])
def test_what_pandas_would_leave_as_text_comes_before_dates(tmp_path, dayfirst):
    rows = [
        dayfirst.join((f"2025-01-{1 + i % 28:02d}", "unbekannt" if i == 5 else str(i), str(i % 2))) for i in range(40)
    ]
    path = written(tmp_path, "stays.csv", dayfirst.join(("day", "a", "label")), rows)
    message = refused(path)
    assert "the first one 'unbekannt' in line 7\n" in message
    assert "column 'a': if it stands for a missing value, use --set data.csv_null=unbekannt" in message
    assert "python -c" not in message
    message = refused(path, csv_null=("unbekannt",), missing="mean")
    obeyed(message, tmp_path)
    data = load_from(tmp_path / "stays-new.parquet", missing="mean")
    assert data.feature_names == ("a", "day_month", "day_weekday")
    assert set(pq.read_table(tmp_path / "stays-new.parquet")["day_month"].to_pylist()) == {1}


def test_no_repair_undoes_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"2025-01-{1 + i % 28:02d},{i % 7},{'' if i == 3 else 'ab'[i % 2]}" for i in range(40)]
    written(tmp_path, "stays.csv", "day,a,label", rows)
    obeyed(refused("stays.csv"), tmp_path)  # one command, for the dates and for the label
    data = load_from("stays-new.parquet")
    assert (shapes(data), data.feature_names) == ((39, 3), ("a", "day_month", "day_weekday"))
    first = (tmp_path / "stays-new.parquet").read_bytes()
    message = refused("stays.csv", exclude=("day",))
    assert "1 of 40 rows has no label" in message
    assert "d.to_parquet('stays-new2.parquet'" in message
    obeyed(message, tmp_path)
    assert (tmp_path / "stays-new.parquet").read_bytes() == first


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_a_few_values_that_are_no_numbers_make_a_column_of_a_table_text(tmp_path, kind):
    age = [None if i == 3 else "unbekannt" if i in (7, 90) else f"{i % 50}" for i in range(100)]
    table = pa.table(
        {"Alter": pa.array(age).cast(kind), "b": [i % 7 for i in range(100)], "label": [i % 2 for i in range(100)]}
    )
    data = load_table(table, tmp_path, missing="mean")
    (warning,) = [notice for notice in data.notices if notice.startswith("warning: column 'Alter' is text")]
    assert "2 of its 99 values are no numbers, the first one 'unbekannt' in " in warning
    assert "table.parquet, row 7 (counted from 0); correct them, or make them missing values, which " in warning
    if not pa.types.is_dictionary(kind):  # a category would have to become text first
        obeyed(warning, tmp_path)
        data = load_from(tmp_path / "table-new.parquet", missing="mean")
        assert data.features == {"used": ["Alter", "b"], "left_out": {}}
        assert (data.train.features, data.notices) == (2, ())


@pytest.mark.parametrize(
    "values",
    [
        [str(i % 9) for i in range(100)],  # all numbers: text on purpose
        ["none" if i % 5 == 0 else str(i % 5) for i in range(100)],  # too few to say
        [f"{i % 20}{'abc' if i % 20 > 15 else ''}" for i in range(100)],  # codes, a fifth of which are no numbers
        [f"{i % 3}_0" for i in range(100)],
    ],
)
def test_text_that_is_text_is_not_taken_for_numbers(tmp_path, values):
    data = load_table(pa.table({"code": values, "label": [i // 4 % 2 for i in range(100)]}), tmp_path)
    assert not [notice for notice in data.notices if "is text" in notice]


def test_numbers_as_text_that_were_passed_in_memory():
    values = [*map(str, range(60)), "?"]
    table = pa.table({"a": values, "b": range(61), "label": [i % 2 for i in range(61)]})
    notices = load(DataConfig(train="in-memory"), data=table).notices
    (warning,) = [notice for notice in notices if "is text" in notice]
    assert "1 of its 61 values is no number, the first one '?' in the data passed to train(), row 60" in warning
    assert warning.endswith("which --set data.missing=mean fills, with pandas.to_numeric(..., errors='coerce')")


def test_numbers_with_a_sign(tmp_path):
    path = written(tmp_path, "rows.csv", "a,b,label", [f'"$1,{i + 100}.50",{i}%,{i % 2}' for i in range(40)])
    message = refused(path)
    assert "column 'a' is text" in message
    assert "40 values of 40 have a sign beside the number, the first one '0%' in line 2" in message
    text = subprocess.run(["sed", "s/[%$€£¥]//g"], input=path.read_text(), capture_output=True, text=True, check=True)
    path.write_text(text.stdout)
    assert load_from(path).feature_names == ("a", "b")


def test_a_title_above_the_table(tmp_path):
    path = written(tmp_path, "report.csv", "Monthly report,,", [",,", "region,price,label", *NUMBERED])
    data = load_from(path)
    assert shapes(data) == (40, 2)
    assert data.feature_names == ("region", "price")
    assert data.notices[0].startswith("report.csv: read without the first 2 lines, a title (data.csv_header=true if ")
    bad = path.read_text().replace("3,1.00,1", "3,inf,1")
    path.write_text(bad)
    assert "line 7: inf in column 'price'" in refused(path)


def test_a_first_row_with_few_names_is_no_title(tmp_path):
    assert load_from(written(tmp_path, "rows.csv", ",,label", NUMBERED)).feature_names == ("Unnamed: 0", "Unnamed: 1")


def test_the_label_of_a_file_without_names_is_the_first_column_or_the_last_one(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (200, 4))
    pixels[:, 3] = 0
    labels = rng.integers(0, 10, 200)
    first = [",".join(map(str, [label, *row])) for label, row in zip(labels, pixels, strict=True)]
    assert "--set data.label=c0\n" in refused(written(tmp_path, "first.csv", first[0], first[1:]))
    last = [f"{label / 3 + 0.1:.2f},{row[0]},{label}" for label, row in zip(labels, pixels, strict=True)]
    assert "--set data.label=c2\n" in refused(written(tmp_path, "last.csv", last[0], last[1:]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "label": 0}\n{"a": 2, "label": 1}\n', "is JSON, not a table; write it as Parquet: python -c"),
        ('[{"a": 1, "label": 0},\n {"a": 2, "label": 1}]\n', "is JSON, not a table; write it as Parquet: python -c"),
        ("<!DOCTYPE html>\n<html>", "is a web page or XML"),
    ],
)
def test_text_that_is_no_table(tmp_path, text, said):
    (tmp_path / "rows.csv").write_text(text)
    message = refused(tmp_path / "rows.csv")
    assert said in message
    if "python" in said:
        obeyed(message, tmp_path)
        assert shapes(load_from(tmp_path / "rows.parquet", val_fraction=0.5)) == (2, 1)


def test_labels_that_differ_in_spaces_or_case(tmp_path):
    labels = pa.array(["good", "Good ", "bad", "bad"] * 10)
    data = load_table(pa.table({"a": X[:, 0], "label": labels}), tmp_path)
    expected = "labels 'Good ' and 'good' of column 'label' are different classes; are they meant to be one?"
    assert any(expected in notice for notice in data.notices)
    data = load_table(wide_table(X, pa.array(["a", "b"] * 20)), tmp_path)
    assert not any("different classes" in notice for notice in data.notices)


@pytest.mark.parametrize("key", ["features", "exclude", "label"])
def test_long_names_are_shortened(tmp_path, key):
    name = "[" * 900
    message = refused_table(wide_table(X, Y), tmp_path, **{key: name if key == "label" else (name,)})
    assert "[" * LONGEST_NAME + "...'" in message
    assert "[" * (LONGEST_NAME + 1) not in message


def test_long_names_in_the_line_of_features(tmp_path):
    data = load_table(pa.table({"x" * 900: X[:, 0], "label": Y}), tmp_path)
    assert data.features == {"used": ["x" * 900], "left_out": {}}
    assert data.description == f"features (1): {'x' * LONGEST_NAME}..."


def test_columns_that_have_no_values_at_all_are_not_to_be_filled(tmp_path):
    table = wide_table(X, Y).append_column("gone", pa.nulls(len(Y), pa.float64()))
    message = refused_table(table, tmp_path)
    assert "null in column 'gone' (40 of 40 rows)\n" in message
    assert message.endswith("  - leave out what has no values at all: --set data.exclude=gone")


def test_names_with_line_ends_can_be_copied(tmp_path):
    table = wide_table(X, Y).append_column("a\nb", pa.array(np.arange(len(Y)), pa.timestamp("s")))
    message = refused_table(table, tmp_path)
    assert """--set 'data.exclude=["a\\nb"]'""" in message
