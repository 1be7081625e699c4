"""Update rules and learning-rate schedules, as pure functions.

The gradient of a mini-batch of N examples is formed once, from the sum over its shards, and then applied:

    g = (Σ_i ∂L_i/∂W) / N + 2λW        (biases: without 2λW)

    plain       W ← W − αg
    momentum    v ← μv − αg,  W ← W + v                    (Polyak, 1964; Sutskever et al., 2013)
    Nesterov    v ← μv − αg,  W ← W + μv − αg              (Bengio et al., "Advances in optimizing recurrent
                                                            networks", 2013, eq. 7: the look-ahead weights)

With `clip_norm` c, g is multiplied by min(1, c / ‖g‖), ‖g‖ over all parameters (Pascanu et al., "On the difficulty of
training recurrent neural networks", 2013). All of it is elementwise but for that norm, whose blocks are fixed, so it
may be done by any number of threads with the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from distsgd.config import OptimConfig
from distsgd.core.net import Net

Vector = np.ndarray

BLOCK = 131072
"""Numbers in a block, 512 KB an array: with smaller ones the calls, and two threads' turns at the interpreter, cost
more than the second-level cache saves (3.2 million parameters: 3.2 ms in blocks of 64 KB, 2.3 in these, 1.4 on two
threads)."""


class Block(NamedTuple):
    """Consecutive parameters that are updated together."""

    part: slice
    """Where they are in the flat vector."""

    biases: tuple[slice, ...]
    """Where, within the block, L2 does not apply."""


def blocks(net: Net) -> Iterator[Block]:
    """Yield the blocks that the flat parameter vector is updated in."""
    biases = (net.bounds.b1, net.bounds.b2)
    for start in range(0, net.size, BLOCK):
        stop = min(start + BLOCK, net.size)
        inside = [(max(bias.start, start) - start, min(bias.stop, stop) - start) for bias in biases]
        yield Block(slice(start, stop), tuple(slice(lo, hi) for lo, hi in inside if lo < hi))


def update(
    total: Vector,
    total_weight: float,
    weights: Vector,
    velocity: Vector | None,
    *,
    lr: float,
    biases: tuple[slice, ...],
    config: OptimConfig,
    out: Vector,
    velocity_out: Vector | None,
    scratch: Vector,
) -> None:
    """Write a block's updated weights to `out` and its updated velocity to `velocity_out`; `total` is overwritten.

    `total` is the sum of the gradients of examples whose weights add up to `total_weight`. All vectors are float32, of
    one length. Without velocity it is plain gradient descent. `weights` and `velocity` are left as they are.
    """
    total *= np.float32(lr / total_weight)
    decay = 2 * config.l2 * lr
    if decay:  # not as a factor 1 − 2αλ of the weights: float32 would round a small αλ badly, or to nothing
        np.multiply(weights, np.float32(decay), out=scratch)
        for bias in biases:
            scratch[bias] = 0
        total += scratch
    if velocity is None or velocity_out is None:
        np.subtract(weights, total, out=out)
        return
    np.multiply(velocity, np.float32(config.momentum), out=velocity_out)
    velocity_out -= total
    if config.nesterov:
        np.subtract(weights, total, out=out)
        np.multiply(velocity_out, np.float32(config.momentum), out=scratch)
        out += scratch
    else:
        np.add(weights, velocity_out, out=out)


def squared_norm(
    total: Vector, total_weight: float, weights: Vector, *, biases: tuple[slice, ...], l2: float, scratch: Vector
) -> float:
    """Return ‖total / total_weight + 2·l2·weights‖² of one block, biases without the second term.

    `total` is overwritten.
    """
    total /= np.float32(total_weight)
    np.multiply(weights, np.float32(2 * l2), out=scratch)
    for bias in biases:
        scratch[bias] = 0
    total += scratch
    square = float(np.dot(total, total))
    return square if math.isfinite(square) else float(np.square(total, dtype=np.float64).sum())


def clip_factor(config: OptimConfig, squares: list[float]) -> float:
    """Return what clipping multiplies the gradient by, from its blocks' squared norms."""
    norm = math.sqrt(math.fsum(squares))
    return 1.0 if config.clip_norm is None or norm <= config.clip_norm else config.clip_norm / norm


def l2_loss(net: Net, flat: Vector, l2: float) -> float:
    """Return λ(ΣW1² + ΣW2²) of the flat parameters, each block's sum in float32 and their total in float64."""
    if not l2:
        return 0.0
    starts = [
        (start, part.stop) for part in (net.bounds.W1, net.bounds.W2) for start in range(part.start, part.stop, BLOCK)
    ]
    chunks = [flat[start : min(start + BLOCK, stop)] for start, stop in starts]
    return l2 * math.fsum(float(np.dot(piece, piece)) for piece in chunks)


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
