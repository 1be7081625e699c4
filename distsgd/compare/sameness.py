"""What two runs share, as far as configuration and digests show: rows, their order, the initial weights, the steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from distsgd.compare.runs import Run
from distsgd.compare.settings import ROWS, deciding, differing, is_portable, text

ORDER = ("train.seed", "train.batch_size", "train.sampling")
"""What the order of the rows depends on, beside their number (core/sampling.py)."""

WEIGHTS = ("train.seed", "model.hidden", "model.activation", "model.loss", "model.scale")
"""What the initial weights depend on, beside the numbers of features and classes (Net.initial)."""


@dataclass(frozen=True)
class Parting:
    """Where the losses of two runs part."""

    equal_until: int | None
    """The last logged step up to which all losses are equal, to the last digit; None if the first ones differ."""
    differs_at: int | None
    """The first logged step after which they differ; None if all are equal."""
    compared: int
    """Number of steps that both have logged."""


@dataclass(frozen=True)
class Sameness:
    """What two runs share. None means that it is not known."""

    rows: bool | None
    order: bool | None
    weights: bool | None
    differs: dict[str, list[Any]]
    """What their results depend on and is not the same, with both values."""
    elsewhere: dict[str, list[Any]]
    """Other parameters that are not the same, on which no bit depends."""
    arithmetic: str | None
    """In what their arithmetic differs, which may change last bits; None if in nothing, or if it is not known."""
    parting: Parting | None
    """None if they have no logged step in common."""
    same_result: bool | None
    """Whether the trained weights are the same bits."""

    def sentences(self) -> list[str]:
        """Return it in words."""
        differs = (
            "what differs is " + _listed(self.differs) if self.differs else "nothing differs that a bit depends on"
        )
        if self.rows is None:
            begin = "whether these two runs saw the same rows is not known: not both are runs of distsgd"
        elif not self.rows:
            begin = "these two runs saw different rows"
        else:
            order = "in the same order" if self.order else "in another order"
            begin = f"these two runs saw the same rows {order} from {'the same' if self.weights else 'other'} weights"
        return [f"{begin}; {differs}", *self._rest()]

    def _rest(self) -> list[str]:
        found = []
        if self.elsewhere:
            found.append(f"no bit depends on what else differs: {_listed(self.elsewhere)}")
        if self.arithmetic is not None:
            found.append(f"their arithmetic differs, which may change last bits: {self.arithmetic}")
        if self.parting is not None:
            found.append(_parting_words(self.parting))
        if self.same_result is not None:
            found.append(f"their trained weights are {'the same bits' if self.same_result else 'different'}")
        return found


def _parting_words(parting: Parting) -> str:
    if parting.differs_at is None:
        return f"their training losses are equal, to the last digit, at all {parting.compared:,} steps that both logged"
    if parting.equal_until is None:
        return f"their training losses differ from the first step on that both logged, step {parting.differs_at:,}"
    return (
        f"their training losses are equal, to the last digit, up to step {parting.equal_until:,}, and part at step "
        f"{parting.differs_at:,}, as far as steps were logged"
    )


def _listed(values: dict[str, list[Any]]) -> str:
    """Return names with both values; of rows, whose values are digests, only the name."""
    parts = [key if key == ROWS else f"{key} ({text(found[0])} and {text(found[1])})" for key, found in values.items()]
    return ", ".join(parts)


def sameness(a: Run, b: Run) -> Sameness:
    """Return what two runs share."""
    differs = differing([deciding(a), deciding(b)])
    others = differing([a.parameters, b.parameters])
    known = a.exact and b.exact and a.data_digest is not None and b.data_digest is not None
    rows = a.data_digest == b.data_digest if known else None
    return Sameness(
        rows=rows,
        order=_equal(a, b, ORDER) if rows else None,
        weights=_equal(a, b, WEIGHTS) or (_begins_with_zeros(a) and _begins_with_zeros(b)) if rows else None,
        differs=differs,
        elsewhere={key: values for key, values in others.items() if key not in differs},
        arithmetic=_arithmetic(a, b),
        parting=parting(a, b),
        same_result=None if None in (a.weights_sha256, b.weights_sha256) else a.weights_sha256 == b.weights_sha256,
    )


def _equal(a: Run, b: Run, keys: tuple[str, ...]) -> bool:
    return all(a.parameters.get(key) == b.parameters.get(key) for key in keys)


def _begins_with_zeros(run: Run) -> bool:
    """Return whether the initial weights are zeros, whatever the seed is (Net.initial)."""
    return run.parameters.get("model.hidden") == 0 and run.parameters.get("model.scale") is None


def _arithmetic(a: Run, b: Run) -> str | None:
    if a.numerics is None or b.numerics is None or (is_portable(a) and is_portable(b)):
        return None
    found = differing([a.numerics, b.numerics])
    return ", ".join(f"{key} {text(values[0])} and {text(values[1])}" for key, values in found.items()) or None


def parting(a: Run, b: Run, metric: str = "train/loss") -> Parting | None:
    """Return where a metric of two runs parts, at the steps that both have logged."""
    first, second = a.curves.get(metric), b.curves.get(metric)
    if first is None or second is None:
        return None
    steps, at_first, at_second = np.intersect1d(first.steps, second.steps, return_indices=True)
    if not len(steps):
        return None
    unequal = np.flatnonzero(first.values[at_first] != second.values[at_second])
    if not len(unequal):
        return Parting(int(steps[-1]), None, len(steps))
    place = int(unequal[0])
    return Parting(int(steps[place - 1]) if place else None, int(steps[place]), len(steps))
