"""Settings: runs that differ in their seed alone; and the parameters in which settings differ."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distsgd.compare.runs import HIGHER_IS_BETTER, METRICS, SEEDS, Run
from distsgd.compare.statistics import Summary, summary
from distsgd.config.config import RESULT_SECTIONS

PLACES = ("data.train", "data.val")
"""Where rows are; the digest tells whether they are the same."""

WITHOUT_EFFECT = ("train.log_every",)
"""Keys of these sections that no weight depends on."""

SHARDS = ("train.num_shards",)
"""Keys that no weight depends on with `train.arithmetic=portable`."""

ROWS = "the rows"
"""What is said to differ if the digests of the data do."""

VERSION = "the version of distsgd"

LENGTH = "the number of steps"
"""Said of runs whose parameters are the same, and which were trained for a different number of steps."""


def decides(key: str, *, exact: bool) -> bool:
    """Return whether the result of a run depends on a parameter; that of other programs' runs may on any.

    Of distsgd's, `run.workers` and others only say where it is computed.
    """
    if not exact:
        return True
    return key.partition(".")[0] in RESULT_SECTIONS and key not in (*PLACES, *WITHOUT_EFFECT)


def is_portable(run: Run) -> bool:
    """Return whether a run's bits are the same on every machine."""
    return run.exact and run.parameters.get("train.arithmetic") == "portable"


def deciding(run: Run) -> dict[str, Any]:
    """Return what the result of a run depends on, seed, rows and version included, by name."""
    left_out = SHARDS if is_portable(run) else ()
    found = {
        key: value for key, value in run.parameters.items() if decides(key, exact=run.exact) and key not in left_out
    }
    return found | {ROWS: run.data_digest, VERSION: run.version if run.exact else None}


def differing(runs: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the values of each name in which some mappings differ, in order of appearance."""
    values: dict[str, list[Any]] = {}
    given = list(runs)
    for key in dict.fromkeys(key for one in given for key in one):
        found = list({text(one.get(key)): one.get(key) for one in given}.values())
        if len(found) > 1:
            values[key] = found
    return values


def text(value: Any) -> str:
    """Return a value as it is typed."""
    return value if isinstance(value, str) else json.dumps(value)


@dataclass
class Setting:
    """Runs of one setting, one for each seed."""

    name: str
    """What distinguishes it from the other settings, such as `lr=0.1 hidden=64`."""
    values: dict[str, Any]
    """The parameters, among those in which settings differ, and their values."""
    parameters: dict[str, Any]
    """All that the result depends on, but for the seed."""
    runs: dict[str, Run] = field(default_factory=dict)
    """By seed, as text."""
    repeated: list[Run] = field(default_factory=list)
    """More runs of a seed that it has already."""

    def finals(self, metric: str) -> dict[str, float]:
        """Return the final value of each seed's run that has one."""
        values = {seed: run.final(metric) for seed, run in self.runs.items()}
        return {seed: value for seed, value in values.items() if value is not None}

    def summary(self, metric: str) -> Summary | None:
        """Return the final values in numbers, or None if there is none."""
        values = list(self.finals(metric).values())
        return summary(values) if values else None


def settings_of(runs: Sequence[Run], metric: str) -> list[Setting]:
    """Return the settings of finished runs, the best first."""
    groups: dict[str, Setting] = {}
    for run in runs:
        parameters = {key: value for key, value in deciding(run).items() if key not in SEEDS}
        key = json.dumps(parameters, sort_keys=True, default=str)
        setting = groups.setdefault(key, Setting("", {}, parameters))
        seed = text(run.seed)
        if seed in setting.runs:
            setting.repeated.append(run)
        else:
            setting.runs[seed] = run
    found = list(groups.values())
    names = differing(setting.parameters for setting in found)
    for setting in found:
        setting.values = {key: setting.parameters.get(key) for key in names}
        setting.name = _name(setting)
    return sorted(found, key=lambda setting: _rank(setting, metric))


def _name(setting: Setting) -> str:
    parts = [
        f"{key.rpartition('.')[2]}={text(value)}" for key, value in setting.values.items() if key not in (ROWS, VERSION)
    ]
    if ROWS in setting.values:
        parts.append(f"rows={str(setting.values[ROWS])[:8]}")
    if VERSION in setting.values:
        parts.append(f"version={setting.values[VERSION]}")
    return " ".join(parts) or "the only setting"


def _rank(setting: Setting, metric: str) -> float:
    found = setting.summary(metric)
    if found is None:
        return float("inf")
    return -found.mean if metric in HIGHER_IS_BETTER else found.mean


def default_metric(runs: Iterable[Run]) -> str | None:
    """Return the metric that all runs were chosen by, else the first of METRICS that a run has, or None."""
    found = list(runs)
    having = {key for run in found for key, curve in run.curves.items() if len(curve)}
    chosen = {run.chosen_by for run in found}
    if len(chosen) == 1 and (named := chosen.pop()) in having:
        return named
    return next((metric for metric in METRICS if metric in having), None)
