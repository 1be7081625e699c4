"""scikit-learn's own checks of an estimator, whole, with no expected failures."""

from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from distsgd.sklearn import DistSGDClassifier, DistSGDRegressor


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(
    [DistSGDClassifier(max_iter=20, learning_rate_init=0.01), DistSGDRegressor(max_iter=40, learning_rate_init=0.01)]
)
def test_an_estimator_keeps_scikit_learns_contract(estimator, check):
    check(estimator)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(
    [DistSGDClassifier(), DistSGDClassifier(solver="sgd", hidden_layer_sizes=(), num_shards=3), DistSGDRegressor()]
)
def test_so_do_other_parameters(estimator, check):
    check(estimator)
