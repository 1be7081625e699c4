"""Runs that are made up: of distsgd, with any parameters and final values."""

from __future__ import annotations

from typing import Any

from distsgd.compare.runs import Curve, Run
from distsgd.config import Config


def made_up(
    accuracy: float = 0.9,
    *,
    seed: int = 0,
    losses: tuple[float, ...] = (1.0, 0.5, 0.25),
    digest: str = "d1",
    **values: Any,
) -> Run:
    """Return a finished run; a keyword's `__` stands for a dot."""
    keys = {key.replace("__", "."): value for key, value in values.items() if key[0].islower()}
    fields = {key: keys.pop(key) for key in list(keys) if "." not in key}
    config = Config.build({"train.seed": seed} | keys)
    steps = [10 * (place + 1) for place in range(len(losses))]
    accuracies = [(steps[0], accuracy / 2, 1e12), (steps[-1], accuracy, 1e12 + 2000)]
    name = fields.pop("name", f"run of {seed}")
    given = {
        "name": name,
        "source": f"runs/{name}",
        "key": f"{accuracy}-{seed}-{sorted(keys.items())}",
        "status": "FINISHED",
        "parameters": config.parameters(),
        "exact": True,
        "data_digest": digest,
        "version": "0.1.0",
        "rows": 1437,
        "curves": {
            "train/loss": Curve.of([(s, loss, 1e12 + 100 * s) for s, loss in zip(steps, losses, strict=True)]),
            "val/loss": Curve.of([(s, loss * 1.1, 1e12 + 100 * s) for s, loss in zip(steps, losses, strict=True)]),
            "val/accuracy": Curve.of(accuracies),
        },
    }
    return Run(**(given | fields))
