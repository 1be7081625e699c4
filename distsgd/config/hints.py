"""Which key somebody means who writes another: its name in other libraries, or a typing error."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

SIMILAR = 0.7
"""Least similarity of two names, from 0 to 1, at which one is taken for a misspelling of the other."""

SYNONYMS = {
    "learning_rate": "optim.lr",
    "learning_rate_init": "optim.lr",
    "initial_lr": "optim.lr",
    "base_lr": "optim.lr",
    "step_size": "optim.lr",
    "eta": "optim.lr",
    "eta0": "optim.lr",
    "patience": "train.early_stopping",
    "n_iter_no_change": "train.early_stopping",
    "min_delta": "train.min_gain",
    "optimizer": "optim.rule",
    "solver": "optim.rule",
    "update_rule": "optim.rule",
    "beta_1": "optim.beta1",
    "beta_2": "optim.beta2",
    "rho": "optim.beta2",
    "eps": "optim.epsilon",
    "decoupled_weight_decay": "optim.weight_decay",
    "l2_reg": "optim.l2",
    "lambda": "optim.l2",
    "reg": "optim.l2",
    "regularization": "optim.l2",
    "nesterovs_momentum": "optim.nesterov",
    "lr_scheduler": "optim.schedule",
    "lr_schedule": "optim.schedule",
    "lr_policy": "optim.schedule",
    "warmup": "optim.warmup_steps",
    "num_warmup_steps": "optim.warmup_steps",
    "gamma": "optim.decay_factor",
    "lr_decay": "optim.decay_factor",
    "eta_min": "optim.final_lr",
    "min_lr": "optim.final_lr",
    "clip": "optim.clip_norm",
    "grad_clip": "optim.clip_norm",
    "clip_grad_norm": "optim.clip_norm",
    "gradient_clip_val": "optim.clip_norm",
    "max_grad_norm": "optim.clip_norm",
    "max_norm": "optim.clip_norm",
    "hidden_size": "model.hidden",
    "hidden_dim": "model.hidden",
    "hidden_layer_sizes": "model.hidden",
    "hidden_units": "model.hidden",
    "units": "model.hidden",
    "width": "model.hidden",
    "act": "model.activation",
    "activation_function": "model.activation",
    "hidden_act": "model.activation",
    "nonlinearity": "model.activation",
    "init_std": "model.scale",
    "initializer_range": "model.scale",
    "batch": "train.batch_size",
    "batchsize": "train.batch_size",
    "minibatch_size": "train.batch_size",
    "shards": "train.num_shards",
    "n_shards": "train.num_shards",
    "n_epochs": "train.epochs",
    "nb_epoch": "train.epochs",
    "num_epochs": "train.epochs",
    "max_epochs": "train.epochs",
    "num_train_epochs": "train.epochs",
    "max_iter": "train.epochs",
    "n_iter": "train.epochs",
    "steps": "train.max_steps",
    "num_steps": "train.max_steps",
    "random_state": "train.seed",
    "random_seed": "train.seed",
    "shuffle": "train.sampling",
    "replacement": "train.sampling",
    "logging_steps": "train.log_every",
    "log_interval": "train.log_every",
    "log_every_n_steps": "train.log_every",
    "eval_interval": "train.eval_every",
    "validation_freq": "train.eval_every",
    "check_val_every_n_epoch": "train.eval_every",
    "dataset": "data.train",
    "path": "data.train",
    "train_data": "data.train",
    "train_file": "data.train",
    "val_data": "data.val",
    "valid": "data.val",
    "validation": "data.val",
    "validation_data": "data.val",
    "validation_file": "data.val",
    "test": "data.val",
    "test_data": "data.val",
    "test_file": "data.val",
    "test_size": "data.val_fraction",
    "validation_fraction": "data.val_fraction",
    "validation_split": "data.val_fraction",
    "criterion": "model.loss",
    "objective": "model.loss",
    "loss_function": "model.loss",
    "target": "data.label",
    "sample_weight": "data.weight",
    "sample_weights": "data.weight",
    "weight_column": "data.weight",
    "class_weights": "train.class_weight",
    "target_column": "data.label",
    "label_column": "data.label",
    "feature_columns": "data.features",
    "feature_names": "data.features",
    "normalise": "data.normalize",
    "normalization": "data.normalize",
    "scaler": "data.normalize",
    "standardize": "data.normalize",
    "n_classes": "data.classes",
    "num_classes": "data.classes",
    "num_workers": "run.workers",
    "n_workers": "run.workers",
    "n_jobs": "run.workers",
    "cores": "run.workers",
    "cpus": "run.workers",
    "num_cpus": "run.workers",
    "cpu": "run.device",
    "gpu": "run.device",
    "gpus": "run.device",
    "use_gpu": "run.device",
    "cuda": "run.device",
    "num_gpus": "run.gpus_per_worker",
    "num_threads": "run.blas_threads",
    "ray_address": "run.address",
    "cluster": "run.address",
    "run_dir": "run.dir",
    "output_dir": "run.dir",
    "out_dir": "run.dir",
    "log_dir": "run.dir",
    "save_dir": "run.dir",
    "max_failures": "run.max_restarts",
    "mlflow": "tracking.uri",
    "url": "tracking.uri",
    "mlflow_uri": "tracking.uri",
    "mlflow_tracking_uri": "tracking.uri",
    "tracking_uri": "tracking.uri",
    "experiment_name": "tracking.experiment",
    "save_steps": "checkpoint.every_s",
    "save_every": "checkpoint.every_s",
    "save_total_limit": "checkpoint.keep",
    "max_to_keep": "checkpoint.keep",
}
"""What PyTorch, scikit-learn, Keras, Hugging Face, Ray and MLflow call a key."""

NO_KEY = {
    "dropout": "there is no dropout: see optim.l2",
    "layers": "nets have one hidden layer, of model.hidden units, or none with model.hidden=0",
    "num_layers": "nets have one hidden layer, of model.hidden units, or none with model.hidden=0",
    "n_layers": "nets have one hidden layer, of model.hidden units, or none with model.hidden=0",
    "resume": "it is an option, --resume, and in Python an argument, resume=True",
    "quiet": "it is an option, --quiet",
    "verbose": "a run reports its progress unless --quiet is given",
}
"""What other libraries can set and distsgd cannot, with what applies instead."""


def hint(key: str, known: Sequence[str]) -> str:
    """Return what somebody who wrote the unknown `key` should write, or which command lists all keys."""
    found = key_of(key, known)
    if found is not None:
        return f" (did you mean {found!r}?)"
    return next((f" ({NO_KEY[name]})" for name in _names(key) if name in NO_KEY), "; `distsgd keys` lists all keys")


def key_of(key: str, known: Sequence[str]) -> str | None:
    """Return the known key that `key` means, whose section may be missing or wrong; None if none is near."""
    section = key.partition(".")[0]
    in_section = _by_name([full for full in known if full.startswith(f"{section}.")])
    words = SYNONYMS | _by_name(known)
    for name in _names(key):
        for meanings in (in_section, words):
            if name in meanings:
                return meanings[name]
    for name in _names(key):
        for meanings in (in_section, words):
            near = difflib.get_close_matches(name, meanings, n=1, cutoff=SIMILAR)
            if near and name not in NO_KEY:
                return meanings[near[0]]
    return None


def _by_name(known: Sequence[str]) -> dict[str, str]:
    """Return keys by the names that they go by without their section; the first one has a name that two share."""
    return {name: full for full in reversed(known) for name in _names(full)}


def _names(key: str) -> list[str]:
    """Return the names that a key goes by without its section: `data.csv.sep` is `csv_sep` or `sep`."""
    parts = key.strip().lower().replace("-", "_").split(".")
    return list(dict.fromkeys(["_".join(parts[1:] or parts), parts[-1]]))
