"""The trained classifier: its file, its predictions, and what it does not predict."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
import random
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from distsgd.core.activations import ACTIVATIONS
from distsgd.core.inputs import Column, Inputs
from distsgd.core.net import Net
from distsgd.core.pyfunc import _load_pyfunc
from distsgd.data import Normalization
from distsgd.errors import DataError
from distsgd.rundir.classifier import Classifier, weights_sha256

NET = Net(4, 6, 3)
DATA_FILES = Path(__file__).parent.parent / "data_files"
INTEGERS = np.array([3, 5, 9])
STRINGS = np.array(["Katze", "Hund", "Möwe"])
NORMALIZATION = Normalization(np.array([1.0, 2, 3, 4]), np.array([0.5, 1, 2, 0.25]))


INPUTS = Inputs(
    (
        Column(name="age", kind="number", dtype="int64"),
        Column(name="height", kind="number", dtype="float32"),
        Column(name="member", kind="boolean", dtype="bool"),
        Column(name="income", kind="number", dtype="float64"),
    )
)


def make(classes: np.ndarray = INTEGERS, inputs: Inputs | None = None) -> Classifier:
    flat = np.random.default_rng(0).normal(size=NET.size).astype(np.float32)
    return Classifier(net=NET, flat=flat, classes=classes, normalization=NORMALIZATION, inputs=inputs)


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
class Halving:
    """f(a) = a / 2, which no file would name by mistake."""

    def forward(self, h, kept, scratch, xp):
        xp.multiply(h, np.float32(0.5), out=h)

    def backward(self, dh, h, kept, xp):
        xp.multiply(dh, np.float32(0.5), out=dh)

    def initial_deviation(self, fan_in, fan_out):
        return 1.0


def test_the_file_names_the_activation_and_predictions_use_it(tmp_path, monkeypatch):
    monkeypatch.setitem(ACTIVATIONS, "halving", Halving())
    relu = make()
    other = dataclasses.replace(relu, net=dataclasses.replace(relu.net, activation="halving"))
    other.save(tmp_path / "model.npz")
    loaded = Classifier.load(tmp_path / "model.npz")
    assert loaded.net == other.net
    assert loaded.predict_proba(rows()).tobytes() == other.predict_proba(rows()).tobytes()
    assert not np.allclose(loaded.predict_proba(rows()), relu.predict_proba(rows()))
    assert (_load_pyfunc(str(tmp_path / "model.npz")).predict(rows()) == other.predict(rows())).all()


@pytest.mark.parametrize("classes", [INTEGERS, STRINGS], ids=["integers", "strings"])
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
        assert set(file) == {
            "W1",
            "b1",
            "W2",
            "b2",
            "classes",
            "shift",
            "scale",
            "activation",
            "loss",
            "format_version",
        }
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
    with pytest.raises(DataError, match=r"feature 2.* row 7"):
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


def npy(header: str, content: bytes = b"") -> bytes:
    """Return an `.npy` file with a header of one's own."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header.encode() + b"\n" + content


def with_member(path: Path, name: str, content: bytes) -> Path:
    """Return the path of a saved model, one of whose arrays has been replaced by other bytes."""
    make().save(path)
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in (members | {f"{name}.npy": content}).items():
            archive.writestr(member, data)
    return path


HOSTILE = {
    "a shape of 4 TB": lambda p: with_member(
        p, "W1", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }")
    ),
    "a negative shape": lambda p: with_member(
        p, "b1", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-6, -1), }", bytes(24))
    ),
    "brackets without end": lambda p: with_member(p, "b1", npy("(" * 9000)),
    "bytes left over": lambda p: with_member(
        p, "b1", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }", bytes(28))
    ),
    "a long header that is no dictionary": lambda p: with_member(p, "b1", npy("[" + "1, " * 2000 + "]")),
    "a header that ends early": lambda p: with_member(p, "b1", npy("{'descr'")),
    "no array at all": lambda p: with_member(p, "b1", b"text"),
    "an .npy of version 9": lambda p: with_member(p, "b1", b"\x93NUMPY\x09\x00" + bytes(99)),
    "weights that are not a number": lambda p: saved(p, W1=np.full((4, 6), np.nan, np.float32)),
    "infinite weights": lambda p: saved(p, b2=np.full(3, np.inf, np.float32)),
    "complex weights": lambda p: saved(p, W2=np.ones((6, 3), np.complex64)),
    "weights of text": lambda p: saved(p, b2=np.array(["1.5", "2", "3"])),
    "weights of truth values": lambda p: saved(p, b2=np.ones(3, bool)),
    "classes of floats": lambda p: saved(p, classes=np.array([1.0, 2.0, 3.0])),
    "no features": lambda p: saved(p, W1=np.zeros((0, 6), np.float32), shift=np.zeros(0), scale=np.zeros(0)),
    "a shift that is not a number": lambda p: saved(p, shift=np.full(4, np.nan)),
    "a format version of text": lambda p: saved(p, format_version=np.array("new")),
    "an unknown activation": lambda p: saved(p, activation=np.array("step")),
    "a number for an activation": lambda p: saved(p, activation=np.array(3)),
    "two losses": lambda p: saved(p, loss=np.array(["softmax", "softmax"])),
    "format version 0": lambda p: saved(p, format_version=np.array(0)),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_model_that_lies_or_holds_what_no_model_holds_is_refused_in_a_sentence(tmp_path, kind):
    path = tmp_path / "model.npz"
    HOSTILE[kind](path)
    for load in (Classifier.load, lambda p: _load_pyfunc(str(p))):
        with pytest.raises((DataError, ValueError), match="is not a model that distsgd wrote: ") as caught:
            load(path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400


def test_a_compressed_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "model.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("W1.npy", "w") as member:
        for _ in range(200):
            member.write(bytes(2**20))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"'W1\.npy' is said to have 209715200 bytes, in a file of"):
            Classifier.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_a_model_without_a_format_version_is_read_and_a_newer_one_is_refused(tmp_path):
    path = saved(tmp_path / "model.npz", format_version=None)
    assert Classifier.load(path).predict(rows()).tolist() == make().predict(rows()).tolist()
    saved(path, format_version=np.array(99))
    with pytest.raises(DataError, match=r"has format version 99, and this distsgd reads versions up to 3; install"):
        Classifier.load(path)


def test_a_model_of_version_0_1_0_predicts():
    """Kept from that version: three features, two hidden units, labels 0 and 1, trained on rows that are kept too."""
    model = Classifier.load(DATA_FILES / "model_of_0_1_0.npz")
    with np.load(DATA_FILES / "run_of_0_1_0_rows.npz") as kept:
        assert np.mean(model.predict(kept["X"]) == kept["y"]) > 0.8


@pytest.mark.parametrize(
    ("X", "words"),
    [
        ([["a", "b", "c", "d"]], "real numbers"),
        (np.ones((1, 4), complex), "real numbers"),
        (np.array([[1, 2, 3, "x"]], object), "feature 3: 'x' in row 0, counted from 0, is not a number"),
        ([[1, 2], [3]], "inhomogeneous"),
        (np.array([["2024-01-01"] * 4], "datetime64[D]"), "real numbers"),
    ],
)
def test_features_that_are_not_numbers_are_refused(X, words):
    with pytest.raises(DataError, match=words):
        make().predict(X)


def test_features_whose_scores_overflow_are_refused():
    """Even if only one of the scores does."""
    model = make()
    NET.split(model.flat).W2[:, 0] = 1e38
    X = np.concatenate([np.zeros((513, 4)), [[1e3, -1e3, 1e3, 1e3]]])
    NET.split(model.flat).b1[:] = 0
    X[:513] = NORMALIZATION.shift
    assert model.predict(X[:513]).shape == (513,)
    with pytest.raises(DataError, match=r"the scores of row 513, counted from 0, overflow float32"):
        model.predict_proba(X)


def test_a_rows_prediction_does_not_depend_on_how_many_rows_there_are():
    X, model = rows(1300), make()
    whole = model.predict_proba(X)
    assert np.array_equal(np.concatenate([model.predict_proba(X[:512]), model.predict_proba(X[512:])]), whole)
    assert model.predict(X).tolist() == [c for part in (X[:512], X[512:]) for c in model.predict(part).tolist()]


def some_frame(count: int = 40) -> pd.DataFrame:
    """Return rows of the columns of INPUTS, as pandas has them in memory: of four types."""
    rng = np.random.default_rng(5)
    return pd.DataFrame(
        {
            "age": rng.integers(0, 9, count),
            "height": rng.normal(2, 3, count).astype(np.float32),
            "member": rng.random(count) < 0.5,
            "income": rng.normal(2, 9, count),
        }
    )


def test_a_frame_is_predicted_by_name_whatever_the_order_of_its_columns(tmp_path):
    make(STRINGS, INPUTS).save(tmp_path / "model.npz")
    model, frame = Classifier.load(tmp_path / "model.npz"), some_frame()
    expected = make(STRINGS).predict_proba(frame.to_numpy(np.float64))
    assert model.inputs == INPUTS
    assert model.feature_names == ("age", "height", "member", "income")
    for X in (frame, frame[["income", "age", "member", "height"]], frame.convert_dtypes(), frame.to_numpy(np.float64)):
        assert model.predict_proba(X).tobytes() == expected.tobytes()
    with pytest.raises(DataError, match=r"no column 'height' \(did you mean 'Height'\?\)"):
        model.predict(frame.rename(columns={"height": "Height"}))
    with pytest.warns(UserWarning, match="ignored: 'label'"):
        assert model.predict_proba(frame.assign(label=1)).tobytes() == expected.tobytes()


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
@pytest.mark.parametrize("form", ["frame", "array"])
def test_a_missing_value_is_refused_in_the_same_words_wherever_it_is(missing, form):
    frame = some_frame().astype({"income": object})
    frame.loc[3, "income"] = missing
    with pytest.raises(DataError, match=r"'income': no value in row 3, counted from 0; .* takes no missing values"):
        make(inputs=INPUTS).predict(frame if form == "frame" else frame.to_numpy())


def test_an_infinite_value_is_refused_by_the_features_name():
    frame = some_frame()
    frame.loc[3, "income"] = np.inf
    with pytest.raises(DataError, match=r"feature 'income' of row 3, counted from 0, is inf; a prediction needs"):
        make(inputs=INPUTS).predict(frame)


@pytest.mark.parametrize(
    ("changed", "version"),
    [
        ({}, 1),
        ({"fill": 2.5}, 2),
        ({"kind": "category", "dtype": "str", "categories": ("x",)}, 2),
        ({"kind": "hash", "dtype": "str"}, 2),
    ],
)
def test_an_older_version_reads_a_model_only_if_it_would_predict_the_same(tmp_path, changed, version):
    inputs = Inputs((dataclasses.replace(INPUTS.columns[0], **changed), *INPUTS.columns[1:]))
    make(inputs=inputs).save(tmp_path / "model.npz")
    with np.load(tmp_path / "model.npz", allow_pickle=False) as file:
        assert file["format_version"] == version
    assert Classifier.load(tmp_path / "model.npz").inputs == inputs


@pytest.mark.parametrize("changed", [{"hidden": 0}, {"activation": "gelu"}, {"activation": "tanh"}])
def test_a_net_of_another_kind_is_stored_as_version_3_and_predicts_the_same(tmp_path, changed):
    model = make()
    net = dataclasses.replace(NET, **changed)
    model = dataclasses.replace(model, net=net, flat=np.random.default_rng(4).normal(size=net.size).astype("f4"))
    model.save(tmp_path / "model.npz")
    with np.load(tmp_path / "model.npz", allow_pickle=False) as file:
        assert file["format_version"] == 3
        assert [file[name].shape for name in ("W1", "b1", "W2", "b2")] == list(net.shapes)
    loaded, expected = Classifier.load(tmp_path / "model.npz"), model.predict_proba(rows())
    assert loaded.net == net
    assert loaded.predict_proba(rows()).tobytes() == expected.tobytes()
    portable = _load_pyfunc(str(tmp_path / "model.npz"))
    assert portable.predict(rows(), {"predict_method": "predict_proba"}).tobytes() == expected.tobytes()


def test_without_a_hidden_layer_probabilities_are_those_of_softmax_regression(tmp_path):
    net = dataclasses.replace(NET, hidden=0)
    flat = np.random.default_rng(4).normal(size=net.size).astype("f4")
    model = dataclasses.replace(make(), net=net, flat=flat)
    statistics = model.normalization
    W, b = flat[: net.features * net.classes].reshape(net.features, net.classes), flat[-net.classes :]
    s = ((rows() - statistics.shift) * statistics.scale) @ W + b
    expected = np.exp(s - s.max(axis=1, keepdims=True))
    np.testing.assert_allclose(model.predict_proba(rows()), expected / expected.sum(axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize(
    "inputs",
    [
        np.array(INPUTS.to_json()),
        np.array([INPUTS.to_json().encode()]),
        np.array(b"{}"),
        np.array(b"\xff\xfe"),
        np.array(Inputs(INPUTS.columns[:3]).to_json().encode()),
        np.array(3),
    ],
    ids=["unicode", "a list", "nothing", "no text", "one column less", "a number"],
)
def test_a_model_whose_columns_do_not_fit_is_refused(tmp_path, inputs):
    path = saved(tmp_path / "model.npz", inputs=inputs)
    with pytest.raises(DataError, match="is not a model that distsgd wrote: "):
        Classifier.load(path)


def test_a_run_directory_is_loaded_and_another_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"the folder '.*' has no model\.npz; expected a model, or the directory"):
        Classifier.load(tmp_path)
    make(inputs=INPUTS).save(tmp_path / "model.npz")
    for path in (tmp_path, str(tmp_path)):
        assert (
            Classifier.load(path).predict(some_frame()).tolist()
            == make().predict(some_frame().to_numpy(float)).tolist()
        )


def test_the_representation_is_one_short_line():
    assert repr(make(STRINGS, INPUTS)) == (
        "<Classifier: 4 features (age, height, member, income), 3 classes (Katze, Hund, Möwe)>"
    )
    assert repr(make()) == "<Classifier: 4 features, 3 classes (3, 5, 9)>"
    assert make().feature_names is None
    many = Inputs(tuple(Column(name=f"{i}{'x' * 99}", kind="number", dtype="float64") for i in range(999)))
    assert len(repr(dataclasses.replace(make(), inputs=many))) < 250
