"""The file of a trained model, `model.npz`: weights, columns, what else prediction needs, and the format's version.

All readers use the same checks. This file is copied into every model that is logged to MLflow, so
it needs NumPy alone.
"""

from __future__ import annotations

import io
from collections.abc import Collection
from pathlib import Path

import numpy as np

from .activations import ACTIVATIONS
from .inputs import Inputs
from .losses import LOSSES
from .net import Net
from .npz import read_arrays
from .predictor import Predictor

FORMAT_VERSION = 3
"""The newest version that can be read; a file without a version has version 1.

Version 3 is written for nets without a hidden layer, whose W1 (D, 0) and b1 (0,) are empty and whose W2 is (D, C), and
for those with another activation or loss than ReLU and softmax cross-entropy. Version 2 is written for other nets if
features are not the columns' numbers as they are: there are categories, or values to fill. Version 1 may describe its
columns too; distsgd 0.1.0, whose features have no names, reads it and predicts by position.
"""


def encode(predictor: Predictor) -> bytes:
    """Return the content of `model.npz`, which `numpy.load` reads without pickle."""
    buffer, inputs = io.BytesIO(), predictor.inputs
    arrays = {
        **predictor.net.split(predictor.flat)._asdict(),
        "classes": predictor.classes,
        "shift": predictor.shift,
        "scale": predictor.scale,
        "activation": np.array(predictor.net.activation),
        "loss": np.array(predictor.net.loss),
        "format_version": np.array(_version_needed(predictor)),
    }
    if inputs is not None:
        arrays["inputs"] = np.array(inputs.to_json().encode())
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _version_needed(predictor: Predictor) -> int:
    """Return the lowest version whose readers predict with such a model."""
    net, inputs = predictor.net, predictor.inputs
    if not net.hidden or (net.activation, net.loss) != ("relu", "softmax"):
        return 3
    plain = inputs is None or (inputs.by_position and all(column.fill is None for column in inputs.columns))
    return 1 if plain else 2


def read(path: str | Path) -> Predictor:
    """Return the model in a file that `encode` wrote; raise ValueError if it is not one."""
    try:
        if Path(path).exists() and not Path(path).is_file():  # to open a pipe may block
            raise ValueError("it is not a regular file")
        with open(path, "rb") as file:
            arrays = read_arrays(file)
        version = _version(arrays)
        if version <= FORMAT_VERSION:
            return _decode(arrays)
    except FileNotFoundError:
        raise ValueError(f"the model {str(path)!r} does not exist") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is not a model that distsgd wrote: {error}") from None
    raise ValueError(
        f"the model {str(path)!r} has format version {version}, and this distsgd reads versions up to "
        f"{FORMAT_VERSION}; install a newer distsgd"
    )


def _version(arrays: dict[str, np.ndarray]) -> int:
    version = arrays.get("format_version", np.array(1))
    if version.shape != () or version.dtype.kind not in "iu" or version < 1:
        raise ValueError("its format_version is not a positive integer")
    return int(version)


def _decode(arrays: dict[str, np.ndarray]) -> Predictor:
    missing = {*Net(1, 1, 1).shapes._fields, "classes", "shift", "scale"} - set(arrays)
    if missing:
        raise ValueError(f"it has no array {min(missing)!r}")
    W1, classes = arrays["W1"], arrays["classes"]
    if W1.ndim != 2 or classes.ndim != 1 or classes.dtype.kind not in "iuU" or 0 in (len(W1), *classes.shape):
        raise ValueError(f"it has W1 {W1.shape} and classes {classes.shape} of {classes.dtype}")
    D, H = W1.shape
    net = Net(
        D,
        H,
        len(classes),
        activation=_name(arrays, "activation", ACTIVATIONS, "relu"),
        loss=_name(arrays, "loss", LOSSES, "softmax"),
    )
    for name, shape in net.shapes._asdict().items():
        _check(name, arrays[name], shape, itemsize=4)
    for name in ("shift", "scale"):
        _check(name, arrays[name], (net.features,), itemsize=8)
    flat = np.concatenate([arrays[name].astype(np.float32).ravel() for name in net.shapes._fields])
    return Predictor(
        net=net,
        flat=flat,
        classes=classes,
        shift=arrays["shift"],
        scale=arrays["scale"],
        inputs=_inputs(arrays, net.features),
    )


def _inputs(arrays: dict[str, np.ndarray], features: int) -> Inputs | None:
    """Return the columns of a model with so many features; files of distsgd 0.1.0 have none."""
    array = arrays.get("inputs")
    if array is None:
        return None
    if array.shape != () or array.dtype.kind != "S":
        raise ValueError(f"its inputs are {array.shape} of {array.dtype}, expected one text")
    inputs = Inputs.from_json(array.item().decode("ascii"))
    if inputs.features != features:
        raise ValueError(f"its arrays do not fit together: its inputs have {inputs.features} features, not {features}")
    return inputs


def _name(arrays: dict[str, np.ndarray], key: str, known: Collection[str], default: str) -> str:
    """Return the name of the net's activation or loss; files of distsgd 0.1.0 have none, but `default`."""
    array = arrays.get(key, np.array(default))
    if array.shape != () or str(array) not in known:
        raise ValueError(f"its {key} is {str(array)[:40]!r}, expected {' or '.join(sorted(known))}")
    return str(array)


def _check(name: str, array: np.ndarray, shape: tuple[int, ...], *, itemsize: int) -> None:
    if array.shape != shape:
        raise ValueError(f"its arrays do not fit together: {name} is {array.shape}, expected {shape}")
    if array.dtype.kind != "f" or array.dtype.itemsize != itemsize:
        raise ValueError(f"its {name} is of {array.dtype}, expected float{8 * itemsize}")
    if not np.isfinite(array).all():
        raise ValueError(f"its {name} holds numbers that are not finite")
