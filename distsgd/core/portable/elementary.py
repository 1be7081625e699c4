"""Elementary functions of float64 arrays, in place, from basic operations: the same bits on every machine.

Each is a sequence of array operations + − × ÷ and of integer operations on the numbers' bits, without libm. Methods and
coefficients of exp, expm1 and log are those of FDLIBM 5.3 (Sun Microsystems, 1993), which are accurate to about one
unit in the last place; roundings in between differ from FDLIBM's, so the last bits may too.

An array is processed in chunks that stay in a core's cache. All arguments are contiguous float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

Array = Any
"""A NumPy or a CuPy array."""

CHUNK = 8192
"""Numbers that are processed together: eight arrays of so many float64 take 512 KB."""

_LOG2E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
"""ln 2 in two parts, of which the first has 20 trailing zeros, so that its product with an exponent is exact."""

_MAGIC = 1.5 * 2.0**52
_ONE = 1023 << 52
"""The bits of 1.0."""
_ROOT_HALF = 0x3FE6A09E667F3BCD
"""The bits of √½."""

_EXP = (
    *(1.66666666666666019037e-01, -2.77777777770155933842e-03, 6.61375632143793436117e-05),
    *(-1.65339022054652515390e-06, 4.13813679705723846039e-08),
)
_LOG = (
    *(6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01, 2.222219843214978396e-01),
    *(1.818357216161805012e-01, 1.531383769920937332e-01, 1.479819860511658591e-01),
)
_RATE = 0.3181980515339464  # 0.45/√2
_DENSITY = 0.3989422804014327  # 1/√(2π)
_NORMAL = (
    *(0.258989633233, 0.201009805978, 0.460169286965, -0.375800530746),
    *(0.857165638327, -0.494103249392, 0.0925694166798),
)
_LARGEST = 708.0
"""exp of this, and of its negative, are normal numbers."""


class Elementary:
    """The functions, with the buffers that they need."""

    def __init__(self, xp: ModuleType, size: int) -> None:
        """Make buffers for arrays of up to `size` numbers; longer ones take more chunks."""
        self._xp = xp
        self._count = max(1, min(size, CHUNK) if xp is np else size)
        self._buffers = xp.empty((7, self._count), xp.float64)

    def exp(self, x: Array) -> None:
        """Overwrite x by e^x, taken as if |x| were at most 708; NaN stays NaN."""
        xp = self._xp
        for part, _, power in self._reduced(x):
            xp.multiply(part, power, out=part)
            xp.add(part, power, out=part)

    def expm1(self, x: Array) -> None:
        """Overwrite x by exp(x) − 1, taken as if |x| were at most 708; NaN stays NaN."""
        xp = self._xp
        for part, scratch, power in self._reduced(x):
            xp.multiply(part, power, out=part)
            xp.subtract(power, 1.0, out=scratch)
            xp.add(part, scratch, out=part)

    def log(self, x: Array) -> None:
        """Overwrite x by its natural logarithm, for normal numbers above 0."""
        for part in self._chunks(x):
            self._log(part)

    def log1p(self, x: Array) -> None:
        """Overwrite x by log(1 + x), for x ≥ 0 with 1 + x finite; NaN stays NaN."""
        # u is 1 + x as rounded, and what it lacks, x − (u − 1), is exact up to x = 2; log has the slope 1/u there.
        xp = self._xp
        for part in self._chunks(x):
            u, rest = self._buffers[5, : len(part)], self._buffers[6, : len(part)]
            xp.add(part, 1.0, out=u)
            xp.subtract(u, 1.0, out=rest)
            xp.subtract(part, rest, out=rest)
            xp.divide(rest, u, out=rest)
            self._log(u)
            xp.add(u, rest, out=part)

    def tanh(self, x: Array) -> None:
        """Overwrite x by its hyperbolic tangent: −e/(e + 2), e = exp(−2|x|) − 1, with the sign of x; NaN stays NaN."""
        xp = self._xp
        for part in self._chunks(x):
            e, below = self._buffers[5, : len(part)], self._buffers[6, : len(part)]
            xp.absolute(part, out=e)
            xp.multiply(e, -2.0, out=e)
            self.expm1(e)
            xp.add(e, 2.0, out=below)
            xp.divide(e, below, out=e)
            xp.copysign(e, part, out=part)

    def sigmoid(self, x: Array) -> None:
        """Overwrite x by 1 / (1 + exp(−x)); NaN stays NaN."""
        xp = self._xp
        for part in self._chunks(x):
            xp.negative(part, out=part)
            self.exp(part)
            xp.add(part, 1.0, out=part)
            xp.divide(1.0, part, out=part)

    def gelu(self, x: Array, slope: Array) -> None:
        """Overwrite x by xΦ(x), Φ the standard normal distribution, and write Φ(x) + xφ(x), its slope, to `slope`.

        2Φ(−|x|) = exp(−x²/2)(c₁t + c₂t² + ...) with t = 1/(1 + 0.45|x|/√2), as in core/activations.py.
        """
        xp = self._xp
        for part, own in zip(self._chunks(x), self._chunks(slope), strict=True):
            t, tail = self._buffers[5, : len(part)], self._buffers[6, : len(part)]
            xp.absolute(part, out=t)
            xp.multiply(t, _RATE, out=t)
            xp.add(t, 1.0, out=t)
            xp.divide(1.0, t, out=t)
            _polynomial(t, _NORMAL, tail, xp)
            xp.multiply(tail, t, out=tail)
            xp.multiply(part, part, out=own)
            xp.multiply(own, -0.5, out=own)
            self.exp(own)
            xp.multiply(tail, own, out=tail)
            xp.subtract(1.0, tail, out=tail)
            xp.copysign(tail, part, out=tail)
            xp.multiply(tail, 0.5, out=tail)
            xp.add(tail, 0.5, out=tail)  # Φ(x)
            xp.multiply(own, _DENSITY, out=own)
            xp.multiply(own, part, out=own)
            xp.add(own, tail, out=own)
            xp.multiply(part, tail, out=part)

    def _chunks(self, x: Array) -> Iterator[Array]:
        flat = x.reshape(-1)
        for start in range(0, len(flat), self._count):
            yield flat[start : start + self._count]

    def _reduced(self, x: Array) -> Iterator[tuple[Array, Array, Array]]:
        """Overwrite x by exp(r) − 1, where x = k ln 2 + r and |r| ≤ ½ ln 2; yield each chunk, scratch, and 2^k.

        exp(r) − 1 = r + rc/(2 − c) with c = r − r²(P1 + r²(P2 + ...)).
        """
        xp = self._xp
        for r in self._chunks(x):
            k, power, c = self._buffers[:3, : len(r)]
            xp.minimum(r, _LARGEST, out=r)
            xp.maximum(r, -_LARGEST, out=r)
            xp.multiply(r, _LOG2E, out=power)
            xp.add(power, _MAGIC, out=power)  # its last bits are now those of the integer k
            xp.subtract(power, _MAGIC, out=k)
            pattern = power.view(xp.int64)
            xp.left_shift(pattern, 52, out=pattern)
            xp.add(pattern, _ONE, out=pattern)  # 2^k
            xp.multiply(k, _LN2_HIGH, out=c)
            xp.subtract(r, c, out=r)
            xp.multiply(k, _LN2_LOW, out=c)
            xp.subtract(r, c, out=r)
            square = k
            xp.multiply(r, r, out=square)
            _polynomial(square, _EXP, c, xp)
            xp.multiply(c, square, out=c)
            xp.subtract(r, c, out=c)
            xp.multiply(r, c, out=square)
            xp.subtract(2.0, c, out=c)
            xp.divide(square, c, out=c)
            xp.add(r, c, out=r)
            yield r, k, power

    def _log(self, x: Array) -> None:
        """Overwrite a chunk by its logarithm.

        x = 2^k (1 + f) with 1 + f between √½ and √2, and log(1 + f) = f − (f²/2 − s(f²/2 + R(s²))), s = f/(2 + f).
        """
        xp = self._xp
        k, s, R, square, half = self._buffers[:5, : len(x)]
        pattern, whole = x.view(xp.int64), R.view(xp.int64)
        xp.subtract(pattern, _ROOT_HALF, out=whole)
        xp.right_shift(whole, 52, out=whole)
        xp.copyto(k, whole)
        xp.left_shift(whole, 52, out=whole)
        xp.subtract(pattern, whole, out=pattern)
        f = x
        xp.subtract(f, 1.0, out=f)
        xp.add(f, 2.0, out=s)
        xp.divide(f, s, out=s)
        xp.multiply(s, s, out=square)
        _polynomial(square, _LOG, R, xp)
        xp.multiply(R, square, out=R)
        xp.multiply(f, f, out=half)
        xp.multiply(half, 0.5, out=half)
        xp.add(R, half, out=R)
        xp.multiply(R, s, out=R)
        xp.multiply(k, _LN2_LOW, out=s)
        xp.add(R, s, out=R)
        xp.subtract(half, R, out=half)
        xp.subtract(half, f, out=half)
        xp.multiply(k, _LN2_HIGH, out=k)
        xp.subtract(k, half, out=x)


def _polynomial(x: Array, coefficients: Sequence[float], out: Array, xp: ModuleType) -> None:
    """Write Σ_i c_i x^i to `out` by Horner's rule."""
    out.fill(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        xp.multiply(out, x, out=out)
        xp.add(out, c, out=out)
