"""DistSGDRegressor: the same bits for any number of threads, one or several numbers, scikit-learn's own as a peer."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
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


def test_frames_with_text_and_files_are_taken_as_by_the_classifier(tmp_path):
    frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(8)]).assign(colour=np.where(X[:, 0] > 0, "red", "blue"))
    values = {"max_iter": 20, "learning_rate_init": 0.01, "random_state": 0}
    path = tmp_path / "rows.parquet"
    frame.assign(u=Y[:, 0], v=Y[:, 1]).to_parquet(path)
    both = [
        DistSGDRegressor(**values).fit(frame, Y),
        DistSGDRegressor(**values).fit(pa.Table.from_pandas(frame), Y),
        DistSGDRegressor(**values).fit(path, ["u", "v"]),
    ]
    assert len({model.weights_sha256_ for model in both}) == 1
    expected = both[0].predict(frame)
    assert expected.shape == Y.shape
    assert np.array_equal(both[2].predict(path), expected)
    assert both[0].score(frame, Y) > 0.5
    assert both[0].feature_names_in_.tolist() == list(frame.columns)
    one = DistSGDRegressor(**values).fit(frame, Y[:, 0])
    assert one.predict(frame[frame.columns[::-1]]).shape == (400,)
    only_u = tmp_path / "u.parquet"
    frame.assign(u=Y[:, 0]).to_parquet(only_u)
    assert DistSGDRegressor(**values).fit(only_u, "u").weights_sha256_ == one.weights_sha256_
    with pytest.raises(ValueError, match=r"no column 'label' for data\.label"):
        DistSGDRegressor(**values).fit(path)
    with pytest.raises(ValueError, match="warm_start needs X as an array of numbers"):
        DistSGDRegressor(**values, warm_start=True).fit(frame, Y)
    weights = np.arange(400) % 3
    weighted = DistSGDRegressor(**values).fit(frame, Y, sample_weight=weights)
    assert weighted.weights_sha256_ == DistSGDRegressor(**values).fit(path, ["u", "v"], weights).weights_sha256_
    assert weighted.weights_sha256_ != both[0].weights_sha256_


def test_text_is_refused_with_its_row_and_the_estimator_that_takes_it(tmp_path):
    y = [*map(str, range(399)), "red"]
    expected = r"y, row 399 \(counted from 0\): 'red' is text, and a regressor predicts numbers.*DistSGDClassifier"
    for labels in (y, np.array(y), np.array(y, object), pd.Series(y), np.column_stack([Y[:, 0].astype(object), y])):
        with pytest.raises(ValueError, match=expected):
            DistSGDRegressor().fit(X, labels)
    frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(8)]).assign(label=y)
    frame.to_parquet(tmp_path / "rows.parquet")
    expected = (
        r"row 399 \(counted from 0\): label column 'label' is large_string, and a regressor predicts numbers; here "
    )
    expected += r"it holds 'red': correct it, choose another label column, or use DistSGDClassifier, which takes text"
    for rows in (frame, tmp_path / "rows.parquet"):
        with pytest.raises(ValueError, match=expected):
            DistSGDRegressor().fit(rows, "label")
