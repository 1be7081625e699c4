"""The hold-out split and the labels."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_helpers import list_table, load_from, load_table, some_rows
from hypothesis import given
from hypothesis import strategies as st

from distsgd.config import DataConfig
from distsgd.core.sampling import SPLIT_STREAM, keyed_permutation
from distsgd.data.loading import split
from distsgd.errors import DataError


@given(st.integers(1, 3000), st.floats(0, 1, exclude_max=True), st.integers(0, 2**63 - 1))
def test_a_split_holds_out_the_rounded_number_of_rows_or_is_refused(size, fraction, seed):
    config = DataConfig(val_fraction=fraction, split_seed=seed)
    count = round(size * fraction)
    if (fraction and not count) or count == size:
        with pytest.raises(DataError, match=f"of {size:,} row"):
            split(size, config)
        return
    held_out = split(size, config)
    assert held_out.shape == (size,)
    assert held_out.sum() == count
    first = keyed_permutation(seed, SPLIT_STREAM, size, np.arange(count))
    assert np.array_equal(np.flatnonzero(held_out), np.sort(first))


def test_a_larger_fraction_holds_out_more_of_the_same_rows():
    few, many = (split(1000, DataConfig(val_fraction=fraction)) for fraction in (0.1, 0.3))
    assert not (few & ~many).any()


def test_another_seed_holds_out_other_rows():
    assert (split(1000, DataConfig(split_seed=1)) != split(1000, DataConfig(split_seed=2))).any()


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_a_split_is_a_partition_in_the_order_of_the_rows(tmp_path, dtype):
    X, y = some_rows(count=500, dtype=dtype)
    data = load_table(list_table(X, y), tmp_path, normalize="none")
    assert data.val is not None
    held_out = split(500, DataConfig())
    assert held_out.sum() == 100
    stored = X.astype(data.train.X.dtype)
    assert np.array_equal(data.train.X, stored[~held_out])
    assert np.array_equal(data.val.X, stored[held_out])
    assert np.array_equal(data.train.y, y[~held_out])
    assert np.array_equal(data.val.y, y[held_out])


@pytest.mark.parametrize("normalize", ["none", "standard"])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_the_split_does_not_depend_on_how_rows_lie_in_files(tmp_path, dtype, normalize):
    X, y = some_rows(count=500, dtype=dtype)
    table = list_table(X, y)
    expected = load_table(table, tmp_path, normalize=normalize).digest
    for number, cuts in enumerate([(1, 499), (250,), (0, 17, 400)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        bounds = [0, *cuts, 500]
        for part, (start, stop) in enumerate(itertools.pairwise(bounds)):
            pq.write_table(table.slice(start, stop - start), folder / f"{part}.parquet", row_group_size=13)
        assert load_from(folder, normalize=normalize).digest == expected


def test_a_small_set_without_a_row_to_hold_out_is_refused(tmp_path):
    X, y = some_rows(count=2)
    with pytest.raises(DataError, match=r"0\.2 of 2 rows is no row to hold out"):
        load_table(list_table(X, y), tmp_path)
    assert len(load_table(list_table(X, y), tmp_path, val_fraction=0).train) == 2


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (pa.array([7, 0, 7, 3], pa.uint8()), [0, 3, 7]),
        (pa.array([2**31 - 1, 0, 1, 1], pa.uint64()), [0, 1, 2**31 - 1]),
        (pa.array([True, False, False, True]), [0, 1]),
        (pa.array(["b", "ä", "b", "B"]), ["B", "b", "ä"]),
        (pa.array(["b", "a", "b", "c"], pa.large_string()), ["a", "b", "c"]),
        (pa.array(["b", "a", "b", "c"]).dictionary_encode(), ["a", "b", "c"]),
        (pa.array(["b", "a", "b", "c"], pa.string_view()), ["a", "b", "c"]),
        (pa.array([5, 4, 5, 4]).dictionary_encode(), [4, 5]),
    ],
)
def test_classes_are_the_sorted_distinct_labels(tmp_path, labels, classes):
    table = pa.table({"x": [1.0, 2.0, 3.0, 4.0], "label": labels})
    data = load_table(table, tmp_path, val_fraction=0)
    assert data.classes.tolist() == classes
    assert data.classes.dtype.kind == ("U" if isinstance(classes[0], str) else "i")
    assert [classes[code] for code in data.train.y] == [int(v) if v in (True, False) else v for v in labels.to_pylist()]
    assert data.schema.label_kind == ("string" if isinstance(classes[0], str) else "integer")


@given(st.lists(st.text(min_size=1, max_size=3), min_size=2, max_size=40))
def test_string_labels_come_back(tmp_path_factory, labels):
    folder = tmp_path_factory.mktemp("labels")
    table = pa.table({"x": np.arange(float(len(labels))), "label": labels})
    if any(label.endswith("\0") for label in labels) or len(set(labels)) == 1:
        with pytest.raises(DataError, match=r"empty label|every label"):
            load_table(table, folder, val_fraction=0)
        return
    data = load_table(table, folder, val_fraction=0)
    assert data.classes[data.train.y].tolist() == labels
    assert data.classes.tolist() == sorted(set(labels))


def test_a_class_that_the_split_takes_from_training_is_kept(tmp_path):
    held_out = split(50, DataConfig())
    y = np.arange(50) % 2
    y[np.flatnonzero(held_out)[0]] = 9
    data = load_table(list_table(some_rows(count=50)[0], y), tmp_path)
    assert data.val is not None
    assert data.classes.tolist() == [0, 1, 9]
    assert 2 not in data.train.y
    assert 2 in data.val.y


def test_a_given_number_of_classes_may_have_some_without_rows(tmp_path):
    X, y = some_rows()
    data = load_table(list_table(X, y), tmp_path, classes=10, val_fraction=0)
    assert data.classes.tolist() == list(range(10))
    assert np.array_equal(data.train.y, y)
