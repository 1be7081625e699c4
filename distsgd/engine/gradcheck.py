"""The gradient check of a run: its net, its loss and the rows of its first mini-batch."""

from __future__ import annotations

import numpy as np

from distsgd.core.gradcheck import Comparison, check_gradients
from distsgd.data.gatherer import Gatherer
from distsgd.engine.spec import RunSpec


def check_first_batch(spec: RunSpec, samples: int) -> tuple[int, list[Comparison]]:
    """Return the number of rows of a run's first mini-batch, and its gradients beside central differences."""
    sampler, data, config = spec.plan.sampler, spec.data, spec.config
    index = np.concatenate(sampler.shard_rows(range(1), range(sampler.num_shards)))
    X, y, weights = Gatherer(data.train, data.transform, len(index), "cpu").gather(index)
    l2, seed = config.optim.l2, config.train.seed
    return len(index), check_gradients(spec.net, X, y, weights, l2=l2, seed=seed, samples=samples)
