"""DistSGDRegressor: the same bits for any number of threads, one or several numbers, scikit-learn's own as a peer."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.datasets import make_regression
from sklearn.neural_network import MLPRegressor

from distsgd.sklearn import DistSGDRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = make_regression(400, 8, n_targets=2, noise=1.0, random_state=0)
Y = Y / Y.std(axis=0)


def test_any_number_of_threads_gives_the_same_bits():
    found = {
        DistSGDRegressor(max_iter=5, num_shards=4, random_state=0, threads=threads).fit(X, Y).weights_sha256_
        for threads in (1, 2, "auto")
    }
    assert len(found) == 1


@pytest.mark.parametrize("targets", [1, 2])
def test_it_learns_like_scikit_learns_own(targets):
    y = Y[:, 0] if targets == 1 else Y
    values = {"hidden_layer_sizes": (30,), "max_iter": 100, "learning_rate_init": 0.01, "random_state": 0}
    ours, theirs = (kind(**values).fit(X, y) for kind in (DistSGDRegressor, MLPRegressor))
    assert ours.predict(X).shape == y.shape
    assert ours.score(X, y) > 0.99
    assert ours.score(X, y) == pytest.approx(theirs.score(X, y), abs=0.01)
    assert np.array_equal(pickle.loads(pickle.dumps(ours)).predict(X), ours.predict(X))


def test_rows_with_weights_are_like_repeated_rows():
    weights = np.arange(100) % 3
    repeated = np.repeat(np.arange(100), weights)
    values = {"max_iter": 20, "batch_size": 1000, "random_state": 0}
    weighted = DistSGDRegressor(**values).fit(X[:100], Y[:100], sample_weight=weights)
    assert weighted.weights_sha256_ == DistSGDRegressor(**values).fit(X[repeated], Y[repeated]).weights_sha256_


def test_early_stopping_goes_by_r2():
    fitted = DistSGDRegressor(max_iter=300, early_stopping=True, n_iter_no_change=3, tol=0.01, random_state=0).fit(X, Y)
    assert fitted.n_iter_ < 300
    assert fitted.best_validation_score_ == max(fitted.validation_scores_)
    assert fitted.out_activation_ == "identity"
