"""Whether a net's parameters fit into memory, asked before anything of their size is allocated."""

from __future__ import annotations

from distsgd.config import Config
from distsgd.core.net import Net
from distsgd.core.update_rules import update_rule
from distsgd.errors import ResourceError
from distsgd.system.memory import memory_limit

DRIVER_COPIES = 3
"""Vectors of parameter size that a driver holds: the first parameters, a snapshot, and a checkpoint being written."""

SERVER_COPIES = 2
"""Those of a parameter server: its two parameter buffers; and two of each state vector of the update rule."""

WORKER_COPIES = 2
"""Those of a worker, at least: the sum of its shards' gradients, and one more to add to it."""


def check_parameters_fit(config: Config, features: int, classes: int) -> None:
    """Raise ResourceError if the parameters and gradients of a run need more memory than this process may use.

    It is a lower bound, for the driver, the server and one worker on this machine: whatever is refused here fails.
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
