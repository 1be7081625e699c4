"""DistSGDClassifier: the same bits on threads and on Ray, in scikit-learn's tools, with frames, files and weights."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import warnings

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
from distsgd.errors import RunWarning
from distsgd.sklearn import DistSGDClassifier
from distsgd.sklearn.settings import configuration
from distsgd.sklearn.tables import load_table

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
@pytest.mark.usefixtures("joined")
def test_any_number_of_threads_and_of_workers_gives_the_same_bits():
    shas = {sha(threads=threads) for threads in (1, 2, "auto")}
    with distsgd.session():
        shas.add(sha(workers=2))
        assert sha(workers=3, num_shards=1) == sha(num_shards=1)  # there are no more workers than shards
    assert len(shas) == 1
    assert sha(random_state=4) not in shas


def test_a_single_shard_is_computed_here_whatever_the_workers(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("Ray was asked for")

    monkeypatch.setattr("distsgd.cluster.connection.CONNECTION.used", refuse)
    few = DistSGDClassifier(max_iter=3, random_state=0)
    found = {few.set_params(workers=workers).fit(X_IRIS, Y_IRIS).weights_sha256_ for workers in (0, 2, "auto")}
    assert len(found) == 1
    with pytest.raises(AssertionError, match="Ray was asked for"):
        few.set_params(workers=2, num_shards=2).fit(X_IRIS, Y_IRIS)


@pytest.mark.slow
@pytest.mark.usefixtures("joined")
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


def several_labels(rows: int = 300) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import make_multilabel_classification

    X, y = make_multilabel_classification(rows, n_features=8, n_classes=4, random_state=0)
    return X / 10, y


def test_several_labels_are_predicted_as_an_indicator_with_probabilities():
    X, y = several_labels()
    values = {"hidden_layer_sizes": (30,), "max_iter": 60, "learning_rate_init": 0.02, "random_state": 0}
    ours, theirs = (kind(**values).fit(X, y) for kind in (DistSGDClassifier, MLPClassifier))
    predicted, p = ours.predict(X), ours.predict_proba(X)
    assert predicted.shape == p.shape == y.shape
    assert predicted.dtype.kind == "i"
    assert np.array_equal(predicted, p > 0.5)
    assert ours.classes_.tolist() == theirs.classes_.tolist() == [0, 1, 2, 3]
    assert (ours.out_activation_, ours.n_outputs_) == (theirs.out_activation_, theirs.n_outputs_) == ("logistic", 4)
    assert ours.score(X, y) == pytest.approx(theirs.score(X, y), abs=0.1)
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=0.3)
    h = np.maximum(X @ ours.coefs_[0] + ours.intercepts_[0], 0) @ ours.coefs_[1] + ours.intercepts_[1]
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-h)), atol=1e-5)
    assert np.array_equal(pickle.loads(pickle.dumps(ours)).predict(X), predicted)
    shas = {DistSGDClassifier(**values, num_shards=3, threads=n).fit(X, y).weights_sha256_ for n in (1, 2)}
    assert len(shas) == 1


def test_several_labels_in_partial_fit_early_stopping_and_with_weights():
    X, y = several_labels()
    partial = DistSGDClassifier((50,), solver="sgd", learning_rate_init=0.2, batch_size=50, random_state=0)
    for _ in range(60):
        partial.partial_fit(X, y, classes=[0, 1, 2, 3])
    assert partial.score(X, y) > 0.6
    with pytest.raises(ValueError, match=r"`y` is of shape \(300, 3\); expected \(n, L\) with a column for each"):
        partial.partial_fit(X, y[:, :3])
    with pytest.raises(ValueError, match=r"`y` is of shape \(300,\); expected \(n, L\)"):
        partial.partial_fit(X, y[:, 0])
    early = DistSGDClassifier(early_stopping=True, max_iter=300, random_state=0).fit(X, y)
    assert early.best_validation_score_ == max(early.validation_scores_)
    weights = np.arange(100) % 3
    repeated = np.repeat(np.arange(100), weights)
    whole = {"max_iter": 10, "batch_size": 1000, "random_state": 0}
    weighted = DistSGDClassifier(**whole).fit(X[:100], y[:100], sample_weight=weights)
    assert weighted.weights_sha256_ == DistSGDClassifier(**whole).fit(X[repeated], y[repeated]).weights_sha256_
    for kind, message in ((y + 1, "other values than 0 and 1"), (X[:, :2], "Unknown label type")):
        with pytest.raises(ValueError, match=message):
            DistSGDClassifier().fit(X, kind)
    with pytest.raises(ValueError, match="class_weight is for one class for each row"):
        DistSGDClassifier(class_weight="balanced").fit(X, y)
    fitted = DistSGDClassifier(max_iter=2, warm_start=True, random_state=0).fit(X, y)
    assert fitted.fit(X, y).n_iter_ == 2
    with pytest.raises(ValueError, match="warm_start can only be used where `y` has the same classes"):
        fitted.fit(X, y[:, 0])


def test_several_labels_beside_text_and_in_files(tmp_path):
    X, y = several_labels()
    frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(8)]).assign(colour=np.where(X[:, 0] > 0.5, "red", "blue"))
    values = {"max_iter": 10, "random_state": 0}
    of_frame = DistSGDClassifier(**values).fit(frame, y)
    assert of_frame.classes_.tolist() == [0, 1, 2, 3]
    assert of_frame.predict(frame).shape == y.shape
    path = tmp_path / "rows.parquet"
    names = ["a", "b", "c", "d"]
    pq.write_table(pa.Table.from_pandas(frame.assign(**dict(zip(names, y.T, strict=True)))), path)
    of_file = DistSGDClassifier(**values).fit(path, names)
    assert of_file.classes_.tolist() == names
    assert of_file.weights_sha256_ == of_frame.weights_sha256_
    assert np.array_equal(of_file.predict_proba(path), of_frame.predict_proba(frame))


def test_adam_counts_the_updates_of_batches_of_different_sizes():
    """Its correction divides by 1 − β^t: with t too small, a step is several times too long."""
    sizes, values = [120, 10, 75, 150, 3], {"batch_size": 20, "random_state": 0, "hidden_layer_sizes": (5,)}
    ours = DistSGDClassifier(**values)
    for size in sizes:
        ours.partial_fit(X_IRIS[:size], Y_IRIS[:size], classes=[0, 1, 2])
        m, v = (ours._snapshot.slots[name].astype("f8") for name in ("mean", "squares"))
        before = ours._snapshot.parameters.astype("f8")
    updates = sum(-(-size // 20) for size in sizes)
    assert ours._updates == updates
    X, y = X_IRIS[3:13], Y_IRIS[3:13]
    net, alpha = ours._net, 0.0001
    W1, b1, W2, b2 = net.split(before)
    h = np.maximum(X @ W1 + b1, 0)
    s = h @ W2 + b2
    p = np.exp(s) / np.exp(s).sum(axis=1, keepdims=True)
    p[np.arange(10), y] -= 1
    dh = (p @ W2.T) * (h > 0)
    parts = [X.T @ dh + alpha * W1, dh.sum(axis=0), h.T @ p + alpha * W2, p.sum(axis=0)]
    g = np.concatenate([part.ravel() for part in parts]) / 10
    t = updates + 1
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    expected = before - 0.001 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    found = ours.partial_fit(X, y)._snapshot.parameters
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-6)


def test_held_out_rows_count_by_sample_weight_and_not_by_class_weight():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 3)), rng.integers(2, size=200)
    weights = rng.choice([1.0, 5.0], 200)
    values = {"early_stopping": True, "validation_fraction": 0.5, "max_iter": 1, "random_state": 0}
    model = DistSGDClassifier(**values, class_weight={0: 100.0, 1: 1.0}).fit(X, y, sample_weight=weights)
    from sklearn.model_selection import train_test_split

    _, held_out = train_test_split(np.arange(200), random_state=0, test_size=0.5, stratify=y)
    assert model.validation_scores_ == [
        pytest.approx(model.score(X[held_out], y[held_out], sample_weight=weights[held_out]), abs=1e-6)
    ]


def test_an_activation_without_a_hidden_layer_is_refused_as_on_the_command_line():
    model = DistSGDClassifier(hidden_layer_sizes=(), activation="tanh")
    assert clone(model).get_params() == model.get_params()
    with pytest.raises(
        ValueError, match=r"activation is 'tanh' and hidden_layer_sizes is \(\); without a hidden layer"
    ):
        model.fit(X_IRIS, Y_IRIS)


def table_of_text(rows: int = 240) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    frame = pd.DataFrame({"size": rng.normal(size=rows), "colour": rng.choice(["red", "blue", "grey"], rows)})
    large = frame["size"] + (frame["colour"] == "red") + rng.normal(size=rows) > 0.4
    return frame, np.where(large, "yes", "no"), rng.integers(0, 4, rows)


def test_weights_beside_text_and_files_are_like_repeated_rows(tmp_path):
    frame, y, weights = table_of_text()
    values = {"max_iter": 10, "batch_size": 1000, "random_state": 0}
    weighted = DistSGDClassifier(**values).fit(frame, y, sample_weight=weights)
    again = np.repeat(np.arange(len(y)), weights)
    repeated = DistSGDClassifier(**values).fit(frame.iloc[again], y[again])
    np.testing.assert_allclose(weighted.predict_proba(frame), repeated.predict_proba(frame), atol=1e-5)
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pandas(frame.assign(label=y)), path)
    for X, label in ((path, None), (frame.assign(label=y), "label")):
        assert DistSGDClassifier(**values).fit(X, label, weights).weights_sha256_ == weighted.weights_sha256_


def test_class_weights_beside_text_favour_a_class_and_are_those_of_arrays():
    frame, y, weights = table_of_text()
    values = {"max_iter": 10, "batch_size": 50, "random_state": 0}
    plain = DistSGDClassifier(**values).fit(frame, y)
    favoured = DistSGDClassifier(**values, class_weight={"yes": 9, "no": 1}).fit(frame, y)
    assert (favoured.predict(frame) == "yes").mean() > (plain.predict(frame) == "yes").mean() + 0.1
    numbers = (y == "yes") * 1
    named = [DistSGDClassifier(**values, class_weight=w).fit(frame, numbers) for w in ({1: 9, 0: 1}, {True: 9, 0.0: 1})]
    assert {model.weights_sha256_ for model in named} == {favoured.weights_sha256_}
    X = np.stack([frame["size"], *(frame["colour"] == name for name in ("blue", "grey", "red"))], axis=1)
    # Rows of weight 0 are left out of a table at once, and of arrays after their order in the mini-batch is known.
    balanced = {"class_weight": "balanced", "max_iter": 10, "batch_size": 1000, "random_state": 0}
    of_table = DistSGDClassifier(**balanced).fit(frame, y, weights + 1)
    of_array = DistSGDClassifier(**balanced).fit(X, y, weights + 1)
    np.testing.assert_allclose(of_table.predict_proba(frame), of_array.predict_proba(X), atol=1e-5)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(5), "passed to fit.. has 240 rows and sample_weight has 5 weights; expected one for each row"),
        (np.full(240, -1.0), "row 0 .*weight -1 in sample_weight; expected 0, which leaves the row out"),
        (np.full(240, np.nan), "weight nan in sample_weight"),
        (np.zeros(240), "every weight in sample_weight is 0"),
        (np.ones((240, 1)), r"sample_weight is of shape \(240, 1\)"),
        (["heavy"] * 240, "sample_weight holds something else than numbers"),
    ],
)
def test_weights_that_fit_no_table_are_refused(weights, message):
    frame, y, _ = table_of_text()
    with pytest.raises(ValueError, match=message):
        DistSGDClassifier().fit(frame, y, weights)


@pytest.mark.parametrize(
    ("class_weight", "message"),
    [
        ({"yess": 2}, r"^class_weight names 'yess' \(did you mean 'yes'\?\), which is no class"),
        ("heavy", "class_weight is 'heavy'; expected 'balanced', a dict"),
        ({"yes": -1}, "class_weight gives class 'yes' the weight -1; expected a finite number of at least 0"),
    ],
)
def test_weights_of_classes_that_fit_no_table_are_refused(class_weight, message):
    frame, y, _ = table_of_text()
    with pytest.raises(ValueError, match=message):
        DistSGDClassifier(class_weight=class_weight).fit(frame, y)


@pytest.mark.parametrize("workers", [0, 2, "auto"])
def test_training_is_on_cpus_whatever_the_workers(workers):
    """GPUs come to other bits, and the number of workers must not decide on them."""
    estimator = DistSGDClassifier(workers=workers, num_shards=4)
    config = configuration(estimator, 1000, 10, 64, loss="softmax")
    assert (config.run.device, config.run.workers) == ("cpu", workers)


@pytest.mark.parametrize("earlier", [False, True], ids=["first fit", "later fit"])
@pytest.mark.parametrize("fails", ["other classes", "warm start", "frame"])
def test_a_fit_that_fails_leaves_the_estimator_as_it_was(earlier, fails):
    model = DistSGDClassifier(max_iter=3, random_state=0)
    if earlier:
        model.fit(X_IRIS, Y_IRIS)
        curve, predicted, weights = list(model.loss_curve_), model.predict(X_IRIS), model.coefs_[0].copy()
    model.set_params(learning_rate_init=1e30, solver="sgd", warm_start=fails == "warm start")
    before = set(vars(model))
    frame, labels, _ = table_of_text()
    rows = {"other classes": (X_IRIS, Y_IRIS + 5), "warm start": (X_IRIS, Y_IRIS), "frame": (frame, labels)}
    with pytest.raises(ValueError, match="not finite"):
        model.fit(*rows[fails])
    assert vars(model).keys() == before
    if not earlier:
        with pytest.raises(NotFittedError):
            model.predict(X_IRIS)
        return
    assert model.loss_curve_ == curve
    assert list(model.classes_) == [0, 1, 2]
    np.testing.assert_array_equal(model.predict(X_IRIS), predicted)
    np.testing.assert_array_equal(model.coefs_[0], weights)


def test_portable_arithmetic_takes_any_rows_in_any_call_of_partial_fit():
    rows = [X_DIGITS[:300], X_DIGITS[300:600] * 1000, X_DIGITS[600:900] / 1000 - 3]
    weights = np.random.default_rng(0).uniform(0.1, 9, 300)
    found = set()
    for shards in (1, 3, 8):
        estimator = DistSGDClassifier(arithmetic="portable", num_shards=shards, random_state=0, threads=2)
        for part in rows:  # each call has bounds of its own
            estimator.partial_fit(part, Y_DIGITS[:300], classes=range(10), sample_weight=weights)
        assert np.isfinite(estimator.loss_curve_).all()
        found.add(estimator.weights_sha256_)
    assert len(found) == 1


def test_a_failed_partial_fit_leaves_the_estimator_as_it_was():
    model = DistSGDClassifier(solver="sgd", batch_size=50, random_state=0)
    model.partial_fit(X_IRIS, Y_IRIS, classes=[0, 1, 2])
    predicted, steps = model.predict(X_IRIS), len(model.loss_curve_)
    model.set_params(learning_rate_init=1e30)
    with pytest.raises(ValueError, match="not finite"):
        model.partial_fit(X_IRIS, Y_IRIS)
    assert (model.n_iter_, len(model.loss_curve_)) == (1, steps)
    np.testing.assert_array_equal(model.predict(X_IRIS), predicted)


def test_the_random_state_says_which_rows_of_a_table_are_held_out(monkeypatch):
    held_out: list[bytes] = []

    def noted(*args: object) -> object:
        data, settings = load_table(*args)
        held_out.append(data.val.X.tobytes())
        return data, settings

    monkeypatch.setattr("distsgd.sklearn.base.load_table", noted)
    frame, y, _ = table_of_text()
    for state in (0, 0, 1, np.random.RandomState(0)):
        DistSGDClassifier(max_iter=1, early_stopping=True, random_state=state).fit(frame, y)
    assert held_out[0] == held_out[1] == held_out[3]
    assert held_out[0] != held_out[2]


@pytest.mark.parametrize("frame", [False, True])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_a_class_that_no_held_out_row_is_predicted_as_is_warned_of(frame, class_weight):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(400, 3)), np.array(["usual"] * 380 + ["rare"] * 20)
    data = pd.DataFrame(X, columns=["a", "b", "c"]).assign(d="text") if frame else X
    model = DistSGDClassifier(
        (), early_stopping=True, learning_rate_init=0.5, random_state=1, class_weight=class_weight
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(data, y)
    remarks = [str(found.message) for found in caught if found.category is RunWarning]
    remarks = [text for text in remarks if "is predicted as class" in text]
    if class_weight is None:
        (remark,) = remarks
        assert remark.startswith("no held-out row is predicted as class 'rare'")
        assert 'count more with class_weight = "balanced"' in remark
    else:
        assert not any("class_weight" in text for text in remarks)
