"""scikit-learn's own tests of `MLPClassifier` and `MLPRegressor`, with the import exchanged.

The file is that of the installed version. Each test that is not run is named below, with the reason.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import sklearn.neural_network

SUITE = Path(sklearn.neural_network.__file__).parent / "tests" / "test_mlp.py"
IMPORT = "from sklearn.neural_network import MLPClassifier, MLPRegressor"

LBFGS = "uses solver='lbfgs', which needs all rows at once and is no mini-batch SGD"
PRIVATE = "reads or writes private attributes of MLPClassifier's optimizer"
DEEP = "has two hidden layers; these nets have one"


NOT_APPLICABLE = {
    "test_fit": "sets coefs_ of an estimator that was never fitted, which are no attributes of their own here",
    "test_gradient": LBFGS,
    "test_lbfgs_classification": LBFGS,
    "test_lbfgs_classification_maxfun": LBFGS,
    "test_lbfgs_regression": LBFGS,
    "test_lbfgs_regression_maxfun": LBFGS,
    "test_learning_rate_warmstart": PRIVATE,
    "test_adaptive_learning_rate": PRIVATE,
    "test_multilabel_classification": LBFGS,
    "test_predict_proba_multilabel": LBFGS,
    "test_multioutput_regression": LBFGS,
    "test_partial_fit_errors": LBFGS,
    "test_sparse_matrices": "rows are dense here",
    "test_warm_start": LBFGS,
    "test_shuffle": "switches the shuffling of rows off, which is a keyed order here in every epoch",
    "test_mlp_diverging_loss": "uses activation='identity', which is no hidden layer here",
    "test_nonfinite_params": "has features that float32 cannot hold, which are refused before training",
    "test_early_stopping_stratified": "expects labels to be named as True and False; the class itself is named here",
    "test_mlp_classifier_dtypes_casting": DEEP,
    "test_mlp_regressor_dtypes_casting": DEEP,
    "test_mlp_param_dtypes": DEEP,
    "test_preserve_feature_names": "trains on labels that are all the same, which is refused",
    "test_mlp_vs_poisson_glm_equivalent": LBFGS,
}

ELSEWHERE = re.compile(r"lbfgs")
"""Cases that are not run of the tests with parameters."""


def exchanged() -> object:
    """Return the suite as a module in which distsgd's estimators have taken the places of scikit-learn's."""
    text = SUITE.read_text(encoding="utf-8")
    assert IMPORT in text
    ours = "from distsgd.sklearn import DistSGDClassifier as MLPClassifier, DistSGDRegressor as MLPRegressor"
    spec = importlib.util.spec_from_loader("mlp_suite", loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mlp_suite"] = module
    exec(compile(text.replace(IMPORT, ours), str(SUITE), "exec"), vars(module))
    return module


SUITE_TESTS = {name: test for name, test in vars(exchanged()).items() if name.startswith("test_")}

for _name, _test in SUITE_TESTS.items():
    if _name not in NOT_APPLICABLE:
        globals()[_name] = pytest.mark.slow(_test)

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("default::UserWarning"),
]


@pytest.fixture(autouse=True)
def _without_lbfgs(request):
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None and ELSEWHERE.search(callspec.id):
        pytest.skip(f"this case {LBFGS}")


def test_each_test_that_does_not_apply_exists():
    assert set(NOT_APPLICABLE) <= set(SUITE_TESTS)
    assert len(SUITE_TESTS) - len(NOT_APPLICABLE) > 15
