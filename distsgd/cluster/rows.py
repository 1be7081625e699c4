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
        return cls(_read(data, train, val), train, val)

    def ticket(self) -> Ticket:
        """Return what another process needs to read the same rows on its node."""
        about = {field.name: getattr(self.data, field.name) for field in dataclasses.fields(DataSet)}
        return Ticket({**about, "train": None, "val": None}, self.train, self.val)


@dataclass(frozen=True)
class Ticket:
    """Rows in the object store, as they are sent to another process: without the rows themselves."""

    about: dict[str, Any]
    """The fields of the data set, but for its rows."""
    train: Any  # ObjectRef
    val: Any | None

    def redeem(self) -> SharedRows:
        """Return the rows, of which Ray makes one copy on this node unless there is one already."""
        return SharedRows(_read(DataSet(**self.about), self.train, self.val), self.train, self.val)


def _read(data: DataSet, train: Any, val: Any | None) -> DataSet:
    return dataclasses.replace(data, train=ray.get(train), val=None if val is None else ray.get(val))
