"""Finds the examples that made a step's loss or gradient non-finite, by computing its shards again."""

from __future__ import annotations

import numpy as np

from distsgd.core.backprop import forward
from distsgd.core.workspace import Workspace
from distsgd.data.gatherer import Gatherer
from distsgd.engine.snapshot import Snapshot
from distsgd.engine.spec import RunSpec

NAMED_ROWS = 5
"""Maximum number of offending rows in a message."""


def offending_rows(spec: RunSpec, state: Snapshot) -> str:
    """Return a clause that names the first shard with non-finite losses in `state`, and its first such rows.

    Rows are counted from 0 among the training rows, after the held-out rows have been removed.
    """
    sampler, data, net = spec.plan.sampler, spec.data, spec.net
    batch = Gatherer(data.train, data.transform, sampler.max_shard_count, "cpu")
    workspace = Workspace(net, sampler.max_shard_count, np)
    parameters = net.split(state.parameters)
    shards = range(sampler.num_shards)
    with np.errstate(all="ignore"):
        for shard, rows in zip(shards, sampler.shard_rows(range(state.step, state.step + 1), shards), strict=True):
            X, y, _ = batch.gather(rows)
            losses = workspace.loss.losses(forward(parameters, X, workspace), y, np)
            bad = rows[~np.isfinite(losses)]
            if len(bad):
                named = ", ".join(map(str, bad[:NAMED_ROWS]))
                return f"first in shard {shard}, at {len(bad)} of its {len(rows)} training rows: {named}"
    return "although every example's loss is: the sum of the gradients overflowed"
