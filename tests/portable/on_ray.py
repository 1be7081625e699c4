"""Ways to train the same run on Ray."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from distsgd.cluster.connection import joined
from distsgd.engine.spec import RunSpec
from distsgd.run.trainer import environment, start_trainer
from portable.configurations import STEPS, spec_of
from portable.ways import digest

WAYS = ((2, "auto"), (3, "ray"))
"""Numbers of workers, and links."""


def on_ray(number: int) -> Iterator[tuple[str, str]]:
    """Yield the name and the digest of several ways; in a session of Ray, which is used for all of them."""
    for workers, link in WAYS:
        values = {"run__workers": workers, "run__link": link, "run__device": "cpu", "train__log_every": 1}
        yield f"Ray, {workers} workers, link {link}", _trained(spec_of(number, **values))


def _trained(spec: RunSpec) -> str:
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(joined(spec.config, environment(spec.config)))
        of_run, trainer = start_trainer(
            spec.config, spec.data, spec.start, cluster, stack, lambda _: None, name="distsgd"
        )
        assert trainer.run(STEPS, lambda: None) == STEPS
        losses = [record["train/loss"] for record in trainer.take_records()]
        return digest(of_run, trainer.snapshot(), losses)
