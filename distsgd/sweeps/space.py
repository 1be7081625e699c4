"""The search space of a sweep: which keys take which values, read from `KEY=V,V` and `KEY=log:LO:HI`."""

from __future__ import annotations

import dataclasses
import itertools
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from distsgd.config import Config, known_keys, number_type
from distsgd.config.config import RESULT_SECTIONS
from distsgd.config.hints import hint
from distsgd.config.messages import shown
from distsgd.errors import ConfigError, counted

SEED = "train.seed"

MAX_TRIALS = 10_000
"""Largest number of trials of a sweep."""

SCALES = ("log", "uniform")

Method = Literal["random", "tpe"]
"""How values are drawn for ranges."""


@dataclass(frozen=True)
class Grid:
    """A key, each of whose values is combined with all values of the other grids."""

    key: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """A key that a value is drawn for, from `low` to `high`, both included."""

    key: str
    low: float
    high: float
    scale: str
    """`log`: the logarithm is distributed evenly; `uniform`: the value itself."""
    integer: bool

    def described(self) -> str:
        """Return the range as it is written on the command line."""
        return f"{self.scale}:{self.low:g}:{self.high:g}"


@dataclass(frozen=True, kw_only=True)
class Space:
    """Grids and ranges, how many settings are tried, and with how many seeds each."""

    grids: tuple[Grid, ...] = ()
    ranges: tuple[Range, ...] = ()
    settings: int
    """Combinations of values; those of the grids are taken in turn."""
    seeds: int = 1

    @property
    def keys(self) -> list[str]:
        """The keys that the trials differ in, without the seed of repetitions."""
        return [grid.key for grid in self.grids] + [span.key for span in self.ranges]

    @cached_property
    def points(self) -> list[dict[str, Any]]:
        """All combinations of the grids' values; one without any value if there is no grid."""
        values = itertools.product(*(grid.values for grid in self.grids))
        keys = [grid.key for grid in self.grids]
        return [dict(zip(keys, combination, strict=True)) for combination in values]

    @property
    def corners(self) -> list[dict[str, Any]]:
        """All combinations of the grids' values, with the low ends of all ranges, and with the high ones."""
        ends = [{span.key: rounded(span, end) for span, end in pairs} for pairs in self._ends()]
        return [point | end for point in self.points for end in ends]

    def _ends(self) -> list[list[tuple[Range, float]]]:
        if not self.ranges:
            return [[]]
        return [[(span, span.low) for span in self.ranges], [(span, span.high) for span in self.ranges]]

    def with_settings(self, trials: int) -> Space:
        """Return the space with another number of settings; ConfigError if it cannot have that many."""
        space = dataclasses.replace(self, settings=_settings(len(self.points), bool(self.ranges), trials))
        _check_number(space)
        return space

    def described(self) -> dict[str, str]:
        """Return what each key is tried with, in words."""
        grids = {grid.key: ", ".join(map(str, grid.values)) for grid in self.grids}
        return grids | {span.key: span.described() for span in self.ranges}


def make_space(
    grid: Mapping[str, Sequence[Any]], random: Mapping[str, str], *, trials: int | None, seeds: int, base: Config
) -> Space:
    """Return the space; ConfigError, in one message, if a part of it cannot be used with the configuration `base`."""
    axes = [*grid, *random]
    if not axes:
        raise ConfigError("a sweep needs something to vary: --grid KEY=VALUE,VALUE or --random KEY=log:LOW:HIGH")
    for key in axes:
        _check_key(key, seeds)
        if key in grid and key in random:
            raise ConfigError(f"{key} has both a grid and a range; keep one of them")
    grids = tuple(_grid(key, values) for key, values in grid.items())
    ranges = tuple(_range(key, text) for key, text in random.items())
    points = math.prod(len(axis.values) for axis in grids)
    space = Space(grids=grids, ranges=ranges, settings=_settings(points, bool(ranges), trials), seeds=seeds)
    _check_number(space)
    if seeds > 1 and base.train.seed + seeds > 2**63:
        raise ConfigError(f"{SEED} is {base.train.seed}, and {seeds} seeds from there on exceed 2**63 - 1; lower it")
    for setting in space.corners:
        setting_config(base, setting)
    return space


def setting_config(base: Config, setting: Mapping[str, Any]) -> Config:
    """Return the configuration with the values of a setting; ConfigError, which names it, if they do not fit."""
    try:
        return Config.build(base.explicit(), setting)
    except ConfigError as error:
        named = " ".join(f"{key}={value}" for key, value in setting.items())
        raise ConfigError(f"the setting {named} of the sweep is refused: {error}") from None


def rounded(span: Range, value: float) -> int | float:
    """Return a value as the key takes it."""
    return int(value) if span.integer else float(value)


def parse_grid(texts: Iterable[str]) -> dict[str, list[Any]]:
    """Return the values of each `KEY=VALUE,VALUE`; a value that is not valid TOML is taken as text."""
    return {key: _values(values) for key, values in _pairs(texts, "--grid", "optim.lr=0.01,0.1").items()}


def parse_random(texts: Iterable[str]) -> dict[str, str]:
    """Return the range of each `KEY=log:LOW:HIGH`, still as text."""
    return _pairs(texts, "--random", "optim.l2=log:1e-6:1e-2")


def _pairs(texts: Iterable[str], option: str, example: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key or not value:
            raise ConfigError(f"{option} takes KEY=..., such as {example}, and found {shown(text)}")
        if key in found:
            raise ConfigError(f"{option} names {key} twice; put all values into one: {option} {example}")
        found[key] = value
    return found


def _values(text: str) -> list[Any]:
    """Return a list's values; each is TOML, or text."""
    try:
        return list(tomllib.loads(f"values = [{text}]")["values"])
    except (ValueError, RecursionError):
        return [_value(part.strip()) for part in text.split(",")]


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _check_key(key: str, seeds: int) -> None:
    known = known_keys()
    if key not in known:
        raise ConfigError(f"unknown configuration key {shown(key)}{hint(key, known)}")
    if key.split(".")[0] not in RESULT_SECTIONS:
        raise ConfigError(
            f"{key} does not change the trained weights, so trials cannot differ in it; use --set {key}=..."
        )
    if key == SEED and seeds > 1:
        raise ConfigError(f"{SEED} is varied by --seeds already; leave one of them out")


def _grid(key: str, values: Sequence[Any]) -> Grid:
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise ConfigError(f"the grid of {key} is {shown(values)}; expected a list of values")
    if any(value == "" for value in values):
        raise ConfigError(f"the grid of {key} has an empty value; expected {key}=VALUE,VALUE")
    twice = next((value for number, value in enumerate(values) if value in values[:number]), None)
    if twice is not None:
        raise ConfigError(f"the grid of {key} has {shown(twice)} twice; keep one of them")
    return Grid(key, tuple(values))


def _range(key: str, text: str) -> Range:
    kind = number_type(key)
    if kind is None:
        raise ConfigError(f"{key} does not take numbers, so none can be drawn for it; use --grid {key}=VALUE,VALUE")
    if key.startswith("data."):
        raise ConfigError(
            f"the rows are read once for all trials, so none can be drawn for {key}; use --grid {key}=..."
        )
    scale, *ends = str(text).split(":")
    expected = f"expected {key}=log:LOW:HIGH or {key}=uniform:LOW:HIGH"
    if scale not in SCALES or len(ends) != 2:
        raise ConfigError(f"the range of {key} is {shown(text)}; {expected}")
    try:
        low, high = (float(end) for end in ends)
    except ValueError:
        raise ConfigError(f"the range of {key} is {shown(text)}, whose ends are not numbers; {expected}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"the range of {key} is {shown(text)}; its low end has to be below its high end")
    if scale == "log" and low <= 0:
        raise ConfigError(f"the range of {key} is {shown(text)}; a logarithmic one has to begin above 0")
    if kind is int and (low != int(low) or high != int(high)):
        raise ConfigError(f"the range of {key} is {shown(text)}, and that key takes integers")
    return Range(key, low, high, scale, kind is int)


def _check_number(space: Space) -> None:
    number = space.settings * space.seeds
    if number > MAX_TRIALS:
        raise ConfigError(f"these are {number:,} trials, and a sweep has at most {MAX_TRIALS:,}")


def _settings(points: int, has_ranges: bool, trials: int | None) -> int:
    """Return the number of settings."""
    if not has_ranges:
        if trials not in (None, points):
            raise ConfigError(
                f"the grid has {counted(points, 'setting')}, and --trials is {trials}; --trials is for ranges "
                "(--random), leave it out"
            )
        return points
    if trials is None:
        raise ConfigError("with --random, --trials says how many settings are tried, such as --trials 30")
    if trials < points:
        raise ConfigError(
            f"the grid has {counted(points, 'setting')}, and --trials is {trials}, so some would not be tried; raise "
            "--trials, or shorten the grid"
        )
    return trials
