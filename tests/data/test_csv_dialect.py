"""Separator, decimal mark and header are found out from a sample."""

from __future__ import annotations

import csv
import io
import itertools

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distsgd.data.csvdialect import SEPARATORS, Dialect, sniff
from distsgd.data.csvfile import CsvFile


def rows_of_digits(first: str = "") -> str:
    return first + "".join(f"{i % 10}," + ",".join(str(i * j % 256) for j in range(784)) + "\n" for i in range(9))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b,label\n1,2,0\n3,4,1\n", Dialect()),
        ("a;b;label\n1,5;2;x\n3,25;4;y\n", Dialect(separator=";", decimal=",")),
        ("a;b\n1.5;2\n3.25;4\n", Dialect(separator=";")),
        ("a;b\n1.234,5;2\n3.250.100,1;4\n", Dialect(separator=";", decimal=",")),
        ('a,b\n"1,234",2\n"3,250",4\n', Dialect()),
        ('a,b\n"1,5",2\n"3,25",4\n', Dialect(decimal=",")),
        ("a\tb\n1,5\t2\n3,25\t4\n", Dialect(separator="\t", decimal=",")),
        ("a|b|c\n1.5|2|x;y\n3.25|4|z;z\n", Dialect(separator="|")),
        ("sep=;\na;b\n1;2\n3;4\n", Dialect(separator=";", skipped=1)),
        ('"x;y",label\n"1;2",0\n"3;4",1\n', Dialect()),
        ('text,label\n"one, two",0\n"three, four, five",1\nsix,1\n', Dialect()),
        ("age,city,label\n31,Ulm,no\n55,Bonn,yes\n?,Ulm,no\n", Dialect()),
        ("5.1,3.5,Iris-setosa\n4.9,3.0,Iris-setosa\n", Dialect(header=False)),
        ("39, State-gov, <=50K\n50, Private, >50K\n", Dialect(header=False)),
        ("?, State-gov, 3\n50, Private, 4\n", Dialect(header=False)),
        ("p,x,s\ne,x,s\np,y,s\ne,x,y\n", Dialect(header=False)),
        ("gill,cap,odour\np,x,s\ne,y,s\n", Dialect()),
        ("0,1,2,3\n5.1,2.5,1,0\n4.1,2.5,1,1\n", Dialect()),
        ("year,2019,2020\n1,5.5,6\n2,7,8\n", Dialect()),
        ("12,13,x\n", Dialect(header=False)),
        ("a,b,x\n", Dialect()),
        ("x\n1\n2\n", Dialect()),
        ("1\n2\n3\n", Dialect(header=False)),
        (rows_of_digits(), Dialect(header=False)),
        (rows_of_digits("label," + ",".join(f"{i}x{j}" for i in range(28) for j in range(28)) + "\n"), Dialect()),
        ("", Dialect()),
        ("\n\n", Dialect()),
    ],
)
def test_what_a_text_is_written_in(text, expected):
    assert sniff(text) == expected


def test_a_known_name_makes_a_header():
    text = "1,2,label\n5,6,7\n8,9,1\n"
    assert sniff("1,2,kind\na,6,x\n").header is False
    assert sniff("1,2,kind\na,6,x\n", known={"kind"}).header is True
    assert sniff(text, header=False).header is False


def test_a_point_that_may_stand_between_thousands_is_said():
    assert sniff("a;b\n1.234;2\n3.250;4\n").unsure == "1.234"
    assert sniff("a;b\n1.234;2\n3.2501;4\n").unsure is None
    assert sniff("a;b\n0.234;2\n").unsure is None
    assert sniff("a,b\n1.234,2\n").unsure is None
    assert sniff("a;b\n1.234;2\n", decimal=".").unsure is None


def test_what_is_given_is_not_found_out():
    assert sniff("a;b\n1,5;2\n", separator=",").separator == ","
    assert sniff("a;b\n1,5;2\n", decimal=".").decimal == "."


NAMES = st.lists(st.text("abcdefgh", min_size=2, max_size=6), min_size=2, max_size=6, unique=True)
QUOTING = (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, Dialect]:
    """Draw the text of a table of decimal fractions and words, and how it is written."""
    separator, decimal = draw(st.sampled_from(list(itertools.product(SEPARATORS, ".,"))))
    header = draw(st.booleans())
    names = draw(NAMES)
    fractions = st.decimals(-1000, 1000, places=draw(st.integers(1, 2)), allow_nan=False).map(str)
    number = fractions.map(lambda text: text.replace(".", decimal))
    # A word of each alphabet, so that no column of words is taken for one of numbers, and none comes twice.
    rows = draw(st.lists(st.tuples(*([number] * (len(names) - 1))), min_size=3, max_size=20))
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=separator, quoting=draw(st.sampled_from(QUOTING)))
    if header:
        writer.writerow(names)
    writer.writerows([*row, f"word {i}"] for i, row in enumerate(rows))
    return stream.getvalue(), Dialect(separator=separator, decimal=decimal, header=header)


@settings(max_examples=150, deadline=None)
@given(tables())
def test_a_table_in_any_dialect_is_recognised(table):
    text, dialect = table
    assert sniff(text) == dialect


@settings(max_examples=40, deadline=None)
@given(tables())
def test_a_table_in_any_dialect_is_read(tmp_path_factory, table):
    text, dialect = table
    path = tmp_path_factory.mktemp("table") / "rows.csv"
    path.write_text(text, newline="")
    file = CsvFile.open(str(path))
    assert file.dialect == dialect
    read = pa.Table.from_batches(file.batches(file.schema.names, 5)).to_pydict()
    written = list(dialect.rows(text))
    names = written.pop(0) if dialect.header else [f"c{i}" for i in range(len(written[0]))]
    assert list(read) == names
    *numbers, words = zip(*written, strict=True)
    assert read[names[-1]] == list(words)
    for name, cells in zip(names, numbers, strict=False):
        assert read[name] == [float(cell.replace(dialect.decimal, ".")) for cell in cells]
