"""The rows of a sweep: read once for all trials that are trained on the same ones, and shared in Ray's object store."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from distsgd.config import Config
from distsgd.core.losses import LOSSES
from distsgd.data import DataSet
from distsgd.errors import ConfigError
from distsgd.run.memory_check import check_net_fits
from distsgd.run.observer import Observer
from distsgd.run.rows import read_rows


class RowSets:
    """The different sets of rows that the settings of a sweep ask for; one, unless a key of `data` is varied."""

    def __init__(self, configs: Iterable[Config]) -> None:
        self._members: dict[str, list[Config]] = {}
        for config in configs:
            self._members.setdefault(_key(config), []).append(config)
        self._numbers = {key: number for number, key in enumerate(self._members)}

    def __len__(self) -> int:
        return len(self._members)

    def number_of(self, config: Config) -> int:
        """Return the number of the rows of a configuration."""
        return self._numbers[_key(config)]

    def read(self, number: int, given: tuple[Any, Any], observer: Observer) -> DataSet:
        """Return the rows with this number; RefusedError if they, or a net on them, cannot be used."""
        configs = list(self._members.values())[number]
        rows = read_rows(configs[0], given, observer)
        if rows.val is None:
            raise ConfigError(
                "trials are compared by held-out rows, and there are none: set data.val or data.val_fraction"
            )
        for config in configs:
            check_net_fits(
                config, len(rows.feature_names), len(rows.classes), rows=len(rows.train), held_out=len(rows.val)
            )
        return rows


def _key(config: Config) -> str:
    """Return what determines the rows that a configuration is trained on."""
    values = config.model_dump(mode="json")
    of_train = values["train"]
    target = LOSSES[config.model.loss].target
    return json.dumps([values["data"], target, of_train["class_weight"], of_train["arithmetic"]])
