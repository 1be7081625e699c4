"""The trained classifier: its file, its predictions, and what it does not predict."""

from __future__ import annotations

import hashlib
import pickle
import random
import struct
from pathlib import Path

import numpy as np
import pytest

from distsgd.core.net import Net
from distsgd.core.pyfunc import _load_pyfunc
from distsgd.data import Normalization
from distsgd.errors import DataError
from distsgd.rundir.classifier import Classifier, weights_sha256

NET = Net(4, 6, 3)
INTEGERS = np.array([3, 5, 9])
STRINGS = np.array(["Katze", "Hund", "Möwe"])
NORMALIZATION = Normalization(np.array([1.0, 2, 3, 4]), np.array([0.5, 1, 2, 0.25]))


def make(classes: np.ndarray = INTEGERS) -> Classifier:
    flat = np.random.default_rng(0).normal(size=NET.size).astype(np.float32)
    return Classifier(net=NET, flat=flat, classes=classes, normalization=NORMALIZATION)


def rows(count: int = 40) -> np.ndarray:
    return np.random.default_rng(1).normal(2, 3, (count, 4))


def saved(path: Path, **changed) -> Path:
    """Return the path of a saved model, some of its arrays replaced, or left out if None is given for them."""
    make().save(path)
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file) | changed
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.mark.parametrize("classes", [INTEGERS, STRINGS])
def test_a_model_that_was_saved_and_loaded_predicts_the_same(tmp_path, classes):
    model = make(classes)
    model.save(tmp_path / "model.npz")
    loaded = Classifier.load(tmp_path / "model.npz")
    assert loaded.predict_proba(rows()).tobytes() == model.predict_proba(rows()).tobytes()
    assert loaded.predict(rows()).tolist() == model.predict(rows()).tolist()
    assert loaded.classes.dtype == classes.dtype
    assert weights_sha256(loaded.flat) == weights_sha256(model.flat)
    assert loaded.net == NET


@pytest.mark.parametrize("classes", [INTEGERS, STRINGS])
def test_predictions_are_what_the_formulas_say(classes):
    model = make(classes)
    W1, b1, W2, b2 = (part.astype(np.float64) for part in NET.split(model.flat))
    X = (rows() - NORMALIZATION.shift) * NORMALIZATION.scale
    scores = np.maximum(X @ W1 + b1, 0) @ W2 + b2
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    found = model.predict_proba(rows())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert model.predict(rows()).tolist() == classes[expected.argmax(axis=1)].tolist()
    assert len(set(model.predict(rows()).tolist())) == 3


def test_the_file_holds_the_arrays_of_the_contract_and_no_pickle(tmp_path):
    model = make(STRINGS)
    model.save(tmp_path / "model.npz")
    with np.load(tmp_path / "model.npz", allow_pickle=False) as file:
        assert set(file) == {"W1", "b1", "W2", "b2", "classes", "shift", "scale", "format_version"}
        assert [file[name].shape for name in ("W1", "b1", "W2", "b2")] == [(4, 6), (6,), (6, 3), (3,)]
        assert all(file[name].dtype == np.float32 for name in ("W1", "b1", "W2", "b2"))
        assert np.array_equal(file["W1"], NET.split(model.flat).W1)
        assert file["classes"].tolist() == STRINGS.tolist()


def test_the_hash_is_of_the_arrays_in_their_order_as_little_endian_floats():
    model = make()
    content = b"".join(struct.pack(f"<{part.size}f", *part.ravel()) for part in NET.split(model.flat))
    assert weights_sha256(model.flat) == hashlib.sha256(content).hexdigest()
    assert weights_sha256(model.flat.astype(">f4")) == weights_sha256(model.flat)
    assert weights_sha256(np.repeat(model.flat, 2)[::2]) == weights_sha256(model.flat)
    other = model.flat.copy()
    other[-1] = np.nextafter(other[-1], np.float32(9))
    assert weights_sha256(other) != weights_sha256(model.flat)


@pytest.mark.parametrize("X", [np.zeros((2, 3)), np.zeros((2, 5)), np.zeros(4), np.zeros((1, 2, 4)), 3.0])
def test_features_of_another_shape_are_refused(X):
    with pytest.raises(DataError, match=r"takes \(n, 4\)") as caught:
        make().predict(X)
    assert str(np.shape(X)) in str(caught.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_features_that_are_not_finite_are_refused_by_row_and_column(bad):
    X = rows()
    X[7, 2] = bad
    with pytest.raises(DataError, match=r"feature 2 of row 7.*finite"):
        make().predict(X)


def test_no_rows_give_no_predictions():
    assert make(STRINGS).predict(np.empty((0, 4))).shape == (0,)
    assert make().predict_proba(np.empty((0, 4))).shape == (0, 3)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64", "bool"])
def test_features_of_any_numeric_type_and_lists_are_taken(dtype):
    X = (rows() > 2).astype(dtype)
    assert make().predict(X).tolist() == make().predict(X.tolist()).tolist()


@pytest.mark.parametrize("classes", [INTEGERS, STRINGS])
def test_the_portable_model_predicts_the_same(tmp_path, classes):
    make(classes).save(tmp_path / "model.npz")
    portable = _load_pyfunc(str(tmp_path / "model.npz"))
    assert portable.predict(rows(500)).tolist() == make(classes).predict(rows(500)).tolist()


class Evil:
    def __reduce__(self):
        return print, ("code of the file was run",)


def write_object_array(path: Path) -> None:
    np.savez(path, W1=np.array([Evil()], dtype=object))


OTHER_FILES = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("weights"),
    "array": lambda path: path.write_bytes(_npy()),
    "pickle": lambda path: path.write_bytes(pickle.dumps(Evil())),
    "objects": write_object_array,
    "folder": lambda path: path.mkdir(),
    "empty archive": lambda path: np.savez(path),
    "no classes": lambda path: saved(path, classes=None),
    "one weight less": lambda path: saved(path, W2=np.zeros((5, 3), np.float32)),
    "one class less": lambda path: saved(path, classes=INTEGERS[:2]),
    "weights in a line": lambda path: saved(path, W1=np.zeros(24, np.float32)),
    "weights of words": lambda path: saved(path, b1=np.array(list("abcdef"))),
    "a number for classes": lambda path: saved(path, classes=np.array(3)),
    "shift of another width": lambda path: saved(path, shift=np.zeros(3)),
    "scale of words": lambda path: saved(path, scale=np.array(list("abcd"))),
}


def _npy() -> bytes:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (0,), }\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_a_file_that_is_no_model_is_refused_and_nothing_of_it_is_run(tmp_path, capsys, kind):
    path = tmp_path / "model.npz"
    OTHER_FILES[kind](path)
    with pytest.raises(DataError, match="is not a model that distsgd wrote") as caught:
        Classifier.load(path)
    assert repr(str(path)) in str(caught.value)
    assert capsys.readouterr().out == ""


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"the model '.*no\.npz' does not exist"):
        Classifier.load(tmp_path / "no.npz")


@pytest.mark.parametrize("kind", ["flipped", "cut"])
def test_damage_anywhere_is_found_or_does_no_harm(tmp_path, kind):
    """Some bytes of a zip archive mean nothing; those of the arrays are all checked."""
    path, rng = tmp_path / "model.npz", random.Random(2)
    model = make()
    model.save(path)
    content, found = path.read_bytes(), 0
    for _ in range(150):
        location = rng.randrange(len(content))
        flipped = content[:location] + bytes([content[location] ^ 1 << rng.randrange(8)]) + content[location + 1 :]
        path.write_bytes(flipped if kind == "flipped" else content[:location])
        try:
            loaded = Classifier.load(path)
        except DataError:
            found += 1
        else:
            assert loaded.predict_proba(rows()).tobytes() == model.predict_proba(rows()).tobytes()
            assert loaded.classes.tolist() == model.classes.tolist()
    assert found > (100 if kind == "cut" else 50)
