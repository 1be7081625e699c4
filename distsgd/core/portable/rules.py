"""The update rules with their numbers from basic operations alone; all else about them is the same."""

from __future__ import annotations

import math

from distsgd.config import OptimConfig
from distsgd.core.adaptive_rules import Adam
from distsgd.core.portable.scalars import power
from distsgd.core.update_rule import Step, UpdateRule
from distsgd.core.update_rules import RULES


class PortableAdam(Adam):
    """Adam with powers that no library for mathematics computes."""

    def _corrections(self, step: Step) -> tuple[float, float]:
        rest = 1.0 - power(self._beta2, step.number)
        return 1.0 / math.sqrt(rest), step.lr / (1.0 - power(self._beta1, step.number))


PORTABLE = {"adam": PortableAdam, "adamw": PortableAdam}
"""Those that differ, by name."""


def update_rule(config: OptimConfig) -> UpdateRule:
    """Return the update rule for a configuration."""
    return (RULES | PORTABLE)[config.rule](config)
