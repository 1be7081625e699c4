"""Waits until a cluster has all of its nodes."""

from __future__ import annotations

import time

from distsgd.cluster.joining import join, leave
from distsgd.errors import ResourceError, counted

WAIT_S = 300.0
"""Seconds within which all nodes must have joined."""


def await_nodes(address: str, nodes: int) -> None:
    """Return once `nodes` nodes have joined the cluster at `address`; ResourceError if that takes WAIT_S."""
    import ray

    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            join(address)
            break
        except ResourceError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
    try:
        while (found := sum(node["Alive"] for node in ray.nodes())) < nodes:  # type: ignore[no-untyped-call]
            if time.monotonic() > deadline:
                raise ResourceError(
                    f"only {found} of {counted(nodes, 'node')} joined the cluster at {address!r} in {WAIT_S:g} s"
                )
            time.sleep(0.5)
    finally:
        leave()
