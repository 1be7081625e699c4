"""Reads `.npz` files that may be damaged or malicious: inconsistent content is refused before it is used.

NumPy trusts an array's header and allocates what it asks for; here the header is compared with the actual size first.
This file is copied into every model that is logged to MLflow, so it needs NumPy alone.
"""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zipfile
import zlib
from typing import BinaryIO

import numpy as np

UNREADABLE = (
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    RuntimeError,
    SyntaxError,
    MemoryError,
    OverflowError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""The errors that zipfile and NumPy raise for files that are damaged or of another format."""

MAX_CHARACTERS = 200
"""Maximum length of such an error's message; NumPy's may quote a header of thousands of characters."""


def read_arrays(file: BinaryIO) -> dict[str, np.ndarray]:
    """Return the arrays of an uncompressed `.npz` file, read-only, by name.

    Raise ValueError, with a clause on what is wrong, unless all are complete and need no pickle; OSError if the file
    cannot be read.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    try:
        with zipfile.ZipFile(file) as archive:
            return {info.filename.removesuffix(".npy"): _array(archive, info, size) for info in archive.infolist()}
    except UNREADABLE as error:
        raise ValueError(str(error)[:MAX_CHARACTERS] or type(error).__name__) from None


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, size: int) -> np.ndarray:
    """Return one array of an archive of `size` bytes."""
    if info.file_size > size:  # it is compressed, or its stated size is wrong
        raise ValueError(f"its array {info.filename!r} is said to have {info.file_size} bytes, in a file of {size}")
    content = archive.read(info)
    opened = io.BytesIO(content)
    version = np.lib.format.read_magic(opened)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        raise ValueError(f"its array {info.filename!r} is of the unknown .npy version {version}")
    shape, fortran, dtype = read_header[version](opened)
    if dtype.hasobject:
        raise ValueError(f"its array {info.filename!r} holds Python objects")
    start, count = opened.tell(), math.prod(shape)
    if min(shape, default=0) < 0 or len(content) - start != count * dtype.itemsize:
        raise ValueError(f"its array {info.filename!r} says that it is {shape} of {dtype}, and has other bytes")
    flat = np.frombuffer(content, dtype, count, start)
    return flat.reshape(shape, order="F" if fortran else "C")
