"""Columns by name as features: against a plain reference, for every kind of frame, and what is refused."""

from __future__ import annotations

import json
import math
import warnings
import zlib
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distsgd.core.inputs import Column, Inputs

NAMES = st.text(st.characters(codec="utf-8"), max_size=5)
INTEGERS = st.integers(-(2**40), 2**40)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def columns(draw: Any, name: str) -> Column:
    kind = draw(st.sampled_from(["number", "boolean", "category", "hash", "list"]))
    if kind in ("number", "list"):
        dtype = draw(st.sampled_from(["uint8", "int16", "int64", "float32", "float64"]))
        width = draw(st.integers(1, 4)) if kind == "list" else 1
        return Column(name=name, kind=kind, dtype=dtype, width=width, fill=draw(st.none() | FLOATS))
    if kind == "boolean":
        return Column(name=name, kind=kind, dtype="bool", fill=draw(st.none() | FLOATS))
    dtype, missing = draw(st.sampled_from(["str", "int64", "bool"])), draw(st.booleans())
    if kind == "hash":
        return Column(name=name, kind=kind, dtype=dtype, width=draw(st.integers(1, 9)), missing=missing)
    values = {"str": NAMES, "int64": INTEGERS, "bool": st.integers(0, 1)}[dtype]
    found = draw(st.lists(values, min_size=1, max_size=4, unique=True))
    return Column(name=name, kind=kind, dtype=dtype, categories=tuple(sorted(found)), missing=missing)


@st.composite
def inputs(draw: Any) -> Inputs:
    return Inputs(tuple(draw(columns(name)) for name in draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))))


def a_value(column: Column) -> st.SearchStrategy[Any]:
    """Return values as a row of the training files may have them."""
    if column.kind == "list":
        element = FLOATS if column.dtype.startswith("float") else st.integers(0, 100)
        return st.lists(element | (st.just(math.nan) if column.fill is not None else element),
                        min_size=column.width, max_size=column.width)  # fmt: skip
    if column.dtype == "bool":
        values: Any = st.booleans()
    elif column.kind in ("category", "hash"):
        values = NAMES if column.dtype == "str" else INTEGERS
        values = values if column.kind == "hash" else values | st.sampled_from(column.categories)
    else:
        values = FLOATS if column.dtype.startswith("float") else INTEGERS
    return values | st.none() if column.missing or column.fill is not None else values


def expected(column: Column, value: Any) -> list[float]:
    """Return the features of one value, by the book."""
    gone = value is None or value != value
    if column.kind == "category":
        return [float(value == category and not gone) for category in column.categories]
    if column.kind == "hash":
        text = value if column.dtype == "str" else str(int(value or 0))
        return [float(not gone and zlib.crc32(str(text).encode()) % column.width == i) for i in range(column.width)]
    if column.kind == "list":
        return [float(column.fill if element != element else element) for element in value]
    return [float(column.fill if gone else value)]


@settings(deadline=None, max_examples=100)
@given(inputs())
def test_what_is_written_is_read(found):
    assert Inputs.from_json(found.to_json()) == found
    assert len(found.feature_names) == found.features


@settings(deadline=None, max_examples=100)
@given(inputs(), st.data())
def test_the_features_are_those_of_a_plain_reference_whatever_the_order_of_the_columns(found, data):
    rows = data.draw(st.integers(0, 5))
    table = {c.name: data.draw(st.lists(a_value(c), min_size=rows, max_size=rows)) for c in found.columns}
    reference = [[x for c in found.columns for x in expected(c, table[c.name][row])] for row in range(rows)]
    arrays = {}
    for name in data.draw(st.permutations(list(table))):
        arrays[name] = np.empty(rows, object)
        arrays[name][:] = table[name]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "column .* did not have")
        for X in (arrays, pd.DataFrame(arrays)):
            X_found = found.matrix(X)
            assert X_found.shape == (rows, found.features)
            assert X_found.tolist() == reference


AGE = Column(name="age", kind="number", dtype="int64")
HEIGHT = Column(name="height", kind="number", dtype="float32")
MEMBER = Column(name="member", kind="boolean", dtype="bool")
COLOR = Column(name="color", kind="category", dtype="str", categories=("green", "red"))
TABLE = {"age": [30, 41, 5], "height": [1.5, 1.75, 1.0], "member": [True, False, True]}
PLAIN = Inputs((AGE, HEIGHT, MEMBER))
MATRIX = [[30, 1.5, 1], [41, 1.75, 0], [5, 1.0, 1]]


class Polars:
    """What polars' frames and series have of what is used: names as a list, columns by name."""

    def __init__(self, table: dict[str, list[Any]]) -> None:
        self.columns = list(table)
        self._table = table

    def __getitem__(self, name: str) -> np.ndarray:
        return np.array(self._table[name])


FRAMES = {
    "pandas": pd.DataFrame,
    "pandas, nullable": lambda table: pd.DataFrame(table).convert_dtypes(),
    "pandas, Arrow": lambda table: pd.DataFrame(table).convert_dtypes(dtype_backend="pyarrow"),
    "pandas, objects": lambda table: pd.DataFrame(table, dtype=object),
    "pyarrow table": pa.table,
    "pyarrow batch": pa.RecordBatch.from_pydict,
    "polars": Polars,
    "dictionary of lists": dict,
    "structured array": lambda table: np.array(
        list(zip(*table.values(), strict=True)),
        [(name, np.array(values).dtype) for name, values in table.items()],
    ),
}


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("order", [["age", "height", "member"], ["member", "age", "height"]])
def test_frames_are_read_by_name(kind, order):
    frame = FRAMES[kind]({name: TABLE[name] for name in order})
    assert PLAIN.matrix(frame).tolist() == MATRIX


@pytest.mark.parametrize("kind", FRAMES)
def test_what_is_missing_is_named(kind):
    table = {"hieght": TABLE["height"], "age": TABLE["age"], "member": TABLE["member"]}
    with pytest.raises(ValueError, match=r"no column 'height' \(did you mean 'hieght'\?\), which this model"):
        PLAIN.matrix(FRAMES[kind](table))


def test_other_columns_are_ignored_with_one_notice():
    with pytest.warns(UserWarning, match=r"ignored: 'id', 'label'$") as caught:
        assert PLAIN.matrix(pd.DataFrame({"id": 1, **TABLE, "label": "x"})).tolist() == MATRIX
    assert len(caught) == 1


def test_a_column_that_is_there_twice_is_refused():
    frame = pd.DataFrame(TABLE)[["age", "age", "height", "member"]]
    with pytest.raises(ValueError, match="2 columns have the name 'age'"):
        PLAIN.matrix(frame)


def test_what_a_mask_hides_is_no_value():
    hidden = np.ma.masked_array(MATRIX, mask=np.eye(3, dtype=bool))
    with pytest.raises(ValueError, match="masked array"):
        PLAIN.matrix(hidden)
    with pytest.raises(ValueError, match="masked array"):
        PLAIN.matrix({**TABLE, "age": np.ma.masked_array(TABLE["age"], mask=[1, 0, 0])})


def test_sparse_columns_of_pandas_are_read():
    frame = pd.DataFrame({**TABLE, "height": pd.arrays.SparseArray(TABLE["height"])})
    assert PLAIN.matrix(frame).tolist() == MATRIX


@pytest.mark.parametrize(
    "kind", ["pandas", "pandas, nullable", "pandas, Arrow", "pyarrow table", "dictionary of lists"]
)
@pytest.mark.parametrize("name", ["age", "height", "member"])
def test_a_missing_value_is_refused_by_column_and_row_or_filled(kind, name):
    values = [TABLE[name][0], None, TABLE[name][2]]
    frame = FRAMES[kind]({**TABLE, name: values})
    with pytest.raises(ValueError, match=rf"column '{name}': no value in row 1, counted from 0"):
        PLAIN.matrix(frame)
    filled = Inputs(tuple(Column(name=c.name, kind=c.kind, dtype=c.dtype, fill=0.25) for c in PLAIN.columns))
    reference = [row.copy() for row in MATRIX]
    reference[1][list(TABLE).index(name)] = 0.25
    assert filled.matrix(frame).tolist() == reference


def test_an_array_is_taken_by_position_and_its_missing_values_are_refused_or_filled():
    X = np.array(MATRIX, np.float32)
    assert PLAIN.matrix(X) is X
    assert PLAIN.matrix(MATRIX).tolist() == MATRIX
    X[1, 1] = np.nan
    with pytest.raises(ValueError, match=r"feature 'height': no value in row 1"):
        PLAIN.matrix(X)
    with pytest.raises(ValueError, match=r"feature 'member': no value in row 0"):
        PLAIN.matrix([[1, 2, None]])
    filled = Inputs((AGE, Column(name="height", kind="number", dtype="float32", fill=2.5), MEMBER))
    assert filled.matrix(X).tolist() == [[30, 1.5, 1], [41, 2.5, 0], [5, 1.0, 1]]


def test_a_frame_whose_columns_have_no_names_is_taken_by_position():
    assert PLAIN.matrix(pd.DataFrame(MATRIX)).tolist() == MATRIX
    with pytest.raises(ValueError, match="no column 'age'"):
        PLAIN.matrix(pd.DataFrame(MATRIX)[[1, 0, 2]])
    with pytest.raises(ValueError, match="no column 'age'"):
        PLAIN.matrix(pd.DataFrame(MATRIX)[[0, 1]])


def test_numbers_that_are_names_are_names():
    """pandas writes its numbered columns to Parquet under their numbers as text."""
    found = Inputs(tuple(Column(name=str(i), kind="number", dtype="float64") for i in (2, 0, 1)))
    assert found.matrix(pd.DataFrame([[0.0, 1.0, 2.0]])).tolist() == [[2, 0, 1]]


PIXELS = Inputs((Column(name="pixels", kind="list", dtype="uint8", width=3),))
LISTS = np.arange(6, dtype=np.uint8).reshape(2, 3)


@pytest.mark.parametrize(
    "X",
    [
        LISTS,
        LISTS.tolist(),
        pd.DataFrame({"pixels": LISTS.tolist()}),
        pd.DataFrame({"pixels": list(LISTS)}),
        pd.DataFrame(LISTS),
        pd.DataFrame(LISTS, columns=["pixel1", "pixel2", "pixel3"]),
        pa.table({"pixels": LISTS.tolist()}),
        pa.table({"pixels": pa.FixedSizeListArray.from_arrays(pa.array(LISTS.ravel()), 3)}),
        {"pixels": LISTS},
        {"pixels": LISTS.tolist()},
    ],
    ids=lambda X: type(X).__name__,
)
def test_a_list_column_is_a_column_of_lists_an_array_or_columns_that_only_count(X):
    assert PIXELS.matrix(X).tolist() == LISTS.tolist()


def test_pixels_stay_bytes():
    assert PIXELS.matrix(pd.DataFrame({"pixels": list(LISTS)})).dtype == np.uint8
    both = Inputs((Column(name="a", kind="number", dtype="uint8"), Column(name="b", kind="number", dtype="uint8")))
    assert both.matrix(pd.DataFrame(LISTS[:, :2], columns=["b", "a"])).dtype == np.uint8


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ({"pixels": [[1, 2, 3], [1, 2]]}, r"column 'pixels': a list of 2 in row 1, .* expected a list of 3 numbers"),
        ({"pixels": [[1, 2, 3], None]}, r"column 'pixels': a list of 0 in row 1"),
        ({"pixels": [[1, 2, 3], [1, None, 3]]}, r"column 'pixels': no value in row 1"),
        ({"pixels": [1, 2]}, "column 'pixels': the values have the shape .*expected lists of 3 numbers"),
        (pd.DataFrame(LISTS, columns=["a", "b", "c"]), "no column 'pixels'"),
        (pd.DataFrame(LISTS, columns=["pixel1", "pixel3", "pixel2"]), "no column 'pixels'"),
    ],
)
def test_lists_that_do_not_fit_are_refused(X, message):
    with pytest.raises(ValueError, match=message):
        PIXELS.matrix(X)


def test_several_list_columns_have_one_row_of_features():
    found = Inputs((PIXELS.columns[0], AGE))
    assert found.matrix({"age": [7, 8], "pixels": LISTS}).tolist() == [[0, 1, 2, 7], [3, 4, 5, 8]]
    assert found.feature_names == ("pixels[0]", "pixels[1]", "pixels[2]", "age")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"age": ["1", "2", "3"]}, "column 'age': .*expected real numbers|column 'age': '1' in row 0"),
        ({"age": [1, "x", 3]}, "column 'age': .*expected real numbers|column 'age': 'x' in row 1"),
        ({"age": np.array(["2024-01-01"] * 3, "datetime64[s]")}, "column 'age': .*datetime64.*expected real numbers"),
        ({"age": [1j, 2j, 3j]}, "column 'age': .*complex128; expected real numbers"),
        ({"member": [0, 1, 2]}, "column 'member': 2 in row 2, .*true and false"),
        ({"age": [1, 2]}, "the columns have 2 to 3 rows"),
        ({"age": 3}, "column 'age' is a single value"),
    ],
)
def test_values_of_another_type_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        PLAIN.matrix(TABLE | change)


@pytest.mark.parametrize("dtype", ["object", "string", "category"])
def test_categories_are_ones_and_zeros_and_unknown_ones_zeros_with_one_notice(dtype):
    found = Inputs((COLOR, AGE))
    assert found.feature_names == ("color=green", "color=red", "age")
    frame = pd.DataFrame({"age": [1, 2, 3], "color": pd.Series(["red", "blue", "green"], dtype=dtype)})
    with pytest.warns(UserWarning, match=r"column 'color': 1 of 3 rows .* did not have.*: 'blue'$") as caught:
        assert found.matrix(frame).tolist() == [[0, 1, 1], [0, 0, 2], [1, 0, 3]]
    assert len(caught) == 1


@pytest.mark.parametrize("dtype", ["object", "string", "category"])
def test_a_missing_category_is_refused_unless_the_model_allows_it(dtype):
    frame = pd.DataFrame({"color": pd.Series(["red", None], dtype=dtype)})
    with pytest.raises(ValueError, match="column 'color': no value in row 1"):
        Inputs((COLOR,)).matrix(frame)
    allowed = Column(name="color", kind="category", dtype="str", categories=("green", "red"), missing=True)
    assert Inputs((allowed,)).matrix(frame).tolist() == [[0, 1], [0, 0]]


def test_a_category_of_another_type_is_refused_rather_than_unknown():
    with pytest.raises(ValueError, match=r"column 'color': '3' in row 0, .* is int; the model was trained on text"):
        Inputs((COLOR,)).matrix({"color": [3]})
    codes = Inputs((Column(name="code", kind="category", dtype="int64", categories=(1, 20)),))
    with pytest.raises(ValueError, match=r"column 'code': '1' in row 0, .* the model was trained on integers"):
        codes.matrix({"code": ["1"]})
    with pytest.raises(ValueError, match=r"column 'code': '1\.5' in row 1, .* the model was trained on integers"):
        codes.matrix({"code": [1, 1.5]})
    assert codes.matrix(pd.DataFrame({"code": [20.0, 1.0]})).tolist() == [[0, 1], [1, 0]]
    assert codes.feature_names == ("code=1", "code=20")


def test_buckets_are_the_same_everywhere():
    """Fixed numbers: a model that was trained in one process predicts in another, years later."""
    city = Inputs((Column(name="city", kind="hash", dtype="str", width=16),))
    X = city.matrix({"city": ["Ulm", "Köln", ""]})
    assert X.argmax(axis=1).tolist() == [zlib.crc32(b"Ulm") % 16, zlib.crc32("Köln".encode()) % 16, 0] == [7, 11, 0]
    assert (X.sum(axis=1) == 1).all()
    assert city.feature_names[7] == "city#7"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "3",
        '{"columns": []}',
        '{"columns": 3}',
        '{"columns": [3]}',
        '{"columns": [{"name": "a"}]}',
        '{"columns": [{"name": "a", "kind": "number", "dtype": "float64", "more": 1}]}',
        '{"columns": [{"name": "a", "kind": "hash", "dtype": "str"}, {"name": "a", "kind": "hash", "dtype": "str"}]}',
        '{"columns": [{"name": "a", "kind": "number", "dtype": "float64", "fill": 1%s}]}' % ("0" * 400),
        "[" * 100_000,
    ],
)
def test_what_describes_no_columns_is_refused(text):
    with pytest.raises(ValueError, match=r"column|Expecting|described"):
        Inputs.from_json(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["number", "category", "str", "a", "a4"]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=80)
@given(inputs(), st.sampled_from(["name", "kind", "dtype", "categories", "width", "fill", "missing", "x"]), JSON)
def test_a_description_with_another_value_is_read_or_refused(found, field, value):
    described = json.loads(found.to_json())
    described["columns"][0][field] = value
    try:
        changed = Inputs.from_json(json.dumps(described))
    except ValueError:
        return
    assert Inputs.from_json(changed.to_json()) == changed


@pytest.mark.parametrize(
    "change",
    [
        {"name": 3},
        {"name": None},
        {"kind": "text"},
        {"kind": []},
        {"dtype": "datetime64[s]"},
        {"dtype": "nonsense"},
        {"dtype": 3},
        {"dtype": None},
        {"dtype": "f8"},
        {"dtype": "complex128"},
        {"width": 2},
        {"width": 0},
        {"width": True},
        {"fill": math.nan},
        {"fill": "0"},
        {"missing": True},
        {"categories": ("a",)},
        {"kind": "category", "dtype": "str"},
        {"kind": "category", "dtype": "str", "categories": ("b", "a")},
        {"kind": "category", "dtype": "str", "categories": ("a", "a")},
        {"kind": "category", "dtype": "str", "categories": (1, 2)},
        {"kind": "category", "dtype": "int64", "categories": (True,)},
        {"kind": "category", "dtype": "float64", "categories": (1,)},
        {"kind": "category", "dtype": "str", "categories": ("a",), "fill": 1.0},
        {"kind": "category", "dtype": "str", "categories": ("a",), "missing": 1},
        {"kind": "hash", "dtype": "str", "categories": ("a",)},
    ],
    ids=str,
)
def test_a_column_that_contradicts_itself_is_refused(change):
    with pytest.raises(ValueError, match=r"^column .*: "):
        Column(**{"name": "a", "kind": "number", "dtype": "float64"} | change)
