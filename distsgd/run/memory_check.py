"""Checks whether a net fits into memory, before anything of its size is allocated."""

from __future__ import annotations

from distsgd.config import Config
from distsgd.core.net import Net
from distsgd.core.portable.workspace import workspace_bytes
from distsgd.core.predictor import BLOCK
from distsgd.core.update_rules import update_rule
from distsgd.core.workspace import hidden_bytes
from distsgd.engine.portable_worker import piece_rows
from distsgd.errors import ResourceError
from distsgd.system.memory import memory_limit

DRIVER_COPIES = 3
"""Parameter-sized vectors in the driver: the initial parameters, a snapshot, and a checkpoint being written."""

SERVER_COPIES = 2
"""The same in the parameter server: two parameter buffers; plus two copies of each state vector of the update rule."""

WORKER_COPIES = 2
"""The minimum in a worker: the sum of its shards' gradients, and one gradient to add to it."""


def check_net_fits(config: Config, features: int, classes: int, *, rows: int, held_out: int) -> None:
    """Raise ResourceError if a run with so many training and held-out rows needs more memory than this process may use.

    This is a lower bound, for the driver, the server and one worker on this machine: a run refused here would fail.
    """
    net = Net(features, config.model.hidden, classes)
    state = 2 * len(update_rule(config.optim).slots)
    batch, block = min(config.train.batch_size, rows), min(BLOCK, held_out)
    parameters = 4 * net.size * (DRIVER_COPIES + SERVER_COPIES + state)
    if config.train.arithmetic == "portable":
        # In float64: the gradient, and the workspaces with the parameters on their grids.
        workspaces = [piece_rows(net, batch), *([block] if held_out else [])]
        parameters += 8 * net.size * (1 + len(workspaces))
        activations = sum(workspace_bytes(net, count) - 8 * net.size for count in workspaces)
    else:
        parameters += 4 * net.size * WORKER_COPIES
        activations = hidden_bytes(net, -(-batch // config.train.num_shards)) + hidden_bytes(net, block)
    limit = memory_limit()
    if parameters + activations > limit:
        what = "a mini-batch" if config.train.arithmetic == "portable" else "the hidden layer's activations"
        remedy = "lower model.hidden" if net.hidden else "train on fewer features"
        raise ResourceError(
            f"a net of {net.widths} has {net.size:,} parameters, for which a run needs "
            f"{(parameters + activations) / 2**30:.1f} GiB of memory or more, {activations / 2**30:.1f} of them for "
            f"{what}, and this process may use {limit / 2**30:.1f}; {remedy}"
        )
