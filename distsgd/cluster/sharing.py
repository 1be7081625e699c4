"""Whether the nodes of a cluster see the same folder."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

LOOK_S = 60.0
"""Seconds within which a node must have looked; one that has not is taken for one that does not see the file."""


def nodes_that_lack(folder: Path) -> tuple[list[str], int]:
    """Return the names of the nodes that do not see what this process writes into `folder`, and the number of nodes.

    This process is connected to the cluster, and may write there.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    descriptor, name = tempfile.mkstemp(prefix=".distsgd-", dir=folder)
    try:
        os.close(descriptor)
        exists = ray.remote(num_cpus=0, max_retries=0)(os.path.exists)
        looks = {
            exists.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                name
            ): str(node["NodeManagerHostname"])
            for node in alive
        }
        ready, _ = ray.wait(list(looks), num_returns=len(looks), timeout=LOOK_S)
        seen = set()
        for look in ready:
            with contextlib.suppress(ray.exceptions.RayError):
                if ray.get(look):
                    seen.add(look)
    finally:
        os.unlink(name)
    return sorted(node for look, node in looks.items() if look not in seen), len(alive)
