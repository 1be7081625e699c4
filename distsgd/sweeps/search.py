"""Which setting is tried next, and which trial is not worth its end: Optuna's samplers and its median rule.

Both are functions of what is known so far, which the sweep keeps in its own file: a sweep that is resumed draws the
settings that it would have drawn, and needs no database. Only this file imports optuna, which takes a moment.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import MedianPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from distsgd.core.sampling import derive_key
from distsgd.sweeps.space import Method, Range, Space, rounded

DIGITS = 4
"""Significant digits of the numbers that are drawn, so that people can read and type them."""

STARTUP = 5
"""Trials that have to be complete before the median rule ends one."""

Curve = Mapping[int, float]
"""A trial's validations: the metric by the number of the validation."""

warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
optuna.logging.set_verbosity(optuna.logging.WARNING)


def draw(
    space: Space,
    method: Method,
    number: int,
    seed: int,
    known: Sequence[tuple[Mapping[str, Any], float | None]],
    *,
    lower_is_better: bool,
) -> dict[str, Any]:
    """Return setting `number`, counted from 0: the grid's next point, with a value for each range.

    `random` draws values that depend on seed and number alone; `tpe`, the tree-structured Parzen estimator (Bergstra et
    al., "Algorithms for hyper-parameter optimization", 2011), on the settings that are `known`, too, with the metric
    of those that have one.
    """
    points = space.points
    point = points[number % len(points)]
    study = optuna.create_study(
        direction="minimize" if lower_is_better else "maximize",
        sampler=_sampler(method, derive_key(seed, number) % 2**32),
    )
    if method == "random":  # of which the values of grids are no part; to describe thousands of them takes a while
        space = dataclasses.replace(space, grids=())
    distributions = _distributions(space)
    for setting, value in known:
        study.add_trial(
            create_trial(
                state=TrialState.RUNNING if value is None else TrialState.COMPLETE,
                params=_encoded(space, setting),
                distributions=distributions,
                value=value,
            )
        )
    study.enqueue_trial(_encoded(space, point) if space.grids else {})
    drawn = study.ask(distributions).params
    return point | {span.key: _readable(span, drawn[span.key]) for span in space.ranges}


def is_hopeless(curve: Curve, others: Sequence[Curve], *, lower_is_better: bool) -> bool:
    """Return whether a trial's best validation is worse than the median of the `others`, complete ones, by then.

    That is Golovin et al., "Google Vizier: a service for black-box optimization", 2017, section 3.2.2.
    """
    study = optuna.create_study(direction="minimize" if lower_is_better else "maximize")
    for other in others:
        study.add_trial(create_trial(value=other[max(other)], intermediate_values=dict(other)))
    trial = create_trial(state=TrialState.RUNNING, intermediate_values=dict(curve))
    return bool(MedianPruner(n_startup_trials=STARTUP).prune(study, trial))


def _sampler(method: Method, seed: int) -> BaseSampler:
    return RandomSampler(seed=seed) if method == "random" else TPESampler(seed=seed, constant_liar=True)


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return Optuna's distributions; a value of a grid is its place there, since Optuna takes no lists."""
    grids: dict[str, BaseDistribution] = {
        grid.key: CategoricalDistribution(range(len(grid.values))) for grid in space.grids
    }
    return grids | {span.key: _distribution(span) for span in space.ranges}


def _distribution(span: Range) -> BaseDistribution:
    if span.integer:
        return IntDistribution(int(span.low), int(span.high), log=span.scale == "log")
    return FloatDistribution(span.low, span.high, log=span.scale == "log")


def _encoded(space: Space, setting: Mapping[str, Any]) -> dict[str, Any]:
    """Return a setting, or the part of one that is there, as Optuna has it."""
    places = {grid.key: grid.values for grid in space.grids}
    return {key: places[key].index(value) if key in places else value for key, value in setting.items()}


def _readable(span: Range, value: float) -> int | float:
    if span.integer:
        return rounded(span, value)
    return min(max(float(f"{value:.{DIGITS}g}"), span.low), span.high)
