"""Odd tables: columns of every Arrow type, in every format, alone, in folders and as validation rows.

A case is loaded by `distsgd.data.load`, which has to give a data set that keeps its promises, or to refuse it in one
line.
"""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from data_helpers import is_readable
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from distsgd.config import DataConfig
from distsgd.data import ArrayRows, DataSet, load
from distsgd.errors import MAX_DATA_MESSAGE, RefusedError
from hostile.generator import Generator
from hostile.sandbox import Problem, Sandbox

Arrays = SearchStrategy[pa.Array]

TEXTS = ("", " ", "a", "A", "b", "0", "1", "-1", "1.5", "nan", "inf", "NULL", "true", "a,b", '"', "a\nb", "\0", "a\0",
         "é", "e\u0301", "\ufeff", "\u2028", "🦆", "x" * 1000, "x" * 1001, "x" * 70_000)  # fmt: skip

NAMES = (
    "label",
    "y",
    "X",
    "a",
    "b",
    "",
    " ",
    "a.b",
    "a\nb",
    "x" * 300,
    "x" * 100_000,
    "é",
    "🦆",
    "0",
    "__index_level_0__",
    "[",
    "\0",
)

SETTINGS: dict[str, tuple[Any, ...]] = {
    "normalize": ("standard", "none", "unit"),
    "val_fraction": (None, 0.0, 0.5),
    "label": ("label", "y", "a"),
    "features": (None, ("a",), ("a", "b"), ("X",), ("",)),
    "classes": (None, 2, 3, 65_536),
}

FORMS = ("parquet", "arrow", "arrow", "arrows", "csv", "npz")


@dataclass(frozen=True)
class Text:
    """A file that is written as it is."""

    suffix: str
    content: bytes


@dataclass(frozen=True)
class Case:
    """Files to train on and perhaps to validate on, and settings of the section `data`."""

    form: str
    train: tuple[pa.Table | Text, ...]
    val: pa.Table | Text | None
    settings: dict[str, Any]


def _rounded(value: float, kind: str) -> float:
    with np.errstate(all="ignore"):
        return float(np.array(value).astype(kind))


def _numbers(kind: pa.DataType) -> SearchStrategy[Any]:
    """Values of a numeric type, those at its ends among them."""
    if pa.types.is_boolean(kind):
        return st.booleans()
    if pa.types.is_floating(kind):
        ends = (0.0, -0.0, math.nan, math.inf, -math.inf, 1e39, 1e150, 1e308, 1e-170, 5e-324, 1e-40)
        floats = st.sampled_from(ends) | st.floats(-100, 100) | st.floats()
        return floats.map(lambda value: _rounded(value, f"f{kind.bit_width // 8}"))
    info = np.iinfo(kind.to_pandas_dtype())
    return (
        st.integers(0, 3) | st.sampled_from((int(info.min), int(info.max))) | st.integers(int(info.min), int(info.max))
    )


NUMBERS = (*(pa.type_for_alias(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)),
           pa.float16(), pa.float32(), pa.float64(), pa.bool_())  # fmt: skip

MOMENTS = st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2100, 1, 1))

OTHERS: tuple[tuple[pa.DataType, SearchStrategy[Any]], ...] = (
    (pa.string(), st.sampled_from(TEXTS)),
    (pa.string(), st.sampled_from(("a", "b", "c"))),
    (pa.large_string(), st.sampled_from(("a", "b"))),
    (pa.string_view(), st.sampled_from(("a", "b", "x" * 40))),
    (pa.binary(), st.binary(max_size=3)),
    (pa.binary_view(), st.binary(max_size=20)),
    (pa.binary(2), st.binary(min_size=2, max_size=2)),
    (pa.date32(), MOMENTS.map(datetime.datetime.date)),
    (pa.date64(), MOMENTS.map(datetime.datetime.date)),
    (pa.timestamp("us"), MOMENTS),
    (pa.timestamp("ns", "Europe/Berlin"), MOMENTS),
    (pa.time64("us"), st.times()),
    (pa.duration("us"), st.timedeltas(datetime.timedelta(-9), datetime.timedelta(9))),
    (pa.month_day_nano_interval(), st.just(pa.MonthDayNano([1, 2, 3]))),
    (pa.decimal128(9, 2), st.integers(-999, 999).map(lambda v: decimal.Decimal(v) / 4)),
    (pa.decimal256(60, 0), st.integers(0, 3).map(decimal.Decimal)),
    (pa.null(), st.none()),
    (pa.struct({"a": pa.int8(), "b": pa.string()}), st.fixed_dictionaries({"a": st.integers(0, 3), "b": st.just("x")})),
    (pa.struct({"a\nb": pa.int8()}), st.just({"a\nb": 1})),
    (pa.struct({f"field{i}": pa.int8() for i in range(400)}), st.just({})),
    (pa.map_(pa.string(), pa.int8()), st.just([("a", 1)])),
)

SCALARS = (*((kind, _numbers(kind)) for kind in NUMBERS), *OTHERS)


@st.composite
def _plain(draw: st.DrawFn, count: int, kinds: tuple[tuple[pa.DataType, SearchStrategy[Any]], ...]) -> pa.Array:
    """Draw an array of one of `kinds`, with nulls or without."""
    kind, values = draw(st.sampled_from(kinds))
    if draw(st.integers(0, 3)) == 0:
        values = st.none() | values
    return pa.array(draw(st.lists(values, min_size=count, max_size=count)), kind)


@st.composite
def _lists(draw: st.DrawFn, count: int) -> pa.Array:
    """Draw lists, of one length or of several, of numbers or of anything, and of tensors."""
    width = draw(st.integers(0, 3))
    kind, values = draw(st.sampled_from(SCALARS))
    if draw(st.booleans()):
        kind, values = pa.float32(), st.floats(-9, 9, width=32)
    even = draw(st.integers(0, 3)) > 0
    lists: SearchStrategy[Any] = st.lists(values, min_size=width if even else 0, max_size=width)
    if draw(st.integers(0, 5)) == 0:
        lists = st.none() | lists
    if draw(st.integers(0, 5)) == 0:
        kind, lists = pa.list_(kind), st.lists(lists.filter(lambda v: v is not None), min_size=1, max_size=1)
    makers: list[Callable[[pa.DataType], pa.DataType]] = [pa.list_, pa.large_list, pa.list_view]
    # pyarrow's Parquet writer aborts the process for fixed-size lists of no strings.
    if even and not isinstance(kind, pa.ListType) and (width or pa.types.is_floating(kind)):
        makers += [lambda inner: pa.list_(inner, width)]
    array = pa.array(draw(st.lists(lists, min_size=count, max_size=count)), draw(st.sampled_from(makers))(kind))
    if pa.types.is_fixed_size_list(array.type) and width and pa.types.is_floating(kind) and draw(st.booleans()):
        return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(kind, [width]), array)
    return array


@st.composite
def _dictionaries(draw: st.DrawFn, count: int) -> pa.Array:
    """Draw a dictionary's indices and values, either of which may hold nulls, and values twice."""
    size = draw(st.integers(1, 4))
    values = draw(_plain(size, tuple(pair for pair in SCALARS if not pa.types.is_nested(pair[0]))))
    indices = draw(st.lists(st.none() | st.integers(0, size - 1) if draw(st.booleans()) else st.integers(0, size - 1),
                            min_size=count, max_size=count))  # fmt: skip
    return pa.DictionaryArray.from_arrays(pa.array(indices, draw(st.sampled_from((pa.int8(), pa.int32())))), values)


@st.composite
def _others(draw: st.DrawFn, count: int) -> pa.Array:
    """Draw an array of a type that has no literal values: extensions, unions, run-end encoding."""
    numbers = pa.array([i % 3 for i in range(count)], pa.int8())
    which = draw(st.sampled_from(("bool8", "uuid", "json", "opaque", "run ends", "union")))
    if which == "run ends":
        if not count:
            return pa.array([], pa.run_end_encoded(pa.int32(), pa.float32()))
        values = pa.array([1.5], pa.float32())
        return pa.RunEndEncodedArray.from_arrays(pa.array([count], pa.int32()), values)
    if which == "union":
        return pa.UnionArray.from_sparse(pa.array([0] * count, pa.int8()), [numbers])
    if which == "json":
        return pa.ExtensionArray.from_storage(pa.json_(), pa.array(["1"] * count, pa.string()))
    if which == "uuid":
        return pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(16)] * count, pa.binary(16)))
    return pa.ExtensionArray.from_storage(
        pa.bool8() if which == "bool8" else pa.opaque(pa.int8(), "type", "vendor"), numbers
    )


def columns(count: int) -> Arrays:
    """Arrays of any type."""
    return st.one_of(_plain(count, SCALARS), _lists(count), _dictionaries(count), _others(count))


def features(count: int) -> Arrays:
    """Arrays of numbers that can be features: small ones, or as large, small or alike as they may be."""
    floats = st.floats(-9, 9, width=16)
    sizes = st.sampled_from((1e-320, 1e-170, 1e-150, 1e-40, 1.0, 1e30, 1e39, 1e150, 1e300))
    finite = st.floats(allow_nan=False, allow_infinity=False)
    ints = tuple(kind for kind in NUMBERS if not pa.types.is_floating(kind))
    return st.one_of(
        _arrays(floats, count, pa.float32()),
        _arrays(floats, count, pa.float16()),
        sizes.flatmap(lambda size: _arrays(floats.map(lambda value: value * size), count, pa.float64())),
        _arrays(finite, count, pa.float64()),
        st.sampled_from(ints).flatmap(lambda kind: _arrays(_numbers(kind), count, kind)),
    )


def even_lists(count: int) -> Arrays:
    """Arrays of lists of one length that can be features."""
    numbers = st.floats(-9, 9, width=16)
    makers: tuple[Callable[[int], pa.DataType], ...] = (
        lambda width: pa.list_(pa.float32(), width),
        lambda width: pa.list_(pa.float64()),
        lambda width: pa.large_list(pa.float16()),
    )
    drawn = st.tuples(st.integers(1, 3), st.sampled_from(makers))
    return drawn.flatmap(lambda d: _arrays(st.lists(numbers, min_size=d[0], max_size=d[0]), count, d[1](d[0])))


def _arrays(values: SearchStrategy[Any], count: int, kind: pa.DataType) -> Arrays:
    return st.lists(values, min_size=count, max_size=count).map(lambda drawn: pa.array(drawn, kind))


def labels(count: int) -> Arrays:
    """Arrays that can be labels, but for a null among a dictionary's values."""
    whole = st.permutations([i % 3 for i in range(count)])
    kinds = tuple(kind for kind in NUMBERS if not pa.types.is_floating(kind))
    numbers = st.builds(lambda v, kind: pa.array(v, pa.int8()).cast(kind), whole, st.sampled_from(kinds))
    words = st.just(("a", "b", "c")) | st.permutations(TEXTS)
    text = st.builds(lambda v, drawn: pa.array([drawn[i] for i in v], pa.string()), whole, words)
    values = st.sampled_from((["a", "b", "c"], ["a", "b", None], [0, 1, 2], [0, None, 1]))
    coded = st.builds(lambda v, held: pa.DictionaryArray.from_arrays(pa.array(v, pa.int8()), held), whole, values)
    return st.one_of(numbers, text, text.map(lambda v: v.dictionary_encode()), coded)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Draw a table of a few rows: odd in every way, or with at most one odd column or name, or hundreds of columns."""
    count = draw(st.sampled_from((0, 1, 2, 8, 8, 8, 20, 20, 20, 20, 20, 20)))
    how = draw(
        st.sampled_from(
            ("plain", "plain", "plain", "lists", "lists", "one odd", "one odd", "odd name", "odd label", "odd", "wide")
        )
    )
    number = 300 if how == "wide" else draw(st.integers(0 if how == "odd" else 1, 3))
    if how == "wide":
        arrays, names = [pa.array(np.arange(count) * 1.5)] * number, [f"f{i}" for i in range(number)]
    else:
        arrays = [draw(columns(count) if how == "odd" else features(count)) for _ in range(number)]
        names = list("abX")[:number]
    if how == "lists":
        arrays, names, number = [draw(even_lists(count))], ["X"], 1
    if how == "one odd":
        arrays[0] = draw(columns(count))
    arrays.append(draw(columns(count) if how in ("odd label", "odd") else labels(count)))
    names.append("label")
    if how in ("odd name", "odd"):
        names[draw(st.integers(0, number))] = draw(st.sampled_from(NAMES))
    order = draw(st.permutations(range(number + 1))) if number < 9 else range(number + 1)
    table = pa.Table.from_arrays([arrays[i] for i in order], names=[names[i] for i in order])
    return pa.concat_tables([table.slice(0, count // 2), table.slice(count // 2)]) if draw(st.booleans()) else table


CELLS = (
    *TEXTS[:-1],
    "0",
    "1",
    "2",
    "0.5",
    "1e400",
    "1e39",
    "0x1F",
    "1_000",
    "1,5",
    "'1'",
    " 1",
    "2024-01-01",
    "\t",
    "\\N",
    "#N/A",
)


@st.composite
def texts(draw: st.DrawFn) -> Text:
    """Draw a CSV file: tame cells or odd ones, lines that are too short, open quotes, other encodings."""
    width = draw(st.integers(1, 3))
    cells = st.sampled_from(("0", "1", "2")) if draw(st.booleans()) else st.sampled_from(CELLS)
    rows = [[*(f"f{i}" for i in range(width)), "label"]]
    short = st.integers(0, 30).map(lambda number: number == 0)
    rows.extend([draw(cells) for _ in range(width + 1 - draw(short))] for _ in range(draw(st.integers(0, 8))))
    separator = draw(st.sampled_from((",", ",", ",", ";", "\t")))
    end = draw(st.sampled_from(("\n", "\n", "\r\n", "\r")))
    text = end.join(separator.join(row) for row in rows) + draw(st.sampled_from((end, "", '"')))
    encoding = draw(st.sampled_from(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1")))
    return Text(".csv", text.encode(encoding, "replace"))


def files(form: str) -> SearchStrategy[pa.Table | Text]:
    """Tables, or texts if the format is one of text."""
    return tables() | texts() if form == "csv" else tables()


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a case: one file, or a folder of several that fit together or do not; validation rows; settings."""
    form = draw(st.sampled_from(FORMS))
    first = draw(files(form))
    train: tuple[pa.Table | Text, ...] = (first,)
    if draw(st.integers(0, 3)) == 0:
        train += (first,) if draw(st.booleans()) else (draw(files(form)),)
    val = draw(st.none() | st.just(first) | files(form)) if draw(st.integers(0, 2)) == 0 else None
    settings = {}
    for name, choices in SETTINGS.items():
        if draw(st.integers(0, 8)) == 0:
            settings[name] = draw(st.sampled_from(choices))
    return Case(form, train, val, settings)


def write(file: pa.Table | Text, form: str, path: Path) -> None:
    """Write a file; whatever the library raises if the format has no such columns."""
    if isinstance(file, Text):
        path.write_bytes(file.content)
    elif form == "parquet":
        pq.write_table(file, path, row_group_size=7)
    elif form in ("arrow", "arrows"):
        with (pa.ipc.new_file if form == "arrow" else pa.ipc.new_stream)(path, file.schema) as writer:
            writer.write_table(file)
    elif form == "csv":
        pyarrow.csv.write_csv(file, path)
    else:
        arrays = {name: file.column(i) for i, name in enumerate(file.column_names)}
        y = arrays.pop("label").to_numpy() if "label" in arrays else None
        values = [np.array(column.to_pylist()) for column in arrays.values()]
        X = values[0] if len(values) == 1 else np.stack(values, axis=1)
        np.savez(path, X=X, **({} if y is None else {"y": y.astype(str) if y.dtype == object else y}))


def written(case: Case, folder: Path) -> DataConfig | None:
    """Write the files of a case into an empty folder and return the configuration that names them.

    None if a format cannot hold the columns, or the settings contradict each other.
    """
    (folder / "rows").mkdir()
    settings = dict(case.settings)
    try:
        for number, file in enumerate(case.train):
            write(file, case.form, folder / "rows" / f"{number}.{case.form}")
        if case.val is not None:
            write(case.val, case.form, folder / f"val.{case.form}")
            settings |= {"val": str(folder / f"val.{case.form}"), "val_fraction": None}
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None
    train = folder / "rows" if len(case.train) > 1 else folder / "rows" / f"0.{case.form}"
    try:
        return DataConfig(train=str(train), **settings)
    except ValueError:
        return None


def fault(config: DataConfig) -> str | None:
    """Load rows and return what is wrong with what came of it; what `load` raises, but for a refusal, is raised."""
    try:
        data = load(config)
    except RefusedError as error:
        message = str(error)
        if not is_readable(message) or max(map(len, message.splitlines())) > MAX_DATA_MESSAGE + 10:
            return f"neither a line nor a list: {message[:3000]!r}"
        return None
    return _broken_promise(data)


def _broken_promise(data: DataSet) -> str | None:
    """Return a property that a loaded data set does not have."""
    for name, rows in (("train", data.train), ("val", data.val)):
        if rows is None:
            continue
        assert isinstance(rows, ArrayRows)
        if rows.X.shape != (len(rows.y), len(data.feature_names)):
            return f"{name}: {rows.X.shape} features, {rows.y.shape} labels, {len(data.feature_names)} names"
        if not np.isfinite(rows.X).all():
            return f"{name}: features that are not finite"
        if rows.y.min() < 0 or rows.y.max() >= len(data.classes):
            return f"{name}: classes from {rows.y.min()} to {rows.y.max()}, and there are {len(data.classes)}"
    if len(data.classes) < 2 or len(set(data.classes.tolist())) != len(data.classes):
        return f"classes {data.classes!r}"
    if not (np.isfinite(data.normalization.shift).all() and np.isfinite(data.normalization.scale).all()):
        return f"normalisation {data.normalization!r}"
    return None


def check(case: Case, sandbox: Sandbox) -> list[Problem]:
    """Load the rows of a case."""
    folder = sandbox.work / "tables"
    folder.mkdir()
    config = written(case, folder)
    found: list[str | None] = []
    problems = [] if config is None else sandbox.call(lambda: found.append(fault(config)))
    return problems + [Problem("wrong", text) for text in found if text is not None]


GENERATOR = Generator(cases, check, share=2)
