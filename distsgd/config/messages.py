"""Error messages for invalid configuration keys and values."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from distsgd.errors import nearest
from distsgd.system.secrets import redacted_text

SHOWN = 100
"""Maximum number of characters of an invalid value that a message shows."""

SECRET = "tracking.uri"
"""The key whose value may contain a password."""


SYNONYMS = {
    "learning_rate": "optim.lr",
    "learning_rate_init": "optim.lr",
    "eta": "optim.lr",
    "weight_decay": "optim.l2",
    "lambda": "optim.l2",
    "hidden_size": "model.hidden",
    "hidden_layer_sizes": "model.hidden",
    "hidden_units": "model.hidden",
    "batchsize": "train.batch_size",
    "n_epochs": "train.epochs",
    "num_epochs": "train.epochs",
    "max_iter": "train.epochs",
    "random_state": "train.seed",
    "num_workers": "run.workers",
    "n_jobs": "run.workers",
    "target": "data.label",
    "tracking_uri": "tracking.uri",
    "experiment_name": "tracking.experiment",
}
"""What PyTorch, scikit-learn and MLflow call a key."""


def nearest_key(key: str, known: list[str]) -> str:
    """Return the hint for the known key nearest to `key`, which may lack its section or have a wrong one."""
    by_name = {name.split(".", 1)[1]: name for name in known}
    name = key.rsplit(".", 1)[-1].replace("-", "_")
    if name in SYNONYMS:
        return f" (did you mean {SYNONYMS[name]!r}?)"
    if name in by_name:
        return nearest(by_name[name], known)
    return nearest(key, known) or nearest(name, by_name)


def sentences(error: ValidationError) -> str:
    """Return pydantic's findings as `key is ...: input should ...`, one for each key."""
    found: dict[str, str] = {}
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"][:2])
        message = problem["msg"].removeprefix("Value error, ")
        expected = message[0].lower() + message[1:]
        if problem["type"] == "string_type" and isinstance(problem["input"], int | float):
            expected += f'; put it in quotes, "{problem["input"]}"'
            if len(problem["loc"]) == 2:
                expected += f""" (in a shell: --set '{key}="{problem["input"]}"')"""
        if len(problem["loc"]) < 2:  # an error about several keys together
            found[message] = message
        elif key not in found:
            value = problem["input"]
            found[key] = f"{key} is {f'a {type(value).__name__}' if key == SECRET else shown(value)}: {expected}"
        elif expected not in found[key]:  # of another member of a union
            found[key] += f", or {expected}"
    return "; ".join(found.values())


def shown(value: Any) -> str:
    """Return the repr of an invalid value, without secrets and shortened if it is long."""
    try:
        text = redacted_text(repr(value))
    except (ValueError, RecursionError):  # integers of more than 4,300 digits, tables nested without end
        return f"of type {type(value).__name__} and too large to print"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text):,} characters)"
