"""A few dozen steps of SGD by the portable functions alone, and the hash of the weights: NumPy is all it needs.

`python -m benchmarks.portable_loop` prints a line of JSON with the hash for each configuration. With `--blas PATH` the
matrix products are those of another library, by its `cblas_dgemm`. benchmarks/portable.py runs it in many ways.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import platform
from collections.abc import Callable
from typing import Any

import numpy as np

from distsgd.core.backprop import loss_and_gradient_sums as fast_sums
from distsgd.core.net import Net
from distsgd.core.portable.backprop import loss_and_gradient_sums
from distsgd.core.portable.bounds import DataBounds
from distsgd.core.portable.initial import initial
from distsgd.core.portable.step import Grids
from distsgd.core.portable.update import gradient
from distsgd.core.portable.workspace import PortableWorkspace
from distsgd.core.workspace import Workspace

CONFIGURATIONS: dict[str, tuple[Net, str]] = {
    "784-64-10 relu softmax, bytes": (Net(784, 64, 10), "bytes"),
    "200-48-7 gelu hinge, normal": (Net(200, 48, 7, activation="gelu", loss="hinge"), "normal"),
    "50-32-3 tanh logistic, ill-scaled": (Net(50, 32, 3, activation="tanh", loss="logistic"), "ill-scaled"),
    "120-40-4 elu squared, normal": (Net(120, 40, 4, activation="elu", loss="squared"), "normal"),
    "300-0-10 softmax, smoothed": (Net(300, 0, 10, label_smoothing=0.1), "normal"),
}
"""Nets, and the kind of their synthetic data, by name."""

ROWS, BATCH = 512, 96

Product = Callable[..., Any]


def table(net: Net, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return rows X (ROWS, D) and targets y, from raw words by exact operations."""
    words = np.random.Philox(key=[7, net.features])
    uniform = (words.random_raw(ROWS * net.features) >> np.uint64(40)).reshape(ROWS, -1)  # 24 bits
    if kind == "bytes":
        X = (uniform >> np.uint64(16)).astype(np.uint8)
    else:
        X = (uniform.astype(np.float32) - np.float32(2**23)) * np.float32(2.0**-22)
        if kind == "ill-scaled":
            X *= (2.0 ** (np.arange(net.features) % 23 - 11)).astype(np.float32)
    raw = (words.random_raw(ROWS * net.classes) >> np.uint64(40)).reshape(ROWS, -1)
    if net.loss == "logistic":
        return X, (raw & np.uint64(1)).astype(np.float32)
    if net.loss == "squared":
        return X, raw.astype(np.float32) * np.float32(2.0**-24)
    return X, (raw[:, 0] % np.uint64(net.classes)).astype(np.int64)


def portable_hash(net: Net, kind: str, steps: int, product: Product | None = None) -> str:
    """Return the SHA-256 of the weights after some steps, whose mini-batches are cut in two at places that differ."""
    X, y = table(net, kind)
    factor = float(np.float32(1) / np.float32(255)) if kind == "bytes" else 1.0
    flat, whole = initial(net, 1, 0.05 if not net.hidden else None), slice(0, net.size)
    grids, workspace = Grids(net, DataBounds.of(X, y, factor=factor), BATCH), PortableWorkspace(net, BATCH, np)
    if product is not None:
        workspace.product = product
    total, part, g = np.empty(net.size), np.empty(net.size), np.empty(net.size, np.float32)
    for step in range(steps):
        rows, cut = (np.arange(BATCH) * 5 + step * BATCH) % ROWS, 1 + step * 37 % (BATCH - 1)
        of_step, parameters = grids.of(net.split(flat)), net.split(flat)
        total.fill(0)
        for index in (rows[cut:], rows[:cut]):
            out = net.split(part)
            loss_and_gradient_sums(parameters, X[index], y[index], grids=of_step, out=out, workspace=workspace)
            total += part
        gradient(total, whole, net, grids, g, np)
        g *= np.float32(_rate(kind) / BATCH)
        flat -= g
    return hashlib.sha256(flat.tobytes()).hexdigest()


def fast_hash(net: Net, kind: str, steps: int) -> str:
    """Return the same for the default arithmetic, from the same initial weights."""
    X, y = table(net, kind)
    if kind == "bytes":
        X = X.astype(np.float32) * (np.float32(1) / np.float32(255))
    flat, g = initial(net, 1, 0.05 if not net.hidden else None), np.empty(net.size, np.float32)
    workspace = Workspace(net, BATCH, np)
    for step in range(steps):
        rows = (np.arange(BATCH) * 5 + step * BATCH) % ROWS
        fast_sums(net.split(flat), X[rows], y[rows], out=net.split(g), workspace=workspace)
        g *= np.float32(_rate(kind) / BATCH)
        flat -= g
    return hashlib.sha256(flat.tobytes()).hexdigest()


def _rate(kind: str) -> float:
    return 2.0**-16 if kind == "ill-scaled" else 2.0**-5


def product_of(path: str) -> Product:
    """Return the matrix product by the `cblas_dgemm` of a library with 32-bit integers, as `np.dot` into `out`."""
    dgemm = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL).cblas_dgemm
    integer, real, pointer = ctypes.c_int, ctypes.c_double, ctypes.c_void_p
    dgemm.argtypes = [*[integer] * 6, real, pointer, integer, pointer, integer, real, pointer, integer]
    dgemm.restype = None

    def layout(M: np.ndarray) -> tuple[int, np.ndarray, int]:
        if M.flags.c_contiguous:
            return 111, M, max(M.shape[1], 1)
        M = M if M.flags.f_contiguous else np.asfortranarray(M)
        return 112, M, max(M.shape[0], 1)

    def product(A: np.ndarray, B: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        A2 = A[None] if A.ndim == 1 else A
        if out is None:
            out = np.empty((A2.shape[0], B.shape[1]))
        (trans_a, A2, lda), (trans_b, B, ldb) = layout(A2), layout(B)
        (m, k), n = A2.shape, B.shape[1]
        places = (A2.ctypes.data, lda, B.ctypes.data, ldb, 0.0, out.ctypes.data, n)
        dgemm(101, trans_a, trans_b, m, n, k, 1.0, *places)
        return out

    return product


def main() -> None:
    """Print the hashes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--first", type=int, default=len(CONFIGURATIONS), help="how many configurations")
    parser.add_argument("--fast", action="store_true", help="also those of the default arithmetic")
    parser.add_argument("--blas", help="another BLAS library")
    given = parser.parse_args()
    product = product_of(given.blas) if given.blas else None
    found = {"machine": platform.machine(), "numpy": np.__version__, "portable": {}, "fast": {}}
    with np.errstate(all="ignore"):
        for name, (net, kind) in list(CONFIGURATIONS.items())[: given.first]:
            found["portable"][name] = portable_hash(net, kind, given.steps, product)
            if given.fast:
                found["fast"][name] = fast_hash(net, kind, given.steps)
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()
