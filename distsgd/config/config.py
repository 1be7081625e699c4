"""A whole configuration: checks across sections, and the digest that identifies what affects the result."""

from __future__ import annotations

import functools
import hashlib
import json
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Self

from pydantic import ValidationError, model_validator

from distsgd.config.hints import hint
from distsgd.config.messages import sentences, shown
from distsgd.config.sections import (
    CheckpointConfig,
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    Section,
    TrackingConfig,
    TrainConfig,
)
from distsgd.errors import ConfigError
from distsgd.system.secrets import redacted, without_uris

RESULT_SECTIONS = ("model", "optim", "train", "data")
"""The sections that the trained weights depend on."""


UNMEASURED = {"squared": ("accuracy", "macro_f1", "roc_auc"), "hinge": ("roc_auc",)}
"""The stopping metrics that are not measured with a loss."""

TABLES = ("train.class_weight",)
"""Keys whose values may be tables; any other table is a section."""


class Config(Section):
    """The configuration of a run. Use `Config.build` for error messages that suggest the nearest known key."""

    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    data: DataConfig = DataConfig()
    run: RunConfig = RunConfig()
    tracking: TrackingConfig = TrackingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        batch, shards, workers = self.train.batch_size, self.train.num_shards, self.run.workers
        if workers == 0 and self.run.device == "cuda":
            raise ValueError(
                "run.workers is 0, the serial loop on the CPU, and run.device is 'cuda', which needs a worker"
            )
        if self.train.arithmetic == "portable":  # each example may be computed by itself
            shards = batch
        if batch < shards:
            raise ValueError(
                f"train.batch_size is {batch}, smaller than train.num_shards, {shards}; every shard of a "
                "mini-batch needs an example: raise batch_size or lower num_shards"
            )
        if isinstance(workers, int) and 0 < workers < self.run.min_workers:
            raise ValueError(
                f"run.workers is {workers}, fewer than run.min_workers, {self.run.min_workers}: raise workers or lower "
                "min_workers"
            )
        if isinstance(workers, int) and workers > shards and self.train.arithmetic == "portable":
            raise ValueError(
                f"run.workers is {workers}, more than train.batch_size, {batch}; a worker without an example has "
                f"nothing to do: use run.workers={batch}, or a larger mini-batch"
            )
        if isinstance(workers, int) and workers > shards:
            raise ValueError(
                f"run.workers is {workers}, more than train.num_shards, {shards}; a worker without a shard has nothing "
                f"to do: use run.workers={shards}, or train.num_shards={workers} (which changes the result's last bits)"
            )
        return self

    @model_validator(mode="after")
    def _targets_fit(self) -> Self:
        loss, labels = self.model.loss, self.data.labels
        if loss in ("softmax", "hinge") and len(labels) > 1:
            raise ValueError(
                f"data.label names {len(labels)} columns, and model.loss is {loss!r}, which takes one class a row: set "
                "model.loss=logistic for independent labels of 0 and 1, or model.loss=squared for numbers"
            )
        metric = self.train.stopping_metric
        if metric in UNMEASURED.get(loss, ()):
            raise ValueError(
                f"train.stopping_metric is {metric!r}, which is not measured with model.loss={loss}: leave it out, so "
                "that early stopping goes by the loss"
            )
        if loss != "softmax" and self.train.label_smoothing:
            raise ValueError(f"train.label_smoothing needs model.loss=softmax, and that is {loss!r}; leave one out")
        for key, value in (("train.class_weight", self.train.class_weight), ("data.classes", self.data.classes)):
            if loss in ("logistic", "squared") and value is not None:
                raise ValueError(f"{key} is set, and model.loss is {loss!r}, which has no classes; leave one out")
        return self

    @classmethod
    def build(cls, *layers: Mapping[str, Any]) -> Config:
        """Merge and validate `layers`, each nested or with dotted keys; later ones take precedence.

        Raises ConfigError for unknown keys (with the nearest known one), wrong types and wrong values.
        """
        merged: dict[str, Any] = {}
        for layer in layers:
            merged.update(_flattened(layer))
        known = known_keys()
        for key, value in merged.items():
            if key in cls.model_fields:
                raise ConfigError(f"{key} is {shown(value)}: it is a section, and takes a table of keys")
            if key not in known:
                raise ConfigError(f"unknown configuration key {shown(without_uris(key))}{hint(key, known)}")
        nested: dict[str, dict[str, Any]] = {}
        for key, value in merged.items():
            section, name = key.split(".", 1)
            nested.setdefault(section, {})[name] = value
        try:
            return cls.model_validate(nested)
        except ValidationError as error:
            raise ConfigError(sentences(error)) from None

    def with_values(self, values: Mapping[str, Any]) -> Config:
        """Return a copy with the dotted keys of `values` replaced, validated."""
        return Config.build(self.flat(), values)

    def without_secrets(self) -> Config:
        """Return a copy that is safe to store: passwords in `tracking.uri` are removed."""
        uri = self.tracking.uri
        return self if uri is None else self.with_values({"tracking.uri": redacted(uri)})

    def flat(self) -> dict[str, Any]:
        """Return every key, dotted, with its resolved value."""
        return flatten(self.model_dump(mode="json"))

    def explicit(self) -> dict[str, Any]:
        """Return the dotted keys that were set explicitly, with their values."""
        return flatten(self.model_dump(mode="json", exclude_unset=True))

    def parameters(self) -> dict[str, Any]:
        """Return the parameters that are logged to MLflow, by their dotted keys: `optim.lr`, `data.train`, ...

        The run directory and the run's name are not included, since they differ for every run.
        """
        return {
            key: value
            for key, value in self.flat().items()
            if not key.startswith(("tracking.", "checkpoint.")) and key not in ("run.dir", "run.name")
        }

    @property
    def irrelevant(self) -> tuple[str, ...]:
        """Keys of those sections that the trained weights do not depend on."""
        shards = ("train.num_shards",) if self.train.arithmetic == "portable" else ()
        return ("data.train", "data.val", *shards)

    def digest(self) -> str:
        """Return the SHA-256 of everything that the trained weights depend on, except the data itself.

        The paths of the data (`data.train`, `data.val`) are left out: the same rows may be stored elsewhere on another
        machine, and the digest of the data shows whether they are the same.
        """
        values = {k: v for k, v in self.flat().items() if k.split(".")[0] in RESULT_SECTIONS}
        for key in self.irrelevant:
            del values[key]
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return `values` with nested mappings flattened to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and f"{prefix}{key}" not in TABLES:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _flattened(layer: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return flatten(layer)
    except RecursionError:
        raise ConfigError(
            "the configuration is nested too deeply: a section takes keys, and no section within"
        ) from None


@functools.cache
def known_keys() -> tuple[str, ...]:
    """Return every dotted key that a configuration may hold."""
    return tuple(flatten(Config().model_dump()))


def number_type(key: str) -> type[int] | type[float] | None:
    """Return whether a known key takes integers or any numbers; None if it takes neither."""
    section, name = key.split(".")
    annotation = Config.model_fields[section].annotation
    assert annotation is not None
    kinds = set(_single_types(annotation.model_fields[name].annotation))
    return float if float in kinds else int if int in kinds else None


def _single_types(annotation: Any) -> Iterator[Any]:
    """Yield the types of a union; those within lists and tables are left out."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _single_types(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for member in typing.get_args(annotation):
            yield from _single_types(member)
    elif origin is None:
        yield annotation
