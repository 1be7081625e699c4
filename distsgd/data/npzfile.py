"""An .npz archive with the arrays X (N, D), y (N,) and perhaps weights (N,), read in blocks of rows."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distsgd.config import DataConfig
from distsgd.data.datafile import reading
from distsgd.errors import DataError, counted

FEATURES, LABEL = "X", "y"

Header = tuple[tuple[int, ...], bool, np.dtype[Any]]


@dataclass(frozen=True)
class NpzFile:
    """The archive as a table: a fixed-size-list column `X` and, unless it is for prediction alone, a column `y`.

    An array of weights is a column of its name.
    """

    path: str
    schema: pa.Schema
    num_rows: int

    @classmethod
    def open(cls, path: str, weight: str | None = None) -> NpzFile:
        """Check the shapes and types of the arrays, which their headers give."""
        with reading(path, ".npz"), zipfile.ZipFile(path) as archive:
            members = archive.namelist()
            if f"{FEATURES}.npy" not in members:
                if "[Content_Types].xml" in members:
                    raise DataError(f"{path} is an Excel workbook; save the sheet as CSV (in Excel: CSV UTF-8)")
                others = [name for name in members if not name.endswith(".npy")]
                if others:
                    raise DataError(
                        f"{path} is a zip archive with {others[0]!r} in it; unzip it, and give what it holds"
                    )
                found = ", ".join(repr(name.removesuffix(".npy")) for name in members[:8]) or "none"
                raise DataError(f"{path} holds the arrays {found}; expected X (N, D) and y (N,)")
            headers = {}
            for name in dict.fromkeys((FEATURES, LABEL, weight)):
                if f"{name}.npy" in members:
                    with archive.open(f"{name}.npy") as member:
                        headers[name] = _header(member)
        shape, _, dtype = headers[FEATURES]
        y_shape, _, y_dtype = headers.get(LABEL, (shape[:1], False, None))
        if len(shape) != 2 or len(y_shape) not in (1, 2) or not all(y_shape[1:]):
            raise DataError(
                f"{path}: X has shape {shape} and y has shape {y_shape}; expected X (N, D), one flat row for each "
                "example, and y (N,), or (N, C) for labels or numbers: reshape them"
            )
        if shape[0] != y_shape[0]:
            raise DataError(
                f"{path}: X has {counted(shape[0], 'row')} and y has {y_shape[0]}; expected one label for each row"
            )
        if shape[0] < 0 or not 0 < shape[1] < 2**31:
            raise DataError(f"{path}: X has shape {shape}; expected at least one feature")
        columns = {FEATURES: pa.list_(_arrow_type(path, FEATURES, dtype), shape[1])}
        if y_dtype is not None:
            kind = _arrow_type(path, LABEL, y_dtype)
            columns[LABEL] = kind if len(y_shape) == 1 else pa.list_(kind, y_shape[1])
        if weight is not None and weight in headers and weight not in columns:
            w_shape, _, w_dtype = headers[weight]
            if w_shape != shape[:1]:
                raise DataError(
                    f"{path}: {weight} has shape {w_shape}; expected one weight for each of {counted(shape[0], 'row')}"
                )
            columns[weight] = _arrow_type(path, weight, w_dtype)
        return cls(path, pa.schema(columns), shape[0])

    def batches(self, columns: Sequence[str], max_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order, a block of each array at a time."""
        with reading(self.path, ".npz"), zipfile.ZipFile(self.path) as archive:
            for arrays in zip(*(_blocks(archive, name, max_rows) for name in columns), strict=True):
                yield pa.record_batch({name: _column(array) for name, array in zip(columns, arrays, strict=True)})


def _column(array: NDArray[Any]) -> pa.Array:
    """Return an array (n, D) as lists, one (n,) as it is."""
    if array.ndim == 1:
        return pa.array(array)
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])


def _header(member: IO[bytes]) -> Header:
    """Return shape, whether the order is Fortran's, and type of the array whose bytes follow."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(member)
    return shape, fortran, dtype


def _arrow_type(path: str, name: str, dtype: np.dtype[Any]) -> pa.DataType:
    """Return the Arrow type of an array's values; DataError for objects, which only pickle can read, and the like."""
    if dtype.kind == "U":
        return pa.string()
    if dtype.kind in "biuf" and dtype.itemsize <= 8:
        return pa.from_numpy_dtype(dtype.newbyteorder("="))
    raise DataError(
        f"{path}: the array {name} is of type {dtype}; expected numbers"
        + (
            ", or text of type 'U', for the labels: try y.astype(str)"
            if name == LABEL
            else ": convert it and save again"
        )
    )


def _blocks(archive: zipfile.ZipFile, name: str, max_rows: int) -> Iterator[NDArray[Any]]:
    """Yield consecutive rows of an array, at most `max_rows` at a time, without reading it whole.

    numpy.load would keep a second copy of all rows. Reading to the end makes zipfile check the member's checksum.
    """
    with archive.open(f"{name}.npy") as member:
        shape, fortran, dtype = _header(member)
        if fortran and len(shape) > 1:  # the rows are not consecutive: this one has to be read whole
            array = _values(member, (shape[1], shape[0]), dtype).T
            for start in range(0, shape[0], max_rows):
                yield np.ascontiguousarray(array[start : start + max_rows])
        else:
            for start in range(0, shape[0], max_rows):
                yield _values(member, (min(max_rows, shape[0] - start), *shape[1:]), dtype)
        if member.read(1):
            raise ValueError(f"array {name} is longer than its header says")


def _values(member: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Read an array of the given shape, in this machine's byte order."""
    size = int(np.prod(shape)) * dtype.itemsize
    data = member.read(size)
    if len(data) != size:
        raise EOFError("an array ends before its last row")
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def open_npz(paths: Sequence[str], config: DataConfig, _: pa.Schema | None) -> list[NpzFile]:
    """Open archives, with the array of weights that the configuration names."""
    return [NpzFile.open(path, config.weight) for path in paths]
