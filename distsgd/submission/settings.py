"""What all kinds of cluster are told alike: time to stop, and the resources of a node."""

from __future__ import annotations

import re
from dataclasses import dataclass

from distsgd.errors import ConfigError

GRACE_S = 60
"""Seconds that a run gets to write its checkpoint after it was told to stop, before it is killed."""

WARNING_S = 120
"""Seconds before the end of its time at which a scheduler tells a job to stop."""


@dataclass(frozen=True)
class Resources:
    """What a job asks a scheduler for."""

    nodes: int = 2
    cpus: int = 2
    """CPUs of each node, and so the workers on it."""
    memory: str = "4Gi"
    """Of each node."""
    minutes: int = 60
    """After which a scheduler stops the job, where it has to know that."""

    def __post_init__(self) -> None:
        if re.fullmatch("[1-9][0-9]*[MGT]i", self.memory) is None:
            raise ConfigError(f"--memory is {self.memory!r}; expected a number with Mi, Gi or Ti, such as 4Gi")

    @property
    def megabytes(self) -> int:
        """The memory in units of 2^20 bytes."""
        return int(self.memory[:-2]) * {"M": 1, "G": 2**10, "T": 2**20}[self.memory[-2]]
