"""The rows of a run in Ray's object store: one copy per node, shared by its processes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import ray

from distsgd.data import DataSet


@dataclass(frozen=True)
class SharedRows:
    """Rows that are in the object store."""

    data: DataSet
    """With training and held-out rows that this process, too, reads in the store."""

    train: Any  # ObjectRef
    val: Any | None

    @classmethod
    def put(cls, data: DataSet) -> SharedRows:
        """Copy rows into the store. The copy in `data` is no longer needed."""
        train, val = ray.put(data.train), None if data.val is None else ray.put(data.val)
        stored = dataclasses.replace(data, train=ray.get(train), val=None if val is None else ray.get(val))
        return cls(stored, train, val)
