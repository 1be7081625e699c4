"""Gathering a batch, on both backends."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from data_helpers import list_table, load_table, some_rows

from distsgd.core.backend import to_host
from distsgd.data import BatchTransform, Rows, gather

KINDS = ["uint8", "int8", "uint16", "int16", "float32"]


def gathered(xp, X, y, index, transform):
    """Return X (n, D) and y (n,) as gathered on a backend into buffers that held other values."""
    rows = Rows(xp.asarray(X), xp.asarray(y))
    X_out = xp.full((len(index), X.shape[1]), np.nan, np.float32)
    y_out = xp.full(len(index), -1, np.int64)
    raw = None if X.dtype == np.float32 else xp.zeros(X_out.shape, X.dtype)
    gather(rows, xp.asarray(index), transform.on(xp), xp=xp, X_out=X_out, y_out=y_out, raw=raw)
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
    X_out, y_out, raw = np.empty((400, 500), np.float32), np.empty(400, np.int64), np.empty((400, 500), np.uint8)
    transform = BatchTransform(np.ones(500, np.float32), np.ones(500, np.float32))
    rows = Rows(X, y)
    gather(rows, index, transform, xp=np, X_out=X_out, y_out=y_out, raw=raw)
    tracemalloc.start()
    try:
        gather(rows, index, transform, xp=np, X_out=X_out, y_out=y_out, raw=raw)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < X_out.nbytes / 10
