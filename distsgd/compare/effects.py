"""Two settings compared as pairs of runs with the same seeds, and whether what is found may be called an effect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from distsgd.compare.runs import HIGHER_IS_BETTER, Run
from distsgd.compare.sameness import Sameness, sameness
from distsgd.compare.settings import LENGTH, ROWS, Setting, differing, text
from distsgd.compare.statistics import ENOUGH, Paired, holm, paired

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Contrast:
    """A setting compared with another one, the baseline."""

    setting: Setting
    baseline: Setting
    metric: str
    differs: dict[str, list[Any]]
    """What differs between them, with the baseline's value first."""
    seeds: tuple[str, ...]
    """The seeds that both have."""
    paired: Paired | None
    """The setting's final value minus the baseline's, for each seed; None without a common seed."""
    sameness: Sameness | None
    """Of the runs of the first common seed."""
    adjusted_p: float | None = None
    """The p-value, adjusted for the number of comparisons."""

    @property
    def cause(self) -> str | None:
        """The one thing that differs; None if there are more, or if it is not known whether there are."""
        unknown = self.sameness is None or self.sameness.rows is None
        return next(iter(self.differs)) if len(self.differs) == 1 and not unknown else None

    def sentences(self) -> list[str]:
        """Return the comparison in words: what differs, by how much, and what may be said of it."""
        found = [self._measured()]
        if self.paired is None:
            return found
        found.append(self._judged())
        if self.paired.p is not None:
            found += self._too_few(len(self.seeds), self.paired.p, self.paired.smallest_p)
        return found

    def _too_few(self, count: int, p: float, best: float) -> list[str]:
        """Return that so many pairs cannot come to a small p, if that is so."""
        if best >= SIGNIFICANT:
            what = f"{count} pairs cannot come to p < {SIGNIFICANT:g}, whatever they are ({best:.3g} at best)"
            return [f"{what}: that takes {ENOUGH} seeds"]
        if self.adjusted_p is not None and self.adjusted_p >= SIGNIFICANT and p == best:
            return [f"p is as small as {count} pairs can make it; with so many comparisons it takes more seeds"]
        return []

    def _measured(self) -> str:
        names = f"{self.setting.name} against {self.baseline.name}"
        if self.paired is None:
            return f"{names}: no seed in common, so they are not compared as pairs"
        count = len(self.seeds)
        line = f"{names}: {self.metric} {self.paired.mean:+.4g} with {count} seed{'s' * (count != 1)} in common"
        if self.paired.interval is not None:
            line += f" (95 % interval {self.paired.interval[0]:+.4g} to {self.paired.interval[1]:+.4g})"
        if self.paired.p is not None:
            line += f", p = {self.paired.p:.3g}"
        if self.adjusted_p is not None:
            line += f" ({self.adjusted_p:.3g} adjusted for the number of comparisons)"
        return line

    def _judged(self) -> str:
        """Return whether the difference may be called an effect of something."""
        assert self.paired is not None
        if not self.differs:
            return "nothing that the result depends on differs, so the difference is not an effect of a parameter"
        if self.cause is None:
            if self.sameness is None or self.sameness.rows is None:
                return "not called an effect: whether the rows were the same is not known"
            return f"not called an effect: more than one thing differs, {', '.join(self.differs)}"
        values = self.differs[self.cause]
        change = self.cause if self.cause == ROWS else f"{self.cause} ({text(values[0])} to {text(values[1])})"
        if self.paired.p is None:
            return f"the only difference is {change}; with one seed it is not known whether others would agree"
        p = self.adjusted_p if self.adjusted_p is not None else self.paired.p
        if p < SIGNIFICANT:
            better = (self.paired.mean > 0) == (self.metric in HIGHER_IS_BETTER)
            return f"an effect of {change}, the only difference: it is {'better' if better else 'worse'} beyond chance"
        return f"the only difference is {change}; what is measured is not beyond chance"


def contrast(setting: Setting, baseline: Setting, metric: str) -> Contrast:
    """Compare a setting with a baseline."""
    ours, theirs = setting.finals(metric), baseline.finals(metric)
    seeds = tuple(seed for seed in ours if seed in theirs)
    differs = differing([baseline.parameters, setting.parameters])
    pair = (baseline.runs[seeds[0]], setting.runs[seeds[0]]) if seeds else None
    if pair is not None and not differs and _lengths_differ(*pair):
        differs = {LENGTH: [pair[0].last_step, pair[1].last_step]}
    return Contrast(
        setting,
        baseline,
        metric,
        differs,
        seeds,
        paired([ours[seed] - theirs[seed] for seed in seeds]) if seeds else None,
        sameness(*pair) if pair is not None else None,
    )


def _lengths_differ(a: Run, b: Run) -> bool:
    return a.last_step != b.last_step


def contrasts(settings: Sequence[Setting], metric: str) -> list[Contrast]:
    """Return each setting compared with the first one, with p-values adjusted for their number."""
    found = [contrast(setting, settings[0], metric) for setting in settings[1:] if setting.finals(metric)]
    tested = [place for place, one in enumerate(found) if one.paired is not None and one.paired.p is not None]
    if len(tested) > 1:
        p_values = [one.paired.p for one in found if one.paired is not None and one.paired.p is not None]
        for place, p in zip(tested, holm(p_values), strict=True):
            found[place] = replace(found[place], adjusted_p=p)
    return found
