"""Checks whether a net's parameters fit into memory, before anything of their size is allocated."""

from __future__ import annotations

from distsgd.config import Config
from distsgd.core.net import Net
from distsgd.core.update_rules import update_rule
from distsgd.errors import ResourceError
from distsgd.system.memory import memory_limit

DRIVER_COPIES = 3
"""Parameter-sized vectors in the driver: the initial parameters, a snapshot, and a checkpoint being written."""

SERVER_COPIES = 2
"""The same in the parameter server: two parameter buffers; plus two copies of each state vector of the update rule."""

WORKER_COPIES = 2
"""The minimum in a worker: the sum of its shards' gradients, and one gradient to add to it."""


def check_parameters_fit(config: Config, features: int, classes: int) -> None:
    """Raise ResourceError if the parameters and gradients of a run need more memory than this process may use.

    This is a lower bound, for the driver, the server and one worker on this machine: a run refused here would fail.
    """
    net = Net(features, config.model.hidden, classes)
    state = 2 * len(update_rule(config.optim).slots)
    needed = 4 * net.size * (DRIVER_COPIES + SERVER_COPIES + state + WORKER_COPIES)
    limit = memory_limit()
    if needed > limit:
        raise ResourceError(
            f"a net of {features}-{config.model.hidden}-{classes} has {net.size:,} parameters, for which a run needs "
            f"{needed / 2**30:.1f} GiB of memory or more, and this process may use {limit / 2**30:.1f}; lower "
            "model.hidden"
        )
