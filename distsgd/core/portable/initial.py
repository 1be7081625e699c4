"""Initial weights with the same bits on every machine: normal numbers from raw words, by basic operations.

The words are Philox's, keyed by the seed and the layer, whose stream NumPy guarantees. A word becomes a probability,
and that the normal quantile, by the rational approximations of Wichura, "Algorithm AS 241: the percentage points of the
normal distribution", 1988, PPND16, which is accurate to about 1e-16.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distsgd.core.activations import ACTIVATIONS
from distsgd.core.net import Net
from distsgd.core.portable.elementary import Elementary

Floats = NDArray[np.float64]

BLOCK = 2**16
"""Numbers that are drawn together."""

_CENTRE = (
    *(3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4),
    *(4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3),
)
_CENTRE_BELOW = (
    *(1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3),
    *(2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3),
)
_TAIL = (
    *(1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0),
    *(1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4),
)
_TAIL_BELOW = (
    *(1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1),
    *(1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9),
)
_FAR = (
    *(6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1),
    *(2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7),
)
_FAR_BELOW = (
    *(1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2),
    *(7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15),
)


def initial(net: Net, seed: int, scale: float | None = None) -> NDArray[np.float32]:
    """Return initial parameters, flat (P,) float32: normal weights, zero biases. See Net.initial for their scale."""
    flat = np.zeros(net.size, np.float32)
    if not net.hidden and scale is None:
        return flat
    W1, _, W2, _ = net.split(flat)
    for layer, weights in enumerate((W1, W2)):
        deviation = scale if scale is not None else _deviation(net, *weights.shape)
        words, values = np.random.Philox(key=[seed, layer]), weights.reshape(-1)
        for start in range(0, len(values), BLOCK):
            part = values[start : start + BLOCK]
            # The upper 52 bits, and a half: neither 0 nor 1, symmetrical, and exact.
            centred = (words.random_raw(len(part)) >> np.uint64(12)).astype(np.float64)
            centred += 0.5 - 2.0**51
            centred *= 2.0**-52
            part[...] = normal_quantiles(centred) * deviation
    return flat


def _deviation(net: Net, fan_in: int, fan_out: int) -> float:
    """Return `Activation.initial_deviation` by basic operations."""
    activation = ACTIVATIONS[net.activation]
    if net.activation in ("tanh", "sigmoid"):
        return math.sqrt(2.0 / (fan_in + fan_out))
    slope = float(getattr(activation, "slope", 0.0))
    return math.sqrt(2.0 / ((1.0 + slope * slope) * fan_in))


def normal_quantiles(centred: Floats) -> Floats:
    """Return the normal quantiles of the probabilities ½ + `centred` (n,), for |centred| < ½."""
    square = 0.180625 - centred * centred
    values: Floats = centred * _polynomial(_CENTRE, square) / _polynomial(_CENTRE_BELOW, square)
    tails = np.flatnonzero(np.abs(centred) > 0.425)
    probabilities = 0.5 - np.abs(centred[tails])
    Elementary(np, max(len(tails), 1)).log(probabilities)
    root = np.sqrt(-probabilities)
    near = root - 1.6
    far = root - 5.0
    found = np.where(
        root <= 5.0,
        _polynomial(_TAIL, near) / _polynomial(_TAIL_BELOW, near),
        _polynomial(_FAR, far) / _polynomial(_FAR_BELOW, far),
    )
    values[tails] = np.copysign(found, centred[tails])
    return values


def _polynomial(coefficients: Sequence[float], x: Floats) -> Floats:
    """Return Σ_i c_i x^i by Horner's rule."""
    total = np.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total *= x
        total += c
    return total
