"""A comparison of runs: what the terminal, the page and JSON show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from distsgd.compare.effects import Contrast, contrasts
from distsgd.compare.runs import METRICS, Run
from distsgd.compare.sameness import Sameness, sameness
from distsgd.compare.settings import Setting, default_metric, differing, settings_of, text
from distsgd.compare.statistics import ENOUGH, LEVEL
from distsgd.errors import ConfigError, counted

FINISHED = "FINISHED"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was found."""

    metric: str
    """The metric that runs are compared by, of the weights that each keeps."""
    runs: list[Run]
    settings: list[Setting]
    """Of the finished runs, the best first."""
    differing: dict[str, list[Any]]
    """The parameters in which runs differ, and their values."""
    same: dict[str, Any]
    """The parameters in which they do not."""
    contrasts: list[Contrast]
    """Every setting against the best one."""
    pair: Sameness | None
    """What the runs share, if there are two."""
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the comparison in a form that JSON can hold."""
        return {
            "metric": self.metric,
            "level": LEVEL,
            "runs": [self._run(run) for run in self.runs],
            "differing": self.differing,
            "same": self.same,
            "settings": [self._setting(setting) for setting in self.settings],
            "comparisons": [_contrast(one) for one in self.contrasts],
            "pair": None if self.pair is None else asdict(self.pair) | {"sentences": self.pair.sentences()},
            "notes": self.notes,
        }

    def _run(self, run: Run) -> dict[str, Any]:
        return {
            "name": run.name,
            "source": run.source,
            "status": run.status,
            "seed": run.seed,
            "steps": run.last_step,
            "seconds": run.seconds,
            "data_digest": run.data_digest,
            "weights_sha256": run.weights_sha256,
            "final": {metric: value for metric in METRICS if (value := run.final(metric)) is not None},
        }

    def _setting(self, setting: Setting) -> dict[str, Any]:
        found = setting.summary(self.metric)
        return {
            "name": setting.name,
            "values": setting.values,
            "runs": {seed: run.source for seed, run in setting.runs.items()},
            "repeated": [run.source for run in setting.repeated],
            "finals": setting.finals(self.metric),
            "summary": None if found is None else asdict(found),
        }


def _contrast(one: Contrast) -> dict[str, Any]:
    return {
        "setting": one.setting.name,
        "baseline": one.baseline.name,
        "differs": one.differs,
        "effect_of": one.cause,
        "seeds": one.seeds,
        "paired": None if one.paired is None else asdict(one.paired),
        "adjusted_p": one.adjusted_p,
        "sentences": one.sentences(),
    }


def compare(runs: Sequence[Run], notes: Sequence[str] = (), metric: str | None = None) -> Comparison:
    """Compare runs; ConfigError if there is none that finished, or none that has the metric."""
    finished = [run for run in runs if run.status == FINISHED]
    chosen = metric or default_metric(finished)
    if not finished or chosen is None:
        states = ", ".join(sorted({run.status for run in runs})) or "none found"
        raise ConfigError(
            f"of {counted(len(runs), 'run')} none has finished with a metric to compare ({states}); finish one, or "
            "name others"
        )
    if not any(run.final(chosen) is not None for run in finished):
        raise ConfigError(f"no finished run has {chosen!r}; they have {default_metric(finished)!r}")
    settings = settings_of(finished, chosen)
    parameters = [run.parameters for run in runs]
    differs = {key: _sorted(values) for key, values in differing(parameters).items()}
    return Comparison(
        metric=chosen,
        runs=list(runs),
        settings=settings,
        differing=differs,
        same={key: value for key, value in _all(parameters).items() if key not in differs},
        contrasts=contrasts(settings, chosen),
        pair=sameness(*runs) if len(runs) == 2 else None,
        notes=[*notes, *_notes(runs, finished, settings, chosen)],
    )


def _sorted(values: list[Any]) -> list[Any]:
    """Return numbers in their order, and other values as they came."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return sorted(values) if numbers else values


def _all(parameters: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in parameters:
        found |= one
    return found


def _notes(runs: Sequence[Run], finished: Sequence[Run], settings: Sequence[Setting], metric: str) -> list[str]:
    """Return what the reader should know to read the table."""
    found = []
    others = [run for run in runs if run.status != FINISHED]
    if others:
        have, are = ("has", "is") if len(others) == 1 else ("have", "are")
        found.append(
            f"{len(others)} of {counted(len(runs), 'run')} {have} not finished and {are} in no setting: "
            + ", ".join(f"{run.name} ({run.status})" for run in others[:5])
            + (", ..." if len(others) > 5 else "")
        )
    few = max((len(setting.runs) for setting in settings), default=0)
    if 1 < few < ENOUGH:
        found.append(
            f"an interval of {few} seeds covers at most {1 - 2 ** (1 - few):.0%} in place of {LEVEL:.0%}: it cannot "
            "reach beyond the smallest and the largest value"
        )
    for setting in settings:
        values = {seed: run.final(metric) for seed, run in setting.runs.items()}
        again = [run for run in setting.repeated if run.final(metric) != values.get(text(run.seed))]
        if setting.repeated:
            found.append(
                f"{setting.name}: {counted(len(setting.repeated), 'run')} repeating a seed, which counts once"
                + (f"; {len(again)} of them came to another {metric}" if again else "")
            )
    incomplete = [run.name for run in finished if run.final(metric) is None]
    if incomplete:
        named = ", ".join(incomplete[:5])
        have = "1 finished run has" if len(incomplete) == 1 else f"{len(incomplete)} finished runs have"
        not_counted = "is not counted" if len(incomplete) == 1 else "are not counted"
        found.append(f"{have} no {metric} that is a number, and {not_counted}: {named}")
    return found
