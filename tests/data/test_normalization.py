"""Normalisation against scikit-learn, and its numerical edges."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from data_helpers import list_table, load_table, some_rows, wide_table
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from distsgd.config import DataConfig
from distsgd.data import Normalization
from distsgd.data.loading import split
from distsgd.data.normalization import Moments, block_rows
from distsgd.data.parquetfile import ParquetFile
from distsgd.errors import DataError


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64", "int64"])
@pytest.mark.parametrize("shape", [list_table, wide_table])
def test_standard_agrees_with_scikit_learn_on_the_training_rows(tmp_path, dtype, shape):
    X, y = some_rows(count=400, width=5, dtype=dtype)
    X[:, 2] = 7
    data = load_table(shape(X, y), tmp_path)
    scaler = StandardScaler().fit(X[~split(400, DataConfig())].astype(np.float64))
    tolerance = 1e-6 if data.train.X.dtype.kind in "iu" else 1e-12
    np.testing.assert_allclose(data.normalization.shift, scaler.mean_, rtol=tolerance)
    np.testing.assert_allclose(1 / data.normalization.scale, scaler.scale_, rtol=tolerance)
    assert data.normalization.shift[2] == 7
    assert data.normalization.scale[2] == 1
    if data.train.X.dtype == np.float32:
        assert data.val is not None
        expected = scaler.transform(X.astype(np.float64))
        np.testing.assert_allclose(data.train.X, expected[~split(400, DataConfig())], atol=1e-6)
        np.testing.assert_allclose(data.val.X, expected[split(400, DataConfig())], atol=1e-6)
        assert not data.train.X[:, 2].any()


def test_stored_floats_are_what_apply_gives_for_prediction(tmp_path):
    X, y = some_rows(count=400, width=5)
    data = load_table(list_table(X, y), tmp_path)
    assert np.array_equal(data.train.X, data.normalization.apply(X[~split(400, DataConfig())]))
    assert data.transform.shift is None
    assert data.transform.scale is None


def test_large_timestamps_lose_nothing(tmp_path):
    _, y = some_rows(count=100)
    seconds = 1_700_000_000 + np.arange(100)
    data = load_table(pa.table({"t": seconds, "label": y}), tmp_path, val_fraction=0)
    np.testing.assert_allclose(data.train.X[:, 0], (np.arange(100) - 49.5) / np.arange(100).std(), rtol=1e-6)


def test_unit_divides_by_the_maximum_of_the_type(tmp_path):
    _, y = some_rows()
    kinds = ["uint8", "int8", "uint16", "int32", "bool"]
    columns = {kind: some_rows(width=1, dtype=kind)[0][:, 0] for kind in kinds}
    data = load_table(pa.table({**columns, "label": y}), tmp_path, normalize="unit", val_fraction=0)
    maxima = [255, 127, 65535, 2**31 - 1, 1]
    for number, (kind, maximum) in enumerate(zip(kinds, maxima, strict=True)):
        np.testing.assert_allclose(data.train.X[:, number], columns[kind] / maximum, rtol=1e-7)


def test_unit_of_one_small_type_is_one_factor_for_all_features(tmp_path):
    X, y = some_rows(dtype="uint8")
    data = load_table(list_table(X, y), tmp_path, normalize="unit")
    assert data.transform.shift is None
    assert data.transform.scale.tolist() == [np.float32(1 / 255)]
    assert data.normalization.scale.tolist() == [float(np.float32(1 / 255))] * 3


def test_apply_rounds_once_and_checks_the_shape():
    normalization = Normalization(np.array([1e9, 0.1]), np.array([3.0, 1 / 3]))
    X = np.array([[1e9 + 1, 0.7], [5, np.nan]])
    expected = ((X - normalization.shift) * normalization.scale).astype(np.float32)
    assert np.array_equal(normalization.apply(X), expected, equal_nan=True)
    assert normalization.apply(X[:0]).shape == (0, 2)
    for bad in (X[:, :1], X[0], X[None]):
        with pytest.raises(DataError, match=r"expected \(rows, 2\)"):
            normalization.apply(bad)


@given(st.integers(1, 400), st.integers(0, 2**32 - 1), st.data())
def test_moments_do_not_depend_on_how_rows_are_cut(count, seed, data):
    width = 400
    assert block_rows(width) == 327
    X = np.random.default_rng(seed).normal(1e6, 1e-2, (count, width)).astype(np.float32)
    whole, cut = Moments(width), Moments(width)
    whole.add(X)
    bounds = sorted(data.draw(st.lists(st.integers(0, count), max_size=5)))
    for start, stop in zip([0, *bounds], [*bounds, count], strict=True):
        cut.add(X[start:stop])
    names = tuple(map(str, range(width)))
    a, b = whole.normalization(names), cut.normalization(names)
    assert a.shift.tobytes() == b.shift.tobytes()
    assert a.scale.tobytes() == b.scale.tobytes()
    std = X.astype(np.float64).std(axis=0)
    np.testing.assert_allclose(a.scale, np.where(std == 0, 1, 1 / np.where(std == 0, 1, std)), rtol=1e-9)
    np.testing.assert_allclose(a.shift, X.astype(np.float64).mean(axis=0), rtol=1e-15)


def test_moments_merge_many_blocks_of_far_values():
    X = np.random.default_rng(0).normal(1e12, 1.0, (5 * block_rows(2) + 3, 2))
    moments = Moments(2)
    moments.add(X)
    result = moments.normalization(("a", "b"))
    np.testing.assert_allclose(result.shift, X.astype(np.longdouble).mean(axis=0).astype(float), rtol=3e-16)
    np.testing.assert_allclose(1 / result.scale, X.astype(np.longdouble).std(axis=0).astype(float), rtol=1e-9)


@pytest.mark.parametrize(
    ("value", "problem"), [(1e200, "far apart"), (1e-170, "close together"), (1e-310, "close together")]
)
@pytest.mark.parametrize("many", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_spread_whose_square_float64_cannot_hold_is_refused(tmp_path, value, problem, many):
    rows = 3 * block_rows(2) if many else 3
    b = np.where(np.arange(rows) == rows - 2, value, 0.0)
    table = pa.table({"a": np.arange(rows) * 1.0, "b": b, "label": np.arange(rows) % 2})
    with pytest.raises(DataError, match=rf"feature 'b' lie too {problem}.*rescale"):
        load_table(table, tmp_path, val_fraction=0)


@pytest.mark.parametrize(
    "value", [1e-46, pytest.param(1e-170, marks=pytest.mark.slow), pytest.param(5e-324, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("many", [False, True])
def test_a_column_that_would_silently_become_0_is_refused(tmp_path, value, many):
    rows = 3 * block_rows(3) if many else 30
    last = np.where(np.arange(rows) == rows - 2, value, 0.0)
    table = pa.table({"a": np.arange(rows) * 1.0, "zero": np.zeros(rows), "b": last, "label": np.arange(rows) % 2})
    with pytest.raises(DataError, match=r"feature 'b' are so small that all of them are 0 in float32.*standard"):
        load_table(table, tmp_path, val_fraction=0, normalize="none")
    some = table.set_column(2, "b", [np.where(np.arange(rows) == 0, 1.0, last)])
    assert load_table(some, tmp_path, val_fraction=0, normalize="none").train.X[:, 2].sum() == 1


@pytest.mark.parametrize("size", [1e-140, 1e-30, 1e39, 1e150])
def test_columns_that_float32_cannot_hold_are_normalised(tmp_path, size):
    values = np.random.default_rng(0).normal(size=300)
    table = pa.table({"a": values * size, "c": np.full(300, size), "label": np.arange(300) % 2})
    data = load_table(table, tmp_path, val_fraction=0)
    np.testing.assert_allclose(data.train.X[:, 0], (values - values.mean()) / values.std(), rtol=1e-6, atol=1e-6)
    assert not data.train.X[:, 1].any(), "a constant column becomes 0"


@pytest.mark.parametrize("width", [1, 2, 5])
def test_statistics_of_some_columns_are_those_of_all_bit_by_bit(width):
    rows = np.random.default_rng(width).normal(100, 1, (40_000, 30))
    every, some = Moments(30), Moments(width, 30)
    for start in range(0, len(rows), 777):
        every.add(rows[start : start + 777])
        some.add(rows[start : start + 777, 3 : 3 + width])
    names = tuple(map(str, range(30)))
    expected, found = every.normalization(names), some.normalization(names[:width])
    assert np.array_equal(found.shift, expected.shift[3 : 3 + width])
    assert np.array_equal(found.scale, expected.scale[3 : 3 + width])


def test_only_columns_that_float32_cannot_hold_are_read_twice(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    exact = {f"b{i}": rng.integers(0, 200, 500, dtype=np.uint8) for i in range(4)}
    columns = {"x": rng.normal(5, 3, 500), **exact, "color": rng.choice(["red", "blue"], 500)}
    table = pa.table({**columns, "label": rng.integers(0, 2, 500)})
    read: list[set[str]] = []
    batches = ParquetFile.batches

    def counted(self, names, max_rows):
        read.append(set(names))
        return batches(self, names, max_rows)

    monkeypatch.setattr(ParquetFile, "batches", counted)
    data = load_table(table, tmp_path)
    assert read == [{"color"}, {"x", "label"}, {*columns, "label"}]
    assert data.feature_names[-2:] == ("color=blue", "color=red")
    held_out = split(500, DataConfig())
    numbers = np.column_stack([columns["x"], *exact.values()]).astype(np.float64)
    scaler = StandardScaler().fit(numbers[~held_out])
    assert data.val is not None
    np.testing.assert_allclose(data.train.X[:, :5], scaler.transform(numbers[~held_out]), atol=1e-6)
    np.testing.assert_allclose(data.val.X[:, :5], scaler.transform(numbers[held_out]), atol=1e-6)
    assert np.array_equal(data.normalization.shift[5:], [0, 0])
    assert np.array_equal(data.normalization.scale[5:], [1, 1])
