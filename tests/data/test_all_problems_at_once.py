"""A table with many mistakes: one refusal tells all of them, and what to do; what it says leads to rows that fit."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from data_helpers import load_from, refused, refused_table, some_rows, wide_table, write_parquet

from distsgd.cli import main
from distsgd.errors import DataError

X, Y = some_rows(count=60)


def messy(
    folder: Path, name: str, *, header: str = "day,a,b,c,price,label", labels: tuple[str, ...] = ("x", "y")
) -> Path:
    rows = [header]
    for i in range(60):
        cells = [f"2025-01-{1 + i % 28:02d}", str(i), str(i % 7), f"{i / 4}", str(i / 2), labels[i % len(labels)]]
        cells[1] = "?" if i == 5 else cells[1]
        cells[2] = "" if i in (7, 9) else cells[2]
        cells[3] = "unbekannt" if i == 8 else cells[3]
        cells[4] = "inf" if i == 11 else cells[4]
        cells[5] = "" if i in (13, 14) else cells[5]
        rows.append(",".join(cells))
    (folder / name).write_text("\n".join(rows) + "\n")
    return folder / name


def problems(message: str) -> list[str]:
    return re.findall(r"^  - (.*)$", message.partition("what to do:")[0], re.MULTILINE)


def test_everything_that_is_wrong_with_a_table_is_told_at_once(tmp_path):
    message = refused(messy(tmp_path, "rows.csv"))
    expected = [
        "rows.csv: column 'day' is date32[day], and dates and times are no features",
        "column 'a' is text, and features are numbers: 1 value of 60 is no number, the first one '?' in line 7",
        "the first one 'unbekannt' in line 10",
        "rows.csv, line 15: empty label in column 'label'; 2 of 60 rows have no label in column 'label'",
        "rows.csv, line 9: null in column 'b' (2 of 60 rows)",
        "rows.csv, line 13: inf in column 'price', expected a finite number (1 of 60 rows)",
    ]
    found = problems(message)
    assert len(found) == len(expected)
    for text, said in zip(found, expected, strict=True):
        assert said in text
    assert message.startswith("the rows cannot be trained on as they are; 6 problems were found:\n")


def test_what_it_says_to_do_leads_to_rows_that_fit(tmp_path):
    path = messy(tmp_path, "rows.csv")
    message = refused(path)
    assert "  - leave out what cannot be used: --set data.exclude=day\n" in message
    assert "use --set 'data.csv_null=?,unbekannt', and fill missing values with --set data.missing=mean" in message
    assert "or leave these columns out: --set data.exclude=day,price" in message
    values = {"exclude": ("day", "price"), "csv_null": ("?", "unbekannt"), "missing": "mean"}
    message = refused(path, **values)  # what no setting mends
    (found,) = problems(message)
    assert "2 of 60 rows have no label" in found
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.endswith(",\n")))
    assert load_from(path, **values).feature_names == ("a", "b", "c")


def test_held_out_rows_are_looked_at_in_the_same_pass(tmp_path):
    train = messy(tmp_path, "train.csv")
    val = messy(tmp_path, "val.csv", header="day,a,b,c,cost,label", labels=("x", "z"))
    found = problems(refused(train, val=val))
    assert any("val.csv: no column 'price', which" in text for text in found)
    assert any("val.csv: column 'cost' is not in" in text for text in found)
    assert any("label 'z' in column 'label' is not among the training rows'" in text for text in found)
    assert any("train.csv, line 13: inf in column 'price'" in text for text in found)
    assert sum("dates and times" in text for text in found) == 1  # what both files have is mended once


def test_a_label_that_is_missing_hides_nothing_else(tmp_path):
    found = problems(refused(messy(tmp_path, "rows.csv", header="day,a,b,c,price,lable")))
    assert "no column 'label' (did you mean 'lable'?)" in found[0]
    assert any("null in column 'b'" in text for text in found)
    assert any("inf in column 'price'" in text for text in found)


def test_every_difference_of_every_file_is_told(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    write_parquet(wide_table(X, Y), folder / "a.parquet")
    write_parquet(wide_table(X, Y).append_column("g", pa.array(Y)).drop_columns("f0"), folder / "b.parquet")
    write_parquet(wide_table(X, Y).set_column(1, "f1", pa.array(["a"] * 60)), folder / "c.parquet")
    found = problems(refused(folder))
    for said in ("b.parquet: column 'g' is not in", "b.parquet: no column 'f0'", "c.parquet: column 'f1' is string"):
        assert any(said in text for text in found), said
    assert len(found) == 3


def test_labels_features_and_weights_of_a_table(tmp_path):
    values = X.copy()
    values[3, 0], values[5, 1], values[6, 1] = np.inf, np.nan, np.nan
    labels = Y.astype(float)
    labels[2], labels[9] = 1.5, -1.0
    weight = np.where(np.arange(60) == 4, -1.0, 1.0)
    table = wide_table(values, labels).append_column("w", pa.array(weight))
    found = problems(refused_table(table, tmp_path, weight="w"))
    said = [
        "row 4 (counted from 0): weight -1.0 in column 'w'",
        "row 2 (counted from 0): label 1.5 in column 'label' is not a whole number",
        "row 9 (counted from 0): label -1.0 in column 'label' is out of range",
        "row 5 (counted from 0): nan in column 'f1' (2 of 60 rows)",
        "row 3 (counted from 0): inf in column 'f0', expected a finite number (1 of 60 rows)",
    ]
    assert len(found) == len(said)
    for text in said:
        assert any(text in line for line in found), text


def test_labels_that_are_all_the_same_beside_other_problems(tmp_path):
    values = X.copy()
    values[3, 0] = np.inf
    found = problems(refused_table(wide_table(values, np.zeros(60, int)), tmp_path))
    assert len(found) == 2
    assert "every label in column 'label' is 0; expected two classes at least" in found[0]


def test_many_columns_are_counted(tmp_path):
    table = pa.table({**{f"x{i}": [None, 1.0, np.inf, 2.0] for i in range(50)}, "label": [0, 1, 0, 1]})
    found = problems(refused_table(table, tmp_path))
    assert len(found) == 18
    assert "missing values in 42 more columns" in found[8]
    assert "infinite values in 42 more columns" in found[17]


def test_the_command_line_prints_a_list_and_exits_with_2(tmp_path):
    path = messy(tmp_path, "rows.csv")
    ended = CliRunner().invoke(
        main, ["train", "--workers", "0", "--data", str(path), "--run-dir", str(tmp_path / "run")]
    )
    assert ended.exit_code == 2
    lines = ended.stderr[ended.stderr.index("distsgd: ") :].splitlines()
    assert lines[0] == "distsgd: the rows cannot be trained on as they are; 6 problems were found:"
    assert "Traceback" not in ended.stderr
    assert all(line.startswith("  - ") or line == "what to do:" for line in lines[1:])
    assert max(map(len, lines)) < 400


def test_the_error_keeps_its_problems_between_processes(tmp_path):
    with pytest.raises(DataError) as error:
        load_from(messy(tmp_path, "rows.csv"))
    again = pickle.loads(pickle.dumps(error.value))
    assert str(again) == str(error.value)
    assert again.problems == error.value.problems
