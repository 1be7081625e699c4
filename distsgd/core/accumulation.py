"""Matrix products accumulated into the output: `sgemm` with beta = 1, from the BLAS that NumPy has loaded.

NumPy's own products can only replace their output, so the sum of two leaves needs a second buffer of the gradient's
size and a pass over both. For shards of a few hundred rows, `C ← AᵀB + C` gives the canonical sum `leaf + leaf` with
the same bits, because the product is summed in registers before it is added. BLAS does not promise that, so it is
tested on the run's own shapes first; where the bits differ, or the BLAS is unknown, leaves are added one by one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable

import numpy as np
import threadpoolctl

from distsgd.core.net import Net

ROW_MAJOR, NO_TRANSPOSE, TRANSPOSE = 101, 111, 112

SYMBOLS = {"scipy_cblas_sgemm64_": ctypes.c_int64, "cblas_sgemm64_": ctypes.c_int64, "cblas_sgemm": ctypes.c_int}
"""The names of `cblas_sgemm` in NumPy's BLAS builds, and the type of its integer arguments."""

TRIED = 4096
"""Minimum number of values to compare. Where NumPy uses another routine, for a single row or column, at least one
number in 140 had other bits; the few numbers of a tiny net may agree by chance."""


class Accumulator:
    """`C ← AᵀB + C` for float32 matrices."""

    def __init__(self) -> None:
        """Raise OSError if NumPy's BLAS cannot be found, or has no function of a known name."""
        libraries = threadpoolctl.get_cached_controller().info()
        paths = [str(found["filepath"]) for found in libraries if found["user_api"] == "blas"]
        for path in sorted(paths, key=lambda path: "numpy" not in path.lower()):
            library = ctypes.CDLL(path)
            for name, integer in SYMBOLS.items():
                if hasattr(library, name):
                    self._sgemm = getattr(library, name)
                    enum, pointer = ctypes.c_int, ctypes.c_void_p
                    self._sgemm.restype = None
                    self._sgemm.argtypes = [
                        *(enum, enum, enum, integer, integer, integer),
                        *(ctypes.c_float, pointer, integer, pointer, integer, ctypes.c_float, pointer, integer),
                    ]
                    return
        raise OSError(f"none of {', '.join(SYMBOLS)} is in {paths}")

    def add_product(self, A: np.ndarray, B: np.ndarray, C: np.ndarray) -> None:
        """Add AᵀB to C (m, n), for A (k, m) and C in C order and B (k, n) in C or Fortran order, all float32."""
        (k, m), n = A.shape, B.shape[1]
        across = B.strides[1] == 4
        order, ldb = (NO_TRANSPOSE, B.strides[0]) if across else (TRANSPOSE, B.strides[1])
        ldb = max(ldb // 4, n if across else k)  # strides along an axis of length 1 may be anything
        self._sgemm(
            *(ROW_MAJOR, TRANSPOSE, order, m, n, k, 1.0, A.ctypes.data, A.strides[0] // 4),
            *(B.ctypes.data, ldb, 1.0, C.ctypes.data, C.strides[0] // 4),
        )


def exact_accumulator(net: Net, counts: Iterable[int]) -> Accumulator | None:
    """Return an accumulator if it gives the bits of separate additions for shards of each size in `counts`.

    For a small net there is none: an addition takes no longer than a call, and it would be tried for milliseconds.
    """
    if net.size < TRIED // 2:
        return None
    try:
        accumulator = Accumulator()
    except OSError:
        return None
    products = [(net.hidden or net.features, net.classes, True)]
    if net.hidden:
        products.append((net.features, net.hidden, False))
    for count in counts:
        for m, n, fortran in products:
            if not _is_exact(accumulator, count, m, n, fortran=fortran):
                return None
    return accumulator


def _is_exact(accumulator: Accumulator, count: int, m: int, n: int, *, fortran: bool) -> bool:
    """Return whether a product (m, n) over `count` examples has the bits of a separate addition in all of TRIED."""
    generator = np.random.default_rng(0)

    def draw(rows: int, columns: int) -> np.ndarray:
        return generator.standard_normal((rows, columns), np.float32)

    for _ in range(0, TRIED, m * n):
        A, C = draw(count, m), draw(m, n)
        B = np.maximum(draw(n, count), 0).T if fortran else np.maximum(draw(count, n), 0)  # zeros as behind a ReLU
        expected = C + A.T @ B
        accumulator.add_product(A, B, C)
        if C.tobytes() != expected.tobytes():
            return False
    return True
