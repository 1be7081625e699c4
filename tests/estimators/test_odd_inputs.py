"""What estimators refuse: a ValueError that says what was found, in their own terms; and what they take."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse as sp

from distsgd.sklearn import DistSGDClassifier, DistSGDRegressor

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.timeout(60),
]

X = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
Y = np.arange(30) % 3
FRAME = pd.DataFrame(X, columns=list("abc"))
TEXT = FRAME.assign(k=["u", "v"] * 15)


@pytest.fixture(params=[DistSGDClassifier, DistSGDRegressor])
def model(request):
    return request.param(max_iter=2, random_state=0)


def masked() -> np.ma.MaskedArray:
    return np.ma.masked_array(X, X > 1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (X[:0], "0 sample"),
        (X[:, 0], "Expected 2D array"),
        (X * np.float32(np.nan), "contains NaN"),
        (np.full((30, 3), 1e39), "float32 cannot hold"),
        (X + 1j, "Complex data"),
        (masked(), "masked array"),
        (
            TEXT.assign(k=pd.Timestamp("2026-01-01")),
            r"no features\n(.*\n)* .*: drop k\n  - or to use a date",
        ),
        (
            TEXT.assign(k=[None, "u"] * 15),
            r"row 0 .*\n(.*\n)  - fill them, for example with SimpleImputer, or .*: drop k",
        ),
        (TEXT.assign(**{"a b": [[1]] * 30}), "holds lists"),
        (pd.DataFrame({"k": map(str, range(30))}), "hash them: data.categorical=hash of distsgd.train"),
        (FRAME.astype("Float64").mask(FRAME > 1), "contains NaN"),
        (pd.DataFrame(X, columns=["a", "a", "b"]), "2 columns of X have the name 'a'; expected one"),
        (pa.Table.from_arrays([pa.array(X[:, 0])] * 2, names=["a", "a"]), "2 columns of X have the name 'a'"),
        (pa.table({"a": [None, "x"] * 15}), "null in column 'a'"),
        (pl.DataFrame(X).with_columns(k=pl.lit(datetime.date(2026, 1, 1))), "dates and times are no features"),
        (pl.DataFrame(X).lazy(), r"no rows yet; pass X\.collect"),
        (TEXT[:0], "has no rows"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused(model, rows, message):
    with pytest.raises(ValueError, match=message) as refused:
        model.fit(rows, Y[: np.shape(rows)[0]] if isinstance(rows, np.ndarray | pd.DataFrame) else Y)
    assert "--set" not in str(refused.value)
    assert "model_" not in vars(model)


def test_a_loss_that_is_not_finite_comes_with_what_helps(model):
    model.set_params(learning_rate_init=1e38, solver="sgd")
    with pytest.raises(ValueError, match=r"not finite: scale the features, .* or lower learning_rate_init"):
        model.fit(X, Y)


def test_sparse_rows_are_refused_as_scikit_learn_does(model):
    for rows in (sp.csr_matrix(X), sp.dok_matrix(X)):
        with pytest.raises(TypeError, match="Sparse data was passed for X, but dense data is required"):
            model.fit(rows, Y)


@pytest.mark.parametrize(
    "rows",
    [
        X > 0,
        X.astype(np.float16),
        (X * 1e3).astype(np.int64),
        X.astype(object),
        FRAME.astype("Float64"),
        (FRAME > 0).astype("boolean"),
        FRAME.astype("float[pyarrow]"),
        {"a": X[:, 0], "b": X[:, 1]},
        TEXT.astype({"k": "category"}),
        pl.DataFrame(X),
        pa.table({"a": X[:, 0]}),
    ],
    ids=str,
)
def test_rows_of_unusual_types_are_taken(model, rows):
    assert model.fit(rows, Y).predict(rows).shape == (30,)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([None, *Y[1:].tolist()], "y, row 0 .* is None; expected a class"),
        (np.array(["a", 1, 2] * 10, object), "several types, int such as 2 and str such as 'a'; make all of them text"),
        (np.zeros(30, int), "only one class is present: all labels are 0"),
        (np.linspace(0, 1, 30), "Unknown label type: continuous"),
        (np.c_[Y, Y], "should be a 1d array"),
        (2 * np.eye(3, dtype=int)[Y], "other values than 0 and 1"),
    ],
)
def test_labels_that_are_no_classes_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        DistSGDClassifier().fit(X, y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([None, *Y[1:].tolist()], "Input y contains NaN"),
        (np.full(30, 1e39), "float32 cannot hold"),
        (np.ma.masked_array(Y, Y > 1), "masked array"),
        (Y + 1j, "Complex data"),
    ],
)
def test_targets_that_are_no_numbers_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        DistSGDRegressor().fit(X, y)


def test_the_other_estimator_is_named_in_its_own_terms():
    with pytest.raises(ValueError, match="use DistSGDRegressor to predict the numbers, choose another label column"):
        DistSGDClassifier().fit(TEXT, np.linspace(0, 1, 30))
    with pytest.raises(ValueError, match=r"which one is the label.\n(.*\n)  - say so: y='k'"):
        DistSGDClassifier().fit(TEXT[["k"]])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.r_[-1, np.ones(29)], "weight -1 in sample_weight"),
        (np.zeros(30), "at least one non-zero"),
        (np.full(30, np.nan), "contains NaN"),
        (np.full(30, 1e300), "1e-20 to 1e"),
        (np.ones(29), r"expected \(30,\)"),
    ],
)
def test_weights_that_are_none_are_refused(model, weights, message):
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y, sample_weight=weights)


@pytest.mark.parametrize("weight", [np.nan, -1, np.inf, "2"])
def test_weights_of_classes_that_are_none_are_refused(weight):
    for y in (Y, None):
        rows = X if y is not None else TEXT.assign(label=Y)
        model = DistSGDClassifier(class_weight={0: weight})
        with pytest.raises(ValueError, match=r"class_weight gives class 0 the weight .*; expected a finite number"):
            model.fit(rows, y)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (TEXT.rename(columns={"a": "z"}), "no column 'a', which this model was trained on"),
        (TEXT.assign(a="q"), "'q' in row 0, counted from 0, is not a number"),
        (TEXT.assign(a=np.inf), "feature 'a' of row 0, counted from 0, is inf"),
        (pd.concat([TEXT, TEXT[["a"]]], axis=1), "2 columns have the name 'a'; expected one"),
        (X, r"features have the shape \(30, 3\); this model takes \(n, 5\)"),
    ],
)
def test_predictions_for_rows_that_do_not_fit_are_refused(model, rows, message):
    model.fit(TEXT, Y)
    with pytest.raises(ValueError, match=message):
        model.predict(rows)
    with pytest.raises(ValueError, match=message):
        model.score(rows, Y)


def test_rows_that_do_not_fit_a_model_of_arrays_are_refused(model):
    model.fit(FRAME, Y)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(FRAME[["c", "b", "a"]])
    model.fit(X, Y)
    for rows, message in (
        (np.full((2, 3), 1e39), "feature 0 of row 0, counted from 0, is 1e.39"),
        ("rows.parquet", "X is the path 'rows.parquet', and this estimator was trained on arrays"),
        (masked(), "masked array"),
    ):
        with pytest.raises(ValueError, match=message):
            model.predict(rows)


def test_partial_fit_refuses_what_does_not_go_on():
    model = DistSGDClassifier(random_state=0)
    with pytest.raises(ValueError, match="partial_fit takes X as an array of numbers"):
        model.partial_fit(TEXT, Y, classes=[0, 1, 2])
    model.partial_fit(X, Y, classes=[0, 1, 2])
    for rows, y, options, message in (
        (X, Y, {"classes": [0, 1, 2, 3]}, "not the same as on last call"),
        (X, Y + 1, {}, r"labels not in `classes`: \[3\]"),
        (X[:, :2], Y, {}, "X has 2 features"),
    ):
        with pytest.raises(ValueError, match=message):
            model.partial_fit(rows, y, **options)
    with pytest.raises(ValueError, match="partial_fit goes on after arrays alone"):
        model.fit(TEXT, Y).partial_fit(X, Y)
    with pytest.raises(ValueError, match="the shape of the net has changed; call fit"):
        model.fit(X, Y).set_params(hidden_layer_sizes=5).partial_fit(X, Y)


def test_a_setting_that_the_configuration_refuses_is_a_value_error():
    with pytest.raises(ValueError, match=r"hidden_layer_sizes is 1000000000: input should be less than"):
        DistSGDClassifier(hidden_layer_sizes=10**9).fit(X, Y)


@pytest.mark.parametrize(
    "kind", [list, lambda y: np.array(y, "U"), lambda y: np.array(y, "S"), lambda y: np.array(y, "O")]
)
def test_targets_that_are_numbers_in_text_are_read(kind):
    y = [str(value / 2) for value in Y]
    found = DistSGDRegressor(max_iter=2, random_state=0).fit(X, kind(y)).predict(X)
    assert np.array_equal(found, DistSGDRegressor(max_iter=2, random_state=0).fit(X, Y / 2).predict(X))


def test_a_column_may_have_the_name_of_a_method(model):
    model.fit(FRAME.rename(columns={"a": "collect"}), Y)
    assert model.feature_names_in_.tolist() == ["collect", "b", "c"]


def test_labels_of_text_may_be_of_several_types_of_text():
    labels = np.array([str(value) for value in Y], object)
    labels[::2] = [np.str_(value) for value in labels[::2]]
    assert DistSGDClassifier(max_iter=2).fit(X, labels).classes_.tolist() == ["0", "1", "2"]


def test_a_text_for_y_beside_an_array_is_refused():
    with pytest.raises((TypeError, ValueError), match=r"label|y"):
        DistSGDRegressor().fit(X, np.str_("label"))
