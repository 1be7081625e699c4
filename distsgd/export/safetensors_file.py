"""Models as safetensors files: the arrays of `model.npz` by the same names, all else as text in the header.

    h = f((X − shift) · scale @ W1 + b1)          probabilities = softmax(h @ W2 + b2)

Metadata: `classes` and `inputs` as JSON, `activation`, `loss`, `format` (distsgd) and `format_version`, and `sha256` of
all arrays' bytes in the order of their names, because the format itself finds no flipped bit. An array without values
is left out: W1 and b1 of a net without a hidden layer.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from distsgd.core.predictor import Predictor
from distsgd.errors import ExportError
from distsgd.export.checking import require
from distsgd.system.files import write_atomically

FORMAT = "safetensors"
FORMAT_VERSION = 1


def write(predictor: Predictor, path: Path) -> float:
    """Write a model as a safetensors file and return 0.0, as its numbers are the model's.

    ConfigError if safetensors is not installed; ExportError if the file does not read back as it was written.
    """
    require(FORMAT, "safetensors")
    from safetensors.numpy import load, save

    parameters = predictor.net.split(predictor.flat)._asdict()
    arrays = {name: np.ascontiguousarray(array, "<f4") for name, array in parameters.items() if array.size}
    arrays |= {"shift": predictor.shift.astype("<f8"), "scale": predictor.scale.astype("<f8")}
    metadata = {
        "format": "distsgd",
        "format_version": str(FORMAT_VERSION),
        "activation": predictor.net.activation if predictor.net.hidden else "none",
        "loss": predictor.net.loss,
        "classes": json.dumps(predictor.classes.tolist()),
        "inputs": "null" if predictor.inputs is None else predictor.inputs.to_json(),
        "sha256": arrays_sha256(arrays),
    }
    content = save(arrays, metadata)
    if arrays_sha256(load(content)) != metadata["sha256"]:
        raise ExportError("the safetensors file does not read back as it was written")
    write_atomically(path, content)
    return 0.0


def arrays_sha256(arrays: dict[str, np.ndarray]) -> str:
    """Return the SHA-256 of the bytes of all arrays, in the order of their names."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        sha.update(arrays[name].tobytes())
    return sha.hexdigest()
