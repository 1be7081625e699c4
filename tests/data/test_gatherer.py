"""Gathering a batch, on both backends."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from data_helpers import list_table, load_table, some_rows

from distsgd.core.backend import to_host
from distsgd.data import ArrayRows, BatchTransform, Gatherer

KINDS = ["uint8", "int8", "uint16", "int16", "float32"]


def gathered(xp, X, y, index, transform):
    """Return X (n, D) and y (n,) as gathered on a backend into buffers that held other values."""
    batch = Gatherer(ArrayRows(X, y), transform, len(index), "cpu" if xp is np else "cuda")
    batch.gather(index[::-1] if len(index) > 1 else (index + 1) % len(X))
    X_out, y_out, _ = batch.gather(index)
    return to_host(X_out), to_host(y_out)


TRANSFORMS = {
    "identity": BatchTransform(),
    "factor": BatchTransform(None, np.array([1 / 255], np.float32)),
    "scale": BatchTransform(None, np.linspace(0.3, 3, 7, dtype=np.float32)),
    "both": BatchTransform(np.linspace(-5, 200, 7, dtype=np.float32), np.linspace(0.3, 3, 7, dtype=np.float32)),
}


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_gather_is_indexing_and_two_roundings(xp, dtype, name):
    X, y = some_rows(count=50, width=7, dtype=dtype)
    index = np.random.default_rng(1).integers(0, 50, 33)
    X_out, y_out = gathered(xp, X, y, index, TRANSFORMS[name])
    expected = X[index].astype(np.float32)
    if TRANSFORMS[name].shift is not None:
        expected = expected - TRANSFORMS[name].shift
    if TRANSFORMS[name].scale is not None:
        expected = expected * TRANSFORMS[name].scale
    assert X_out.tobytes() == expected.tobytes()
    assert np.array_equal(y_out, y[index])


def test_a_row_has_the_same_bits_in_every_batch(xp):
    X, y = some_rows(count=300, width=7, dtype="uint8")
    whole, _ = gathered(xp, X, y, np.arange(300), TRANSFORMS["both"])
    for index in (np.array([17]), np.arange(299, -1, -1), np.array([17, 17, 4])):
        assert gathered(xp, X, y, index, TRANSFORMS["both"])[0].tobytes() == whole[index].tobytes()


@pytest.mark.parametrize("normalize", ["none", "unit", "standard"])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
def test_a_batch_of_stored_integers_is_what_apply_gives_for_prediction(xp, tmp_path, dtype, normalize):
    X, y = some_rows(count=200, width=4, dtype=dtype)
    X[1:, 3] = np.iinfo(dtype).max  # nearly constant and far from zero: where a rounded shift would show
    data = load_table(list_table(X, y), tmp_path, normalize=normalize, val_fraction=0)
    assert data.train.X.dtype == dtype
    batch, _ = gathered(xp, data.train.X, data.train.y, np.arange(200), data.transform)
    np.testing.assert_allclose(batch, data.normalization.apply(X), rtol=3e-7, atol=0)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_gathering_allocates_nothing_of_a_batch_s_size(dtype):
    X, y = some_rows(count=1000, width=500, dtype=dtype)
    index = np.random.default_rng(1).integers(0, 1000, 400)
    transform = BatchTransform(np.ones(500, np.float32), np.ones(500, np.float32))
    batch = Gatherer(ArrayRows(X, y), transform, 400, "cpu")
    X_out, _, _ = batch.gather(index)
    tracemalloc.start()
    try:
        batch.gather(index)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < X_out.nbytes / 10


def test_rows_without_labels_are_gathered_without(xp):
    X, _ = some_rows(count=50, width=7, dtype="uint8")
    batch = Gatherer(ArrayRows(X), BatchTransform(), 8, "cpu" if xp is np else "cuda")
    found, y, _ = batch.gather(np.array([3, 3, 49]))
    assert y is None
    assert np.array_equal(to_host(found), X[[3, 3, 49]])
    assert not ArrayRows(X).labelled
    assert len(ArrayRows(X)) == 50
    assert ArrayRows(X).nbytes == X.nbytes


class Squares:
    """Rows that are computed when they are asked for: none of them is in memory."""

    features, dtype, labelled, nbytes = 3, np.dtype("float32"), True, 0
    target, weighted = (np.dtype(np.int64), ()), False

    def __len__(self):
        return 10**9

    def gather(self, index, X_out, y_out, w_out=None):
        X_out[:] = (index % 1000)[:, None] ** np.arange(1, 4)
        y_out[:] = index % 2

    def on(self, xp):
        return self

    def update_digest(self, sha):
        sha.update(b"squares")


def test_rows_need_not_be_arrays():
    batch = Gatherer(Squares(), BatchTransform(scale=np.array([0.5], np.float32)), 4, "cpu")
    X, y, _ = batch.gather(np.array([999_999_003, 2]))
    assert X.tolist() == [[1.5, 4.5, 13.5], [1, 2, 4]]
    assert y.tolist() == [1, 0]
