"""Validation with exact sums: the same bits on every machine."""

from __future__ import annotations

import dataclasses

import numpy as np

from distsgd.core.backend import Device, to_host
from distsgd.core.net import Net, Parameters
from distsgd.core.portable.backprop import loss_sum, measured
from distsgd.core.portable.bounds import DataBounds
from distsgd.core.portable.grids import rounded
from distsgd.core.portable.step import Grids
from distsgd.core.portable.workspace import PortableWorkspace
from distsgd.data import BatchTransform, Rows
from distsgd.data.gatherer import Examples, exact_gatherer
from distsgd.engine.confusion import pairs_of
from distsgd.engine.scores import PORTABLE_SCORES
from distsgd.engine.validation import BLOCK, BlockResult, Extras, Validation


class PortableValidation(Validation):
    """Evaluates the held-out rows in blocks of a fixed size; see Validation."""

    def __init__(self, net: Net, rows: Rows, transform: BatchTransform, device: Device, bounds: DataBounds) -> None:
        """`bounds` are those of all held-out rows."""
        super().__init__(net, rows, transform, device)
        self._scores = PORTABLE_SCORES[self._workspace.loss.target]
        count, unsmoothed = min(BLOCK, len(rows)), dataclasses.replace(net, label_smoothing=0.0)
        self._grids = Grids(unsmoothed, bounds, count, self._xp)
        self._exact = PortableWorkspace(unsmoothed, count, self._xp)
        self._batch, _ = exact_gatherer(rows, transform, count, device)

    def _of(self, block: int, parameters: Parameters, examples: Examples, extras: Extras) -> BlockResult:
        (X, y, w), data = examples, self._grids
        grids = data.of(parameters)
        ranked = extras.roc_auc and self._ranking.is_defined
        found = measured(parameters, X, y, grids=grids, workspace=self._exact, probabilities=ranked)
        predicted, exact, weights = to_host(found.predicted), None, np.ones(len(y))
        if w is not None:
            exact = w.astype(self._xp.float64)
            rounded(exact, data.weight_quantum, exact, self._xp)
            weights = to_host(exact)
        loss = loss_sum(found.losses, exact, grids, self._exact) if grids.finite else float("nan")
        y, counts = to_host(y), None if w is None else weights
        of_classes = extras.confusion and self._workspace.loss.target == "class"
        ranks = None
        if ranked:
            probabilities = to_host(found.probabilities).astype(np.float32)
            ranks = self._ranking.kept(block * BLOCK, y, probabilities, counts)
        return BlockResult(
            block,
            data.weight(w, len(y)),
            loss,
            self._scores.sums(y, predicted, weights, self._origin),
            pairs_of(y, predicted, self._net.classes, counts) if of_classes else None,
            ranks,
        )
