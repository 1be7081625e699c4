"""`distsgd await-nodes`, which the Slurm script of `distsgd submit` runs."""

from __future__ import annotations

import click


@click.command(hidden=True)
@click.argument("address")
@click.argument("nodes", type=int)
def await_nodes(address: str, nodes: int) -> None:
    """Wait until NODES nodes have joined the Ray cluster at ADDRESS."""
    from distsgd.cluster.awaiting import await_nodes as wait

    wait(address, nodes)
