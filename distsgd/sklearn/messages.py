"""Messages on rows, which speak of configuration keys, in the terms of an estimator."""

from __future__ import annotations

import re

from distsgd.core.losses import Target
from distsgd.data.label_types import FOR_CLASSES

TERMS = {
    "train.class_weight": "class_weight",
    "passed to train()": "passed to fit()",
    "model.loss=squared predicts": "a regressor predicts",
    "set model.loss=squared to predict": "use DistSGDRegressor to predict",
    "choose another column with data.label": "choose another label column",
    "fill them with --set data.missing=mean (or zero)": "fill them, for example with SimpleImputer",
    "fill the others with --set data.missing=mean (or zero)": "fill the others, for example with SimpleImputer",
}

PARAMETERS = {
    "model.activation": "activation",
    "model.hidden": "hidden_layer_sizes",
    "optim.beta1": "beta_1",
    "optim.beta2": "beta_2",
    "optim.epsilon": "epsilon",
    "optim.l2": "alpha",
    "optim.lr": "learning_rate_init",
    "optim.momentum": "momentum",
    "run.threads": "threads",
    "run.workers": "workers",
    "train.arithmetic": "arithmetic",
    "train.batch_size": "batch_size",
    "train.epochs": "max_iter",
}
"""Keys of the configuration, and the parameters of estimators that set them."""

KEY = re.compile(rf"\b({'|'.join(map(re.escape, PARAMETERS))})\b(?!=)")
"""One of these keys, unless a value for it follows."""

EXCLUDED = re.compile(r"--set (?:'data\.exclude=([^']*)'|data\.exclude=(\S*[^\s,;]))")
"""The setting that leaves columns out."""

LABEL = re.compile(r"--set (?:'data\.label=([^']*)'|data\.label=(\S*[^\s,;]))")
"""The setting that names the label column."""

SETTING = re.compile(r"--set ('[^']*'|\S*[^\s,;])")
"""Any other one, which estimators do not have."""


def in_terms_of_estimators(message: str, target: Target) -> str:
    """Return a message about rows whose labels are of a kind, as an estimator's user needs it."""
    for_classes = "use DistSGDClassifier, which takes" if target == "numbers" else "name one column: it may hold"
    for configured, here in (TERMS | {FOR_CLASSES: f"{for_classes} text as classes"}).items():
        message = message.replace(configured, here)
    message = EXCLUDED.sub(lambda found: f"drop {found[1] or found[2]}", message)
    message = LABEL.sub(lambda found: f"y={found[1] or found[2]!r}", message)
    return with_parameters(SETTING.sub(r"\1 of distsgd.train", message))


def with_parameters(message: str) -> str:
    """Return a message with the names of parameters in the place of keys."""
    return KEY.sub(lambda found: PARAMETERS[found[1]], message)
