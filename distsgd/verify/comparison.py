"""Compares what training again comes to with what is recorded: states, checkpoints, the journal's lines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from distsgd.core.net import Net
from distsgd.engine.snapshot import Snapshot
from distsgd.rundir import proof
from distsgd.rundir.classifier import weights_sha256
from distsgd.verify.recorded import Recorded
from distsgd.verify.report import Report
from distsgd.verify.tolerance import figures_agree, vectors_agree


class Comparison:
    """Reports each difference; within a tolerance if the arithmetic is another one."""

    def __init__(self, recorded: Recorded, net: Net, report: Report, other_arithmetic: str | None) -> None:
        self._recorded, self._net, self._report, self.other = recorded, net, report, other_arithmetic
        self.weights: set[str] = set()
        """The digests of the weights of all states that were compared."""
        self._names = {key for record in recorded.records.values() for key in record}
        """What the version that the run was trained with has in the journal; a later one may measure more."""
        self.states = self.checkpoints = self.lines = 0
        """How many of each were compared."""

    def state(self, snapshot: Snapshot) -> None:
        """Compare the state after a step with its line in the proof, and with its checkpoints."""
        self.weights.add(weights_sha256(snapshot.parameters))
        line = self._recorded.states.get(snapshot.step)
        if line is not None:
            same = proof.state_digest(snapshot) == line["state"]
            self.states += 1
            if not same and self.other is None:
                self._report.differs("state", f"that after step {snapshot.step} is not the one in {proof.FILE}")
            elif not same:
                self._report.tolerated = self.other
        for folder, checkpoints in (("checkpoints", self._recorded.checkpoints), ("best", self._recorded.best)):
            if snapshot.step in checkpoints:
                self.checkpoints += 1
                self._checkpoint(f"{folder}/{snapshot.step:08d}", checkpoints[snapshot.step], snapshot)

    def _checkpoint(self, name: str, recorded: Snapshot, found: Snapshot) -> None:
        if set(recorded.slots) != set(found.slots) or recorded.parameters.shape != found.parameters.shape:
            self._report.differs("checkpoint", f"{name} has other arrays than this configuration has")
            return
        arrays = {"parameters": (recorded.parameters, found.parameters)}
        arrays |= {slot: (recorded.slots[slot], found.slots[slot]) for slot in sorted(found.slots)}
        for array, pair in arrays.items():
            self.vector(name, array, *pair)
        self._record_of(name, recorded.last_record, found.last_record)
        if recorded.skipped != found.skipped:
            text = f"{name} has {recorded.skipped} skipped steps, and there are {found.skipped}"
            self._report.differs("checkpoint", text)
        for known, value in zip(recorded.epoch_loss, found.epoch_loss, strict=True):
            if math.isnan(known) or known == value:  # NaN, which is unknown, in checkpoints of version 0.1.0
                continue
            if self.other is None or not figures_agree("train/epoch_loss", known, value):
                text = f"{name} has {known!r} as a sum of its epoch's losses or weights, and that is {value!r}"
                self._report.differs("checkpoint", text)

    def _record_of(self, name: str, recorded: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """Compare the record in a checkpoint, from which a resumed run journals it, if training records that step.

        At what was the end of a run that is longer now it has the mean loss in addition, in version 0.1.0 never.
        """
        known, computed = proof.untimed(recorded), proof.untimed(found)
        if known.get("step") != computed.get("step"):
            return
        for key in known | computed:
            if key != "train/epoch_loss":
                self._value("checkpoint", f"{name}: {key} of its record", key, known, computed)

    def _value(self, kind: str, place: str, key: str, known: Mapping[str, Any], computed: Mapping[str, Any]) -> None:
        """Compare a value of a record."""
        if known.get(key) == computed.get(key):
            return
        if self.other is not None:
            self._report.tolerated = self.other
            if figures_agree(key, known.get(key), computed.get(key)):
                return
        self._report.differs(
            kind, f"{place} is {known.get(key, 'missing')!r}, and training comes to {computed.get(key, 'nothing')!r}"
        )

    def vector(self, name: str, array: str, recorded: np.ndarray, found: np.ndarray, kind: str = "checkpoint") -> None:
        """Compare two vectors (P,), and report the first parameter in which they differ."""
        differing = np.flatnonzero(recorded.view(np.uint32) != found.view(np.uint32))
        if not len(differing):
            return
        if self.other is not None:
            self._report.tolerated = self.other
            if vectors_agree(recorded, found):
                return
        first = int(differing[0])
        self._report.differs(
            kind,
            f"{name}: {'' if array == 'parameters' else f'{array} of '}{self.place(first)} is "
            f"{float(recorded[first])!r}, and training comes to {float(found[first])!r}; {len(differing):,} of "
            f"{len(found):,} differ",
        )

    def place(self, number: int) -> str:
        """Return the name of a parameter, such as `W1[3, 5]`."""
        for name, part, shape in zip(self._net.shapes._fields, self._net.bounds, self._net.shapes, strict=True):
            if number < part.stop:
                index = np.unravel_index(number - part.start, shape)
                return f"{name}[{', '.join(str(int(i)) for i in index)}]"
        raise IndexError(number)

    def record(self, found: Mapping[str, Any], *, early_end: bool = False) -> None:
        """Compare a record with its line in the journal; the line of an `early_end` may have the mean loss in addition.

        A run that was made longer had that end before.
        """
        step = found["step"]
        line = self._recorded.records.get(step)
        if line is None:
            self._report.differs("journal", f"it has no line for step {step}")
            return
        self.lines += 1
        known, computed = proof.untimed(line), proof.untimed(found)
        if early_end:
            known.pop("train/epoch_loss", None)
            computed.pop("train/epoch_loss", None)
        for key in known | computed:
            if key in self._names:
                self._value("journal", f"line of step {step}: {key}", key, known, computed)
