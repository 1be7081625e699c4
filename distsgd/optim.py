"""Update rules and learning-rate schedules, as pure functions.

The gradient of a mini-batch of N examples is formed once, from the sum over its shards, and then applied:

    g = (Σ_i ∂L_i/∂W) / N + 2λW        (biases: without 2λW)

    plain       W ← W − αg
    momentum    v ← μv − αg,  W ← W + v                    (Polyak, 1964; Sutskever et al., 2013)
    Nesterov    v ← μv − αg,  W ← W + μv − αg              (Bengio et al., "Advances in optimizing recurrent
                                                            networks", 2013, eq. 7: the look-ahead weights)

All of it is elementwise, so it may be done in blocks of any size, by any number of threads, with the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from distsgd.config import OptimConfig
from distsgd.model import Net

Vector = np.ndarray

BLOCK = 16384
"""Numbers in a block: four arrays of it, 256 KB in all, stay in a core's second-level cache."""


def blocks(net: Net) -> Iterator[tuple[slice, bool]]:
    """Yield the slices that the flat parameter vector is updated in, each with whether L2 applies to it."""
    for name, part in zip(net.bounds._fields, net.bounds, strict=True):
        for start in range(part.start, part.stop, BLOCK):
            yield slice(start, min(start + BLOCK, part.stop)), name in ("W1", "W2")


def average(total: Vector, count: int, weights: Vector, l2: float, *, out: Vector, scratch: Vector) -> None:
    """Write g = total / count + 2·l2·weights to `out`; l2 is 0 for biases. All float32, of one length."""
    np.divide(total, np.float32(count), out=out)
    if l2:
        np.multiply(weights, np.float32(2 * l2), out=scratch)
        out += scratch


def update(
    weights: Vector,
    g: Vector,
    velocity: Vector | None,
    *,
    lr: float,
    config: OptimConfig,
    out: Vector,
    velocity_out: Vector | None,
) -> None:
    """Write the updated weights to `out` and the updated velocity to `velocity_out`; g (float32) is overwritten.

    Without velocity it is plain gradient descent. `out` and `velocity_out` may be the arrays they replace.
    """
    g *= np.float32(lr)
    if velocity is None or velocity_out is None:
        np.subtract(weights, g, out=out)
        return
    np.multiply(velocity, np.float32(config.momentum), out=velocity_out)
    velocity_out -= g
    if config.nesterov:
        np.subtract(weights, g, out=out)
        np.multiply(velocity_out, np.float32(config.momentum), out=g)
        out += g
    else:
        np.add(weights, velocity_out, out=out)


def l2_loss(net: Net, flat: Vector, l2: float) -> float:
    """Return λ(ΣW1² + ΣW2²) of the flat parameters, each block's sum in float32 and their total in float64."""
    if not l2:
        return 0.0
    return l2 * math.fsum(float(np.dot(flat[part], flat[part])) for part, decays in blocks(net) if decays)


def learning_rate(config: OptimConfig, step: int, *, steps_per_epoch: int, total_steps: int) -> float:
    """Return the learning rate α of step `step`, counted from 0, of a run of `total_steps`.

    During warm-up it is α·(step + 1)/(warmup_steps + 1). After it: `constant`, α; `step`, α·decay_factor^k after
    k·decay_every epochs; `cosine`, from α down to final_lr at the last step (Loshchilov and Hutter, "SGDR", 2017).
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "step":
        return config.lr * config.decay_factor ** math.floor(step / steps_per_epoch / config.decay_every)
    if config.schedule == "cosine":
        last = max(total_steps - 1 - config.warmup_steps, 1)
        progress = min((step - config.warmup_steps) / last, 1.0)
        return config.final_lr + (config.lr - config.final_lr) * (1 + math.cos(math.pi * progress)) / 2
    return config.lr
