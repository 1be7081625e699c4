"""The same rows, whatever files they were read from."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_helpers import (
    WRITERS,
    list_table,
    load_from,
    load_table,
    some_rows,
    wide_table,
    write_arrow,
    write_folder,
    write_parquet,
)
from sklearn.datasets import load_digits

from distsgd.data import DataSet, digits, formats
from distsgd.data.digits import Digits
from distsgd.errors import DataError

NARROW = ["uint8", "int8", "uint16", "int16", "bool"]
OTHERS = ["int32", "int64", "uint32", "uint64", "float16", "float32", "float64"]


def stored_rows(data: DataSet) -> np.ndarray:
    """Return training and held-out rows together, as they are stored, sorted."""
    rows = np.concatenate([part.X for part in (data.train, data.val) if part])
    return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize("form", [name for name in WRITERS if name != "csv"])
@pytest.mark.parametrize("dtype", NARROW + OTHERS)
@pytest.mark.parametrize("shape", [list_table, wide_table])
def test_every_format_and_type_gives_the_rows(tmp_path, form, dtype, shape):
    X, y = some_rows(dtype=dtype)
    name, write = WRITERS[form]
    write(shape(X, y), tmp_path / name)
    data = load_from(tmp_path / name, val_fraction=0, normalize="none")
    expected = X.astype(np.uint8) if dtype == "bool" else X if dtype in NARROW else X.astype(np.float32)
    assert data.val is None
    assert data.train.X.dtype == expected.dtype
    assert data.train.X.flags.c_contiguous
    assert np.array_equal(data.train.X, expected)
    assert np.array_equal(data.train.y, y)
    assert data.train.y.dtype == np.int64
    assert data.classes.tolist() == [0, 1, 2, 3]
    assert data.schema.types == ((dtype,) if shape is list_table else (dtype,) * 3)
    assert data.schema.width == (3 if shape is list_table else None)
    assert data.feature_names == (("X[0]", "X[1]", "X[2]") if shape is list_table else ("f0", "f1", "f2"))


@pytest.mark.parametrize("normalize", ["standard", "none"])
@pytest.mark.parametrize("shape", [list_table, wide_table])
def test_same_digest_from_every_format(tmp_path, normalize, shape):
    X, y = some_rows(count=300)
    digests = {}
    for form, (name, write) in WRITERS.items():
        if form == "csv" and shape is list_table:
            continue
        write(shape(X, y), tmp_path / name)
        digests[form] = load_from(tmp_path / name, normalize=normalize).digest
    digests["glob"] = load_from(tmp_path / "rows" / "**" / "[abc].parquet", normalize=normalize).digest
    if shape is list_table:
        np.savez(tmp_path / "rows.npz", X=X, y=y)
        np.savez_compressed(tmp_path / "fortran.npz", X=np.asfortranarray(X), y=y)
        np.savez(tmp_path / "swapped.npz", X=X.astype(">f8"), y=y.astype(">i8"))
        for name in ("rows", "fortran", "swapped"):
            digests[name] = load_from(tmp_path / f"{name}.npz", normalize=normalize).digest
    assert len(set(digests.values())) == 1, digests


def test_digest_tells_rows_labels_classes_names_and_normalisation_apart(tmp_path):
    X, y = some_rows()
    other = X.copy()
    other[7, 1] += 1
    sets = [
        load_table(wide_table(X, y), tmp_path),
        load_table(wide_table(other, y), tmp_path),
        load_table(wide_table(X, (y + 1) % 4), tmp_path),
        load_table(wide_table(X, y + 1), tmp_path),
        load_table(wide_table(X, y).rename_columns(["a", "f1", "f2", "label"]), tmp_path),
        load_table(wide_table(X, y), tmp_path, normalize="none"),
        load_table(wide_table(X, y), tmp_path, split_seed=2),
        load_table(wide_table(X, y), tmp_path, val_fraction=0.3),
        load_table(wide_table(X, y), tmp_path, classes=5),
    ]
    assert len({data.digest for data in sets}) == len(sets)
    assert load_table(wide_table(X, y), tmp_path).digest == sets[0].digest


def test_digits():
    data = load_from("digits", val_fraction=0)
    X, y = load_digits(return_X_y=True)
    assert data.train.X.dtype == np.uint8
    assert np.array_equal(data.train.X, X)
    assert np.array_equal(data.train.y, y)
    assert data.source == "digits"
    assert data.feature_names[63] == "pixels[63]"


def test_digits_are_read_without_importing_scikit_learn():
    code = (
        "import sys; from distsgd.data.digits import Digits; Digits.open('digits'); assert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_scikit_learn_without_the_digits_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(digits, "FILE", Path("elsewhere.csv.gz"))
    with pytest.raises(DataError, match=r"are not at '.*elsewhere\.csv\.gz'; install the release"):
        Digits.open("digits")
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"not installed; pass other rows with --data$"):
        Digits.open("digits")


@pytest.mark.parametrize(
    ("types", "stored"),
    [
        (("uint8", "int8"), "int16"),
        (("uint8", "bool"), "uint8"),
        (("uint8", "uint16"), "uint16"),
        (("int8", "uint16"), "float32"),
        (("uint8", "int32"), "float32"),
        (("uint8", "float16"), "float32"),
    ],
)
def test_mixed_types_are_stored_as_the_smallest_common_type(tmp_path, types, stored):
    columns = [some_rows(width=1, dtype=kind)[0][:, 0] for kind in types]
    y = some_rows()[1]
    data = load_table(
        pa.table({"a": columns[0], "b": columns[1], "label": y}), tmp_path, val_fraction=0, normalize="none"
    )
    assert data.train.X.dtype == stored
    assert np.array_equal(data.train.X, np.stack(columns, axis=1).astype(stored))


def test_chosen_features_come_in_the_order_given_and_other_columns_do_not_matter(tmp_path):
    X, y = some_rows()
    table = wide_table(X, y).append_column("city", pa.array(["Ulm"] * len(y)))
    data = load_table(table, tmp_path, features=("f2", "f0"), val_fraction=0, normalize="none")
    assert data.feature_names == ("f2", "f0")
    assert np.array_equal(data.train.X, X[:, [2, 0]].astype(np.float32))


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
def test_lists_without_a_fixed_size_are_taken_if_all_have_one_length(tmp_path, kind):
    X, y = some_rows()
    table = pa.table({"X": pa.array(X.tolist(), kind(pa.float64())), "label": y})
    assert load_table(table, tmp_path).digest == load_table(list_table(X, y), tmp_path).digest


def test_fixed_shape_tensors_are_lists(tmp_path):
    X, y = some_rows()
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(X)
    table = pa.table({"X": tensor, "label": y})
    assert load_table(table, tmp_path).digest == load_table(list_table(X, y), tmp_path).digest


def test_validation_columns_in_another_order_are_put_into_the_training_order(tmp_path):
    X, y = some_rows()
    write_parquet(wide_table(X, y), tmp_path / "train.parquet")
    write_parquet(wide_table(X, y).select(["f2", "label", "f1", "f0"]), tmp_path / "val.parquet")
    data = load_from(tmp_path / "train.parquet", val=tmp_path / "val.parquet")
    assert data.val is not None
    assert np.array_equal(data.train.X, data.val.X)
    assert np.array_equal(data.train.y, data.val.y)


def test_validation_rows_of_another_type_are_normalised_by_the_training_rows(tmp_path):
    X, y = some_rows(dtype="float32")
    write_parquet(list_table(X, y), tmp_path / "train.parquet")
    write_parquet(list_table(X[:9].astype(np.float64) + 1, y[:9]), tmp_path / "val.parquet")
    data = load_from(tmp_path / "train.parquet", val=tmp_path / "val.parquet")
    assert data.val is not None
    assert len(data.train) == 60
    assert np.array_equal(data.val.X, data.normalization.apply(X[:9].astype(np.float64) + 1))


def test_csv_types_are_found_over_all_rows_and_files(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "a.csv").write_text("x,label\n" + "1,1\n" * 3)
    (folder / "b.csv").write_text("x,label\n1.5,a\n2,1\n")
    data = load_from(folder, val_fraction=0, normalize="none")
    assert data.classes.tolist() == ["1", "a"]
    assert data.train.X.ravel().tolist() == [1, 1, 1, 1.5, 2]
    assert data.train.y.tolist() == [0, 0, 0, 1, 0]


def test_csv_validation_labels_are_read_as_the_training_rows_labels(tmp_path):
    (tmp_path / "train.csv").write_text("x,label\n1,1\n2,a\n")
    (tmp_path / "val.csv").write_text("x,label\n3.5,1\n")
    data = load_from(tmp_path / "train.csv", val=tmp_path / "val.csv", normalize="none")
    assert data.val is not None
    assert data.val.y.tolist() == [0]
    assert data.val.X.tolist() == [[3.5]]


def test_a_file_without_rows_is_passed_over_whatever_its_columns(tmp_path):
    X, y = some_rows()
    write_arrow(list_table(X, y), tmp_path / "b.arrow")
    expected = load_from(tmp_path / "b.arrow").digest
    write_arrow(pa.table({"other": pa.array([], pa.string())}), tmp_path / "a.arrow")
    assert load_from(tmp_path / "*.arrow").digest == expected


def test_notices_of_a_format_reach_the_data_set(tmp_path, monkeypatch):
    X, y = some_rows()
    write_parquet(wide_table(X, y), tmp_path / "train.parquet")
    write_parquet(wide_table(X, y), tmp_path / "val.parquet")
    assert load_from(tmp_path / "train.parquet", val=tmp_path / "val.parquet").notices == ()
    noting = replace(formats.FORMATS[0], notices=lambda files: tuple(f"seen: {Path(f.path).name}" for f in files))
    monkeypatch.setattr(formats, "FORMATS", (noting, *formats.FORMATS[1:]))
    notices = load_from(tmp_path / "train.parquet", val=tmp_path / "val.parquet").notices
    assert notices == ("seen: train.parquet", "seen: val.parquet")


def test_rows_cannot_be_written_to(tmp_path):
    data = load_from("digits")
    with pytest.raises(ValueError, match="read-only"):
        data.train.X[0] = 0


def test_files_are_taken_in_the_order_of_their_paths(tmp_path):
    X, y = some_rows(count=40)
    write_folder(list_table(X, y), tmp_path / "rows")
    data = load_from(tmp_path / "rows", val_fraction=0, normalize="none")
    assert np.array_equal(data.train.X, X.astype(np.float32))
    write_parquet(list_table(X[:20], y[:20]), tmp_path / "2.parquet")
    write_parquet(list_table(X[20:], y[20:]), tmp_path / "1.parquet")
    data = load_from(tmp_path / "?.parquet", val_fraction=0, normalize="none")
    assert np.array_equal(data.train.X, np.concatenate([X[20:], X[:20]]).astype(np.float32))


def test_a_path_with_glob_characters_that_exists_is_that_file(tmp_path):
    X, y = some_rows()
    write_parquet(list_table(X, y), tmp_path / "rows[1].parquet")
    assert len(load_from(tmp_path / "rows[1].parquet", val_fraction=0).train) == 60


def test_pages_with_a_wrong_checksum_are_refused(tmp_path):
    from distsgd.errors import DataError

    X, y = some_rows(count=500, dtype="float32")
    path = tmp_path / "rows.parquet"
    pq.write_table(
        list_table(X, y),
        path,
        compression="none",
        use_dictionary=False,
        write_page_checksum=True,
        write_statistics=False,
    )
    load_from(path)
    content = bytearray(path.read_bytes())
    content[content.index(X[250].tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        load_from(path)


def test_importing_the_package_does_not_import_pyarrow():
    code = "import sys, distsgd.data; print([m for m in ('pyarrow', 'sklearn', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_directory_inside_the_folder_of_the_data_is_no_data(tmp_path):
    from distsgd import train

    write_parquet(list_table(*some_rows(count=40)), tmp_path / "rows.parquet")
    values = {"data.train": str(tmp_path), "run.workers": 0, "tracking.enabled": False, "train.max_steps": 2}
    first = train(values | {"run.dir": str(tmp_path / "runs" / "one")})
    second = train(values | {"run.dir": str(tmp_path / "runs" / "two")})
    assert first.weights_sha256 == second.weights_sha256
