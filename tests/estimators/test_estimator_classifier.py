"""DistSGDClassifier: the same bits on threads and on Ray, in scikit-learn's tools, with frames, files and weights."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import distsgd
from distsgd.sklearn import DistSGDClassifier

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X_IRIS, Y_IRIS = load_iris(return_X_y=True)
X_DIGITS, Y_DIGITS = load_digits(return_X_y=True)
X_DIGITS = X_DIGITS / 16


def sha(**values: object) -> str:
    settings = {"max_iter": 4, "num_shards": 4, "random_state": 3} | values
    estimator = DistSGDClassifier(**settings).fit(X_DIGITS[:500], Y_DIGITS[:500])
    found: str = estimator.weights_sha256_
    return found


@pytest.mark.slow
def test_any_number_of_threads_and_of_workers_gives_the_same_bits():
    shas = {sha(threads=threads) for threads in (1, 2, "auto")}
    with distsgd.session():
        shas.add(sha(workers=2))
        assert sha(workers=3, num_shards=1) == sha(num_shards=1)  # there are no more workers than shards
    assert len(shas) == 1
    assert sha(random_state=4) not in shas


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_three_workers_and_held_out_rows_give_the_same_bits(solver):
    values = {"solver": solver, "early_stopping": True, "max_iter": 6}
    shas = {sha(threads=threads, **values) for threads in (1, 2)}
    with distsgd.session():
        shas |= {sha(workers=workers, **values) for workers in (1, 3)}
    assert len(shas) == 1


def test_importing_the_estimators_imports_neither_ray_nor_mlflow():
    code = "import sys, distsgd.sklearn; print(sorted({'ray', 'mlflow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_it_learns_like_scikit_learns_own(solver):
    values = {"solver": solver, "max_iter": 150, "learning_rate_init": 0.05 if solver == "sgd" else 0.01}
    ours, theirs = (
        make_pipeline(StandardScaler(), kind(hidden_layer_sizes=(20,), random_state=0, **values)).fit(X_IRIS, Y_IRIS)
        for kind in (DistSGDClassifier, MLPClassifier)
    )
    assert ours.score(X_IRIS, Y_IRIS) > 0.96
    assert ours[-1].loss_ == pytest.approx(theirs[-1].loss_, rel=0.3)


@pytest.mark.slow
def test_grid_search_pipeline_and_cross_validation_take_it():
    pipeline = make_pipeline(StandardScaler(), DistSGDClassifier(max_iter=30, learning_rate_init=0.02, random_state=0))
    search = GridSearchCV(pipeline, {"distsgdclassifier__learning_rate_init": [1e-6, 0.02]}, cv=3, n_jobs=2).fit(
        X_IRIS, Y_IRIS
    )
    assert search.best_params_ == {"distsgdclassifier__learning_rate_init": 0.02}
    assert search.best_score_ > 0.9
    assert cross_val_score(pipeline, X_IRIS, Y_IRIS, cv=3).mean() == search.best_score_


def test_it_is_pickled_and_cloned():
    labels = np.array(["setosa", "versicolor", "virginica"])[Y_IRIS]
    fitted = DistSGDClassifier(max_iter=20, random_state=0).fit(X_IRIS, labels)
    copy = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(copy.predict_proba(X_IRIS), fitted.predict_proba(X_IRIS))
    assert set(copy.predict(X_IRIS)) <= set(labels)
    again = clone(fitted)
    assert not hasattr(again, "coefs_")
    assert again.fit(X_IRIS, labels).weights_sha256_ == fitted.weights_sha256_


def test_what_is_fitted_has_the_shapes_and_names_of_scikit_learns():
    fitted = DistSGDClassifier((7,), max_iter=5, random_state=0).fit(X_IRIS, Y_IRIS)
    assert [w.shape for w in fitted.coefs_] == [(4, 7), (7, 3)]
    assert [b.shape for b in fitted.intercepts_] == [(7,), (3,)]
    assert (fitted.n_layers_, fitted.n_outputs_, fitted.out_activation_) == (3, 3, "softmax")
    assert len(fitted.loss_curve_) == fitted.n_iter_ == 5
    linear = DistSGDClassifier((), max_iter=5, random_state=0).fit(X_IRIS, Y_IRIS)
    assert [w.shape for w in linear.coefs_] == [(4, 3)]
    h = np.maximum(X_IRIS @ fitted.coefs_[0] + fitted.intercepts_[0], 0) @ fitted.coefs_[1] + fitted.intercepts_[1]
    expected = np.exp(h) / np.exp(h).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(fitted.predict_proba(X_IRIS), expected, atol=1e-5)


def test_rows_with_weights_are_like_repeated_rows_and_weight_0_leaves_a_row_out():
    weights = np.arange(len(X_IRIS)) % 3
    repeated = np.repeat(np.arange(len(X_IRIS)), weights)
    values = {"max_iter": 30, "batch_size": 1000, "random_state": 0}
    weighted = DistSGDClassifier(**values).fit(X_IRIS, Y_IRIS, sample_weight=weights)
    twice = DistSGDClassifier(**values).fit(X_IRIS[repeated], Y_IRIS[repeated])
    assert weighted.weights_sha256_ == twice.weights_sha256_
    with pytest.raises(ValueError, match="weight -1 in sample_weight"):
        DistSGDClassifier().fit(X_IRIS, Y_IRIS, sample_weight=weights - 1.0)


def test_class_weights_favour_a_class():
    rare = (Y_IRIS != 2) | (np.arange(len(Y_IRIS)) % 10 == 0)
    X, y = X_IRIS[rare], Y_IRIS[rare]
    found = {}
    for weight in (None, "balanced", {0: 1.0, 1: 1.0, 2: 50.0}):
        fitted = DistSGDClassifier(max_iter=60, learning_rate_init=0.01, random_state=0, class_weight=weight).fit(X, y)
        found[str(weight)] = fitted.predict_proba(X)[:, 2].mean()
    assert found["None"] < found["balanced"] < found[str({0: 1.0, 1: 1.0, 2: 50.0})]


def test_the_first_epochs_of_partial_fit_are_those_of_fit():
    values = {"solver": "sgd", "learning_rate_init": 0.1, "random_state": 0, "batch_size": 40}
    fitted, partial = DistSGDClassifier(max_iter=5, **values).fit(X_IRIS, Y_IRIS), DistSGDClassifier(**values)
    for _ in range(5):
        partial.partial_fit(X_IRIS, Y_IRIS, classes=[0, 1, 2])
    assert partial.weights_sha256_ == fitted.weights_sha256_
    one = DistSGDClassifier(**values).partial_fit(X_IRIS[:1], Y_IRIS[:1], classes=[0, 1, 2])
    assert one.predict_proba(X_IRIS[:1]).shape == (1, 3)
    with pytest.raises(ValueError, match="labels not in `classes`"):
        one.partial_fit(X_IRIS[:1], [7])


def test_early_stopping_keeps_the_weights_of_the_best_score():
    fitted = DistSGDClassifier(max_iter=200, early_stopping=True, n_iter_no_change=3, random_state=0)
    fitted.fit(X_DIGITS[:600], Y_DIGITS[:600])
    assert fitted.n_iter_ < 200
    assert fitted.best_validation_score_ == max(fitted.validation_scores_)
    assert fitted.best_loss_ is None


def test_a_loss_without_a_gain_ends_training_and_max_iter_warns():
    fitted = DistSGDClassifier(max_iter=500, tol=0.05, n_iter_no_change=2, random_state=0).fit(X_IRIS, Y_IRIS)
    assert fitted.n_iter_ < 500
    with pytest.warns(ConvergenceWarning, match="3 iterations"):
        DistSGDClassifier(max_iter=3, random_state=0).fit(X_IRIS, Y_IRIS)


def table() -> pd.DataFrame:
    frame = pd.DataFrame(X_IRIS, columns=["a", "b", "c", "d"])
    frame["colour"] = np.where(Y_IRIS > 0, "red", "blue")
    return frame


def test_frames_with_text_and_files_are_read_as_distsgd_train_reads_them(tmp_path):
    values = {"max_iter": 20, "learning_rate_init": 0.02, "random_state": 0}
    frame = table()
    of_frame = DistSGDClassifier(**values).fit(frame, Y_IRIS)
    assert of_frame.feature_names_in_.tolist() == ["a", "b", "c", "d", "colour"]
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pandas(frame.assign(kind=Y_IRIS)), path)
    of_file = DistSGDClassifier(**values).fit(path, "kind")
    arrow = pa.Table.from_pandas(frame)
    of_arrow = DistSGDClassifier(**values).fit(arrow, Y_IRIS)
    assert of_frame.weights_sha256_ == of_file.weights_sha256_ == of_arrow.weights_sha256_
    expected = of_frame.predict(frame).tolist()
    assert of_frame.predict(frame[["colour", "d", "c", "b", "a"]]).tolist() == expected
    assert of_file.predict(path).tolist() == of_arrow.predict(arrow).tolist() == expected
    with pytest.raises(ValueError, match="X is a path: y is the name"):
        DistSGDClassifier().fit(path, Y_IRIS)


def test_polars_frames_are_taken():
    polars = pytest.importorskip("polars")
    frame = polars.from_pandas(table())
    ours = [DistSGDClassifier(max_iter=5, random_state=0).fit(X, Y_IRIS).weights_sha256_ for X in (frame, table())]
    assert ours[0] == ours[1]
    numbers = frame.drop("colour")
    fitted = DistSGDClassifier(max_iter=5, random_state=0).fit(numbers, Y_IRIS)
    assert fitted.feature_names_in_.tolist() == ["a", "b", "c", "d"]


def test_fits_in_threads_of_a_process_do_not_disturb_each_other():
    alone, found = sha(max_iter=8), []
    threads = [threading.Thread(target=lambda: found.append(sha(max_iter=8))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [alone] * 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_layer_sizes": (5, 3)}, "one hidden layer"),
        ({"solver": "lbfgs"}, "solver"),
        ({"shuffle": False}, "shuffle"),
        ({"learning_rate_init": 0.0}, "learning_rate_init"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        DistSGDClassifier(**values).fit(X_IRIS, Y_IRIS)


def test_training_that_diverges_says_what_helps():
    with pytest.raises(ValueError, match="not finite"):
        DistSGDClassifier(solver="sgd", learning_rate_init=1e20, random_state=0).fit(X_IRIS * 100, Y_IRIS)
    with pytest.raises(ValueError, match="one class"):
        DistSGDClassifier().fit(X_IRIS[:10], Y_IRIS[:10])
    with pytest.raises(ValueError, match="float32 cannot hold"):
        DistSGDClassifier().fit(X_IRIS * 1e40, Y_IRIS)


IN_TASK = """
import ray
from sklearn.datasets import load_iris
from distsgd.sklearn import DistSGDClassifier

def sha(workers):
    values = {"max_iter": 3, "random_state": 0, "num_shards": 2}
    return DistSGDClassifier(workers=workers, **values).fit(*load_iris(return_X_y=True)).weights_sha256_

ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
task = ray.remote(num_cpus=1)(sha)
assert ray.get([task.remote(0)]) == ray.get([task.remote(1)]) == [sha(0)]
ray.shutdown()
"""


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_within_a_ray_task_it_trains_there_or_with_workers_of_that_ray():
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_TASK], env=environment, capture_output=True, text=True, timeout=150
    )
    assert ended.returncode == 0, ended.stderr


def test_runs_in_threads_of_a_process_have_the_bits_of_one_alone(own_folder):
    found: list[object] = []

    def train() -> None:
        found.append(distsgd.train({"run.workers": 0, "tracking.enabled": False, "train.epochs": 2}).weights_sha256)

    threads = [threading.Thread(target=train) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    train()
    assert len(found) == 3
    assert len(set(found)) == 1


@pytest.mark.parametrize("weight", [1e-60, 1e60])
def test_weights_that_float32_cannot_hold_are_refused_and_the_next_fit_begins_anew(weight):
    X, y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2
    model = DistSGDClassifier(max_iter=2)
    with pytest.raises(ValueError, match="in sample_weight; expected 0, or 1e-20 to 1e"):
        model.fit(X, y, sample_weight=np.full(20, weight))
    with pytest.raises(NotFittedError):
        model.predict(X)
    assert model.partial_fit(X, y, classes=[0, 1]).predict(X).shape == (20,)
