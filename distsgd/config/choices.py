"""Which of a key's choices somebody means who writes another value: its name in other libraries, or a typing error."""

from __future__ import annotations

from collections.abc import Sequence

from distsgd.errors import nearest

SYNONYMS: dict[str, dict[str, str]] = {
    "model.loss": {
        "cross_entropy": "softmax",
        "crossentropy": "softmax",
        "categorical_crossentropy": "softmax",
        "sparse_categorical_crossentropy": "softmax",
        "log_loss": "softmax",
        "nll": "softmax",
        "svm": "hinge",
        "multi_margin": "hinge",
        "bce": "logistic",
        "bce_with_logits": "logistic",
        "binary_crossentropy": "logistic",
        "sigmoid": "logistic",
        "multilabel": "logistic",
        "mse": "squared",
        "l2": "squared",
        "mean_squared_error": "squared",
        "squared_error": "squared",
        "regression": "squared",
    },
    "model.activation": {"logistic": "sigmoid", "leakyrelu": "leaky_relu"},
    "optim.rule": {
        "momentum": "sgd",
        "nesterov": "sgd",
        "gradient_descent": "sgd",
        "adam_w": "adamw",
        "rms_prop": "rmsprop",
        "ada_grad": "adagrad",
    },
    "optim.schedule": {
        "cosine_annealing": "cosine",
        "cosineannealinglr": "cosine",
        "step_lr": "step",
        "steplr": "step",
        "none": "constant",
    },
    "train.stopping_metric": {
        "val_loss": "loss",
        "log_loss": "loss",
        "acc": "accuracy",
        "val_accuracy": "accuracy",
        "f1": "macro_f1",
        "f1_macro": "macro_f1",
        "auc": "roc_auc",
        "auroc": "roc_auc",
        "rocauc": "roc_auc",
        "roc_auc_ovr": "roc_auc",
    },
    "data.normalize": {
        "std": "standard",
        "zscore": "standard",
        "z_score": "standard",
        "standard_scaler": "standard",
        "no": "none",
        "off": "none",
    },
    "data.categorical": {"dummies": "one-hot", "dummy": "one-hot", "onehot": "one-hot", "hashing": "hash"},
    "data.missing": {"error": "refuse", "raise": "refuse", "0": "zero", "average": "mean"},
    "run.device": {"gpu": "cuda"},
}
"""What PyTorch, Keras and scikit-learn call the choices of some keys, in lower case and with underscores."""


def meant(key: str, value: object, choices: Sequence[str]) -> str:
    """Return ` (did you mean 'squared'?)` for a value that is none of a key's choices; empty if none is near."""
    if not isinstance(value, str):
        return ""
    word = value.strip().lower().replace("-", "_").replace(" ", "_").replace("/", "_")
    found = SYNONYMS.get(key, {}).get(word)
    if found is not None:
        return f" (did you mean {found!r}?)"
    return nearest(word, choices)
