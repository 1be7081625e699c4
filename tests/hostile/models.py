"""Odd model files: damaged bytes, lying headers, arrays of other types and shapes."""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

import distsgd
from hostile import odd
from hostile.generator import Generator
from hostile.sandbox import Problem, Sandbox

NAMES = ("W1", "b1", "W2", "b2", "classes", "shift", "scale")

TYPES = ("<f4", ">f4", "<f8", "<f2", "<i8", "<c8", "<U5", "|S5", "|b1", "<M8[s]", "|O", "<f4,<f4", "<g", "<u8")

SHAPES = (
    (),
    (0,),
    (1,),
    (2,),
    (3,),
    (3, 4),
    (4, 3),
    (0, 0),
    (3, 0),
    (4, 2),
    (2, 4),
    (1, 3, 4),
    (2**40,),
    (2**31, 2**31),
    (2**62, 4),
)

VALUES = (0.0, 1.0, -1.0, float("nan"), float("inf"), 1e38, 1e-45)


@dataclass(frozen=True)
class Array:
    """How one array differs from that of a model: what its header says, and what it is filled with."""

    type: str | None
    shape: tuple[int, ...] | None
    value: float | None
    header: bytes | None
    """The whole header's text, if it is none that NumPy writes."""


@dataclass(frozen=True)
class Case:
    """A model of 3 features, 4 units and 2 classes with some arrays changed or gone, then with damaged bytes."""

    changed: dict[str, Array | None]
    extra: str | None
    compressed: bool
    damages: tuple[odd.Damage, ...]


HEADERS = (
    b"",
    b"{",
    b"{}",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }" + b" " * 70_000,
    b"{'descr': '<f4', 'fortran_order': True, 'shape': (4, 3)}\n",
    b"__import__('os').system('id')\n",
    b"{'descr': '<f4', 'shape': (3, 4)}\n",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (-3, 4)}\n",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (True, 4)}\n",
    b"{'descr': '|V0', 'fortran_order': False, 'shape': (3, 4)}\n",
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}\n",
    b"(" * 5000,
)


def cases() -> SearchStrategy[Case]:
    """Model files."""
    array = st.builds(
        Array,
        type=st.none() | st.sampled_from(TYPES),
        shape=st.none() | st.sampled_from(SHAPES),
        value=st.none() | st.sampled_from(VALUES),
        header=st.one_of(st.none(), st.none(), st.none(), st.sampled_from(HEADERS)),
    )
    changed = st.dictionaries(st.sampled_from(NAMES), st.one_of(array, array, array, array, st.none()), max_size=2)
    damages = st.one_of(st.just(()), st.lists(odd.damages(), max_size=2).map(tuple))
    return st.builds(
        Case, changed, st.none() | st.sampled_from(["extra", "../x", "W1", "W1.npy", "/abs"]), st.booleans(), damages
    )


def model_bytes(case: Case) -> bytes:
    """Return the file."""
    rng = np.random.default_rng(1)
    shapes = {"W1": (3, 4), "b1": (4,), "W2": (4, 2), "b2": (2,), "shift": (3,), "scale": (3,)}
    arrays = {name: rng.normal(size=shape).astype("<f4") for name, shape in shapes.items()}
    arrays |= {"shift": arrays["shift"].astype("<f8"), "scale": arrays["scale"].astype("<f8"), "classes": np.arange(2)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if case.compressed else zipfile.ZIP_STORED) as archive:
        for name in NAMES:
            if case.changed.get(name, arrays) is not None:
                archive.writestr(f"{name}.npy", _member(arrays[name], case.changed.get(name)))
        if case.extra and case.extra != "W1":
            archive.writestr(f"{case.extra}.npy", _member(arrays["b1"], None))
    data = buffer.getvalue()
    for damage in case.damages:
        data = damage.done_to(data)
    return data


def _member(array: np.ndarray, changed: Array | None) -> bytes:
    """Return an .npy file; its header may promise more than follows."""
    kind, shape = array.dtype.str, array.shape
    if changed is not None:
        kind, shape = changed.type or kind, shape if changed.shape is None else changed.shape
        if changed.value is not None:
            array = np.full(array.shape, changed.value, "<f4")
        if np.prod(shape, dtype=float) < 100 and kind not in ("|O", "<f4,<f4"):
            with np.errstate(all="ignore"):
                array = np.resize(np.nan_to_num(array) if np.dtype(kind).kind in "iubM" else array, shape).astype(kind)
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    if kind == "<f4,<f4":
        text = f"{{'descr': [('a', '<f4'), ('b', '<f4')], 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    header = changed.header if changed is not None and changed.header is not None else text + b"\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header + array.tobytes()


def check(case: Case, sandbox: Sandbox) -> list[Problem]:
    """Load the file in Python: an error of distsgd's own, or a model with which one can predict."""
    return check_bytes(model_bytes(case), sandbox)


def check_bytes(data: bytes, sandbox: Sandbox) -> list[Problem]:
    """Load a model file of these bytes, and predict."""
    path = sandbox.work / "model.npz"
    path.write_bytes(data)
    return sandbox.call(lambda: _use(path))


def _use(path: object) -> None:
    """Load, look at, and use a model; AssertionError if it is none that can have been trained."""
    try:
        model = distsgd.Classifier.load(str(path))
        probabilities = model.predict_proba(np.zeros((2, model.net.features), np.float32))
        predicted = model.predict(np.zeros((2, model.net.features), np.float32))
    except distsgd.DistsgdError:
        return
    assert model.flat.dtype == np.float32, f"weights of type {model.flat.dtype}"
    assert np.isfinite(model.flat).all(), "weights that are not finite"
    assert probabilities.shape == (2, len(model.classes)), f"probabilities of shape {probabilities.shape}"
    assert predicted.shape == (2,), f"predictions of shape {predicted.shape}"


GENERATOR = Generator(cases, check, share=1.5)
