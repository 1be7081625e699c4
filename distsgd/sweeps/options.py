"""What a sweep tries, as it is asked for: on the command line, in Python, and as the arguments of a job."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, get_args

from distsgd.config import Config
from distsgd.config.messages import shown
from distsgd.errors import ConfigError
from distsgd.sweeps.space import Method, Space, make_space, parse_grid, parse_random


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """The options of a sweep; ConfigError if one of them is no such value."""

    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """The values of each key, all combinations of which are tried."""
    random: Mapping[str, str] = field(default_factory=dict)
    """Ranges that values are drawn from, `log:LOW:HIGH` or `uniform:LOW:HIGH`, by key."""
    trials: int | None = None
    """Settings that are tried; needed with `random`."""
    seeds: int | None = None
    """How often each setting is tried, each time with another seed; None: once, or as often as the sweep began."""
    search: Method | None = None
    """How values of `random` are drawn; None: `random`, or as the sweep began."""
    prune: bool = False
    """Whether trials that are worse than the median of the finished ones are ended."""

    def __post_init__(self) -> None:
        for name, value in (("trials", self.trials), ("seeds", self.seeds)):
            if value is not None and (type(value) is not int or value < 1):
                raise ConfigError(f"{name} is {shown(value)}; expected an integer of at least 1")
        if self.search not in (None, *get_args(Method)):
            raise ConfigError(f"search is {shown(self.search)}; expected one of {', '.join(get_args(Method))}")

    @classmethod
    def parsed(cls, *, grid: Iterable[str], random: Iterable[str], **others: Any) -> Self:
        """Return the options of a command line, where grids are `KEY=V,V` and ranges `KEY=log:LO:HI`."""
        return cls(grid=parse_grid(grid), random=parse_random(random), **others)

    @property
    def varies(self) -> bool:
        """Whether anything is varied; if nothing is, a sweep that is resumed varies what it did before."""
        return bool(self.grid or self.random)

    def space(self, base: Config, *, seeds: int = 1) -> Space:
        """Return the search space; ConfigError if it cannot be used with the configuration `base`.

        `seeds` is how often each setting is tried if the options do not say it.
        """
        return make_space(self.grid, self.random, trials=self.trials, seeds=self.seeds or seeds, base=base)

    def words(self) -> list[str]:
        """Return the options as the arguments of `distsgd sweep`."""
        words = [word for key, values in self.grid.items() for word in ("--grid", _typed(key, values))]
        words += [word for key, text in self.random.items() for word in ("--random", f"{key}={text}")]
        words += ["--trials", str(self.trials)] if self.trials is not None else []
        words += ["--seeds", str(self.seeds)] if self.seeds is not None else []
        words += ["--search", self.search] if self.search is not None else []
        return [*words, "--prune"] if self.prune else words


def _typed(key: str, values: Sequence[Any]) -> str:
    """Return `KEY=V,V`, which is read as these values."""
    plain = f"{key}={','.join(map(str, values))}"
    return plain if parse_grid([plain]) == {key: list(values)} else f"{key}={','.join(map(json.dumps, values))}"
