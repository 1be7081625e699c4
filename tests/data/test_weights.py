"""Weights of rows and of classes, as they are read."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from data_helpers import WRITERS, load_from, load_table, refused, refused_table, some_rows, wide_table
from sklearn.utils.class_weight import compute_class_weight

from distsgd.config import Config, DataConfig
from distsgd.data import load
from distsgd.errors import ConfigError, DataError

X, Y = some_rows()
W = np.random.default_rng(0).choice([0.0, 0.25, 1, 2, 1e6], len(X))


def table(weights=W) -> pa.Table:
    return wide_table(X, Y).append_column("w", pa.array(weights))


@pytest.mark.parametrize("form", WRITERS)
def test_rows_of_weight_0_are_as_if_they_were_not_there(form, tmp_path):
    name, write = WRITERS[form]
    for folder, rows in (("with", table()), ("without", table().filter(pa.array(W > 0)))):
        (tmp_path / folder).mkdir()
        write(rows, tmp_path / folder / name) if form != "folder" else write(rows, tmp_path / folder / name, (5, 0, 9))
    found, expected = (load_from(tmp_path / folder / name, weight="w") for folder in ("with", "without"))
    assert "w" not in found.schema.columns
    assert found.train.w.dtype == np.float32
    assert found.train.w.min() > 0
    assert found.digest == expected.digest
    for rows, others in ((found.train, expected.train), (found.val, expected.val)):
        assert all(
            np.array_equal(a, b) for a, b in zip((rows.X, rows.y, rows.w), (others.X, others.y, others.w), strict=True)
        )
    assert load_from(tmp_path / "with" / name, exclude=("w",)).digest != found.digest


def test_weights_come_beside_arrays(tmp_path):
    np.savez(tmp_path / "rows.npz", X=X, y=Y, mass=W, other=W)
    stored = load_from(tmp_path / "rows.npz", weight="mass")
    passed = load(DataConfig(), data=(X, Y, W))
    frame = load(DataConfig(), data=({"w": X[:, 0], "weight": X[:, 1], "c": X[:, 2]}, Y, W))
    assert stored.digest == passed.digest
    assert frame.schema.columns == ("w", "weight", "c")
    assert np.array_equal(frame.train.w, passed.train.w)
    assert load_from(tmp_path / "rows.npz").train.w is None


def test_a_class_all_of_whose_rows_have_weight_0_is_none(tmp_path):
    assert load_table(table(np.where(Y == 2, 0, 1)), tmp_path, weight="w").classes.tolist() == [0, 1, 3]


def test_held_out_rows_have_their_weights(tmp_path):
    write = WRITERS["parquet"][1]
    write(table(), tmp_path / "rows.parquet")
    found = load_from(tmp_path / "rows.parquet", val=tmp_path / "rows.parquet", weight="w", normalize="none")
    assert np.array_equal(found.val.w, W[W > 0].astype(np.float32))
    write(wide_table(X, Y), tmp_path / "held_out.parquet")
    message = refused(tmp_path / "rows.parquet", val=tmp_path / "held_out.parquet", weight="w")
    assert "held_out.parquet: no column 'w' for data.weight" in message


def test_the_weights_are_read_before_what_they_leave_out(tmp_path):
    """A row of weight 0 may lack anything."""
    values = X[:, 0].copy()
    values[W == 0] = np.nan
    rows = pa.table({"a": values, "b": X[:, 1], "label": Y, "w": W})
    assert len(load_table(rows, tmp_path, weight="w", val_fraction=0).train) == np.count_nonzero(W)
    values[np.flatnonzero(W)[-1]] = np.nan
    rows = pa.table({"a": values, "b": X[:, 1], "label": Y, "w": W})
    message = refused_table(rows, tmp_path, weight="w")
    assert f"row {np.flatnonzero(W)[-1]} (counted from 0): nan in column 'a'" in message
    assert f"1 of {np.count_nonzero(W)} rows" in message


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf, 1e-30, 1e30, None])
def test_a_weight_that_is_none_is_refused(value, tmp_path):
    weights = pa.array([*W[:-1].tolist(), value])
    message = refused_table(wide_table(X, Y).append_column("w", weights), tmp_path, weight="w")
    assert f"row 59 (counted from 0): weight {'null' if value is None else value} in column 'w'; expected 0" in message


def test_a_column_that_cannot_be_weights_is_refused(tmp_path):
    assert "every weight in column 'w' is 0" in refused_table(table(0 * W), tmp_path, weight="w")
    assert "no column 'v'" in refused_table(table(), tmp_path, weight="v")
    assert "is string, and weights are numbers" in refused_table(table(W.astype(str)), tmp_path, weight="w")
    assert "names 'label', which is the label" in refused_table(table(), tmp_path, weight="label")
    assert "'w', which is data.weight" in refused_table(table(), tmp_path, weight="w", features=("w", "f0"))
    with pytest.raises(DataError, match="X has 60 rows and w has 59; expected one weight"):
        load(DataConfig(), data=(X, Y, W[1:]))
    with pytest.raises(DataError, match=r"has weights beside X and y, and data\.weight is 'v'; keep one"):
        load(DataConfig(weight="v"), data=(X, Y, W))


def test_balanced_classes_weigh_the_same():
    y = np.repeat([0, 1, 2], [40, 15, 5])
    found = load(DataConfig(val_fraction=0), data=(X, y), class_weight="balanced").train
    assert found.w == pytest.approx(compute_class_weight("balanced", classes=np.unique(y), y=y)[y], rel=1e-6)
    both = load(DataConfig(val_fraction=0), data=(X, y, W), class_weight="balanced").train
    sums = [both.w[both.y == label].sum() for label in range(3)]
    assert sums == pytest.approx([W.sum() / 3] * 3, rel=1e-5)


def test_a_table_gives_weights_of_classes():
    found = load(DataConfig(), data=(X, Y, 2 * np.ones(60)), class_weight={"1": 3.0, "3": 0.5})
    assert found.train.w.tolist() == (2 * np.array([1, 3, 1, 0.5])[found.train.y]).tolist()
    assert set(found.val.w.tolist()) == {2.0}, "held-out rows are weighted by their column alone"
    with pytest.raises(
        DataError, match=r"train\.class_weight names '7'.*, which is no class; the classes are '0', '1'.*: correct it"
    ):
        load(DataConfig(), data=(X, Y), class_weight={"7": 3.0})


@pytest.mark.parametrize("factor", [1e-60, 1e300])
def test_weights_of_classes_that_float32_cannot_hold_are_refused(factor):
    with pytest.raises(DataError, match=r"train\.class_weight gives a row of class '1' the weight .* nearer to 1"):
        load(DataConfig(), data=(X, Y), class_weight={"1": factor})


def test_the_table_of_a_configuration():
    config = Config.build({"train": {"class_weight": {0: 2, "b": 0.5}}})
    assert config.train.class_weight == {"0": 2.0, "b": 0.5}
    assert Config.build(config.flat()) == Config.build(config.explicit()) == config
    assert config.digest() != Config.build({"train.class_weight": "balanced"}).digest() != Config().digest()
    for wrong in ({"a": 0}, {"a": -1}, "most", 3, {"a": "b"}):
        with pytest.raises(ConfigError, match=r"train\.class_weight"):
            Config.build({"train.class_weight": wrong})


@pytest.mark.parametrize("kind", ["float32", "float64", "uint8", "int64", "lists of float64"])
def test_statistics_are_those_of_repeated_rows(kind):
    """Of every way that statistics are taken: with the stored rows, in a pass of their own, and of columns apart."""
    rng = np.random.default_rng(5)
    times, y = rng.integers(0, 4, 700), np.arange(700) % 3
    values = rng.integers(0, 200, (700, 3)) + (0 if kind == "uint8" else 1000)
    values = values.astype(kind.removeprefix("lists of "))
    repeated = np.repeat(np.arange(700), times)
    # Without an index of repeated rows a frame keeps its types.
    as_rows = (lambda X: X) if kind.startswith("lists") else (lambda X: {f"f{i}": X[:, i] for i in range(3)})
    config = DataConfig(val_fraction=0, normalize="standard", missing="mean")
    if kind.startswith("float"):
        values[rng.random((700, 3)) < 0.1] = np.nan
    weighted = load(config, data=(as_rows(values), y, times.astype(float)))
    several = load(config, data=(as_rows(values[repeated]), y[repeated]))
    for name in ("shift", "scale"):
        ours, theirs = (getattr(found.normalization, name) for found in (weighted, several))
        np.testing.assert_allclose(ours, theirs, rtol=1e-6 if kind == "uint8" else 1e-12)
    for ours, theirs in zip(weighted.inputs.columns, several.inputs.columns, strict=True):
        assert ours.fill == pytest.approx(theirs.fill, rel=1e-6 if kind == "float32" else 1e-12)
    assert np.abs(several.normalization.shift - load(config, data=(as_rows(values), y)).normalization.shift).max() > 0.1


def test_weights_of_classes_leave_the_statistics_alone():
    plain = load(DataConfig(), data=(X, Y)).normalization
    found = load(DataConfig(), data=(X, Y), class_weight="balanced").normalization
    assert np.array_equal(plain.shift, found.shift)
    assert np.array_equal(plain.scale, found.scale)
