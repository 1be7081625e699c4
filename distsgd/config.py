"""What a run is: validated, frozen, read from TOML and from `KEY=VALUE`, written as flat parameters.

Every key is dotted, `section.name`. The sections `model`, `optim`, `train` and `data` decide what is learned
and are part of the configuration's digest; `run`, `tracking` and `checkpoint` say where and how, and may differ
between a run and its resumption.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from distsgd.errors import ConfigError, nearest

RESULT_SECTIONS = ("model", "optim", "train", "data")
"""The sections that the trained weights depend on."""

PLAIN_SECTIONS = ("model", "optim", "train", "run")
"""The sections whose parameters are logged by their bare name, `lr` rather than `optim.lr`."""


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and annotation is not bool:
            raise ValueError("Input should not be true or false")
        return value


class ModelConfig(Section):
    """The two-layer net."""

    hidden: int = Field(default=64, ge=1, le=2**24)
    """Units of the hidden layer, H."""

    scale: float | None = Field(default=None, gt=0)
    """Standard deviation of the initial weights; unset, He-normal: sqrt(2 / fan-in) for each layer."""


class OptimConfig(Section):
    """The update rule and its learning rate."""

    lr: float = Field(default=0.1, gt=0)
    """Learning rate α."""

    l2: float = Field(default=1e-4, ge=0)
    """L2 strength λ; the loss holds λ(ΣW1² + ΣW2²), so the gradient holds 2λW. Biases are not regularised."""

    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Momentum μ; 0 is plain gradient descent."""

    nesterov: bool = False
    """Nesterov's momentum in place of the classical one."""

    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm that the averaged gradient, L2 included, may have; a longer one is scaled down; unset, none is."""

    schedule: Literal["constant", "step", "cosine"] = "constant"
    """How the learning rate changes after warm-up."""

    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises linearly from α/(warmup_steps+1) towards α."""

    decay_every: float = Field(default=10.0, gt=0)
    """Epochs between two decays of the `step` schedule."""

    decay_factor: float = Field(default=0.5, gt=0, le=1)
    """What the `step` schedule multiplies the learning rate by."""

    final_lr: float = Field(default=0.0, ge=0)
    """Learning rate at which the `cosine` schedule ends, at the run's last step."""


class TrainConfig(Section):
    """The loop."""

    batch_size: int = Field(default=64, ge=1)
    """Examples in a mini-batch, over all workers; larger than the data means the whole set."""

    num_shards: int = Field(default=4, ge=1, le=65536)
    """Fixed shards that every mini-batch is cut into. Part of the result, unlike the number of workers."""

    epochs: int = Field(default=30, ge=0)
    """Passes over the training rows."""

    max_steps: int | None = Field(default=None, ge=0)
    """Stop after this many steps if that comes before the last epoch's end; 0 writes the initial weights."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Key of the initial weights and of the order of the rows."""

    sampling: Literal["shuffle", "replacement"] = "shuffle"
    """`shuffle`: every row exactly once per epoch; `replacement`: each position draws any row."""

    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What to do when a loss or a gradient is not finite: `stop` the run, or `skip` that mini-batch's update."""

    log_every: int = Field(default=10, ge=1)
    """Steps between two lines of the journal; the last step of an epoch is always logged."""

    eval_every: int = Field(default=1, ge=1)
    """Epochs between two validations; the last step is always validated."""


class DataConfig(Section):
    """The rows."""

    train: str = "digits"
    """Training rows: a Parquet, Arrow IPC, .npz or CSV file, a folder or a glob of such files, or `digits`."""

    val: str | None = None
    """Held-out rows, in the same forms; unset, they are split off the training rows."""

    val_fraction: float | None = Field(default=None, ge=0, lt=1)
    """Fraction of the training rows held out when `val` is not set; unset, 0.2. 0 holds out none."""

    split_seed: int = Field(default=1, ge=0, lt=2**63)
    """Key of the hold-out split; apart from `train.seed`, so that runs with other seeds see the same split."""

    label: str = "label"
    """Name of the label column."""

    features: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Names of the feature columns; unset, all columns but the label."""

    normalize: Literal["none", "unit", "standard"] = "standard"
    """`unit`: integers divided by their type's maximum; `standard`: zero mean, unit variance per feature."""

    classes: int | None = Field(default=None, ge=2)
    """Number of classes C when labels are integers in [0, C); unset, the distinct labels of the training rows."""

    @field_validator("features", mode="before")
    @classmethod
    def _one_name_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source_of_held_out_rows(self) -> Self:
        if self.val is not None and self.val_fraction is not None:
            raise ValueError("data.val and data.val_fraction are both set; keep one of them")
        return self


class RunConfig(Section):
    """Where the run takes place."""

    workers: int | Literal["auto"] = "auto"
    """Worker processes; 0 is the serial loop without Ray; `auto` is the cores there are, at most num_shards."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What workers compute on; `auto` takes a GPU only if a product on it works, `cuda` never falls back."""

    gpus_per_worker: float = Field(default=1.0, gt=0)
    """GPUs for each worker on `cuda`; a fraction lets workers share one."""

    blas_threads: int = Field(default=1, ge=1)
    """BLAS threads of each worker; another number may give other bits."""

    blas_kernel: str | None = None
    """OpenBLAS kernel that all workers are held to, such as `Haswell`; unset, each processor's own."""

    address: str | None = None
    """Ray cluster to join; unset, RAY_ADDRESS, or else a local Ray."""

    dir: str | None = None
    """Run directory; unset, `runs/<name>` with a name made of the data's and the time."""

    timeout_s: float = Field(default=60.0, gt=0)
    """Seconds after which a worker that does not answer counts as lost; behind an aggregator, half of that."""

    link: Literal["auto", "ray"] = "auto"
    """How workers are reached: `auto`, shared memory on a node and an aggregator on each other; `ray`, Ray calls."""

    max_restarts: int = Field(default=3, ge=0)
    """Times that a worker that was lost is replaced; after that the run goes on with fewer."""

    min_workers: int = Field(default=1, ge=1)
    """Workers below which the run stops, with a checkpoint, once none is to be replaced any more."""

    @field_validator("workers", mode="after")
    @classmethod
    def _not_negative(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 0:
            raise ValueError("Input should be 'auto' or a number of at least 0")
        return value


class TrackingConfig(Section):
    """MLflow."""

    enabled: bool = True
    """False keeps only the journal in the run directory."""

    uri: str | None = None
    """MLflow tracking store; unset, MLFLOW_TRACKING_URI, or else `sqlite:///mlflow.db`."""

    experiment: str = "distsgd"
    """MLflow experiment."""

    timeout_s: float = Field(default=30.0, gt=0)
    """Seconds that the end of a run waits for MLflow to take what is left of the journal."""

    required: bool = False
    """Refuse to start if the store cannot be reached; False trains on and leaves the rest to `distsgd sync`."""

    @model_validator(mode="after")
    def _required_is_enabled(self) -> Self:
        if self.required and not self.enabled:
            raise ValueError("tracking.required is true and tracking.enabled is false; keep one of them")
        return self


class CheckpointConfig(Section):
    """What is kept for resumption."""

    every_s: float = Field(default=30.0, gt=0)
    """Seconds between two checkpoints within an epoch; the end of an epoch is always checkpointed."""

    keep: int = Field(default=3, ge=1)
    """Newest checkpoints that are kept."""


class Config(Section):
    """A whole run. Build it with `Config.build` to get messages that name the nearest known key."""

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
        if batch < shards:
            raise ValueError(
                f"train.batch_size is {batch}, smaller than train.num_shards, {shards}; every shard of a "
                "mini-batch needs an example: raise batch_size or lower num_shards"
            )
        if isinstance(workers, int) and 0 < workers < self.run.min_workers:
            raise ValueError(
                f"run.workers is {workers}, fewer than run.min_workers, {self.run.min_workers}: raise the one or lower "
                "the other"
            )
        if isinstance(workers, int) and workers > shards:
            raise ValueError(
                f"run.workers is {workers}, more than train.num_shards, {shards}; a worker without a shard has "
                "nothing to do: lower workers or raise num_shards (which changes the result's last bits)"
            )
        return self

    @classmethod
    def build(cls, *layers: Mapping[str, Any]) -> Config:
        """Validate the union of `layers`, later ones winning; each is nested or has dotted keys.

        Raises ConfigError for unknown keys (with the nearest known one), wrong types and wrong values.
        """
        merged: dict[str, Any] = {}
        for layer in layers:
            merged.update(flatten(layer))
        known = known_keys()
        for key, value in merged.items():
            if key in cls.model_fields:
                raise ConfigError(f"{key} is {value!r}: it is a section, and takes a table of keys")
            if key not in known:
                raise ConfigError(f"unknown configuration key {key!r}{_nearest_key(key, known)}")
        nested: dict[str, dict[str, Any]] = {}
        for key, value in merged.items():
            section, name = key.split(".", 1)
            nested.setdefault(section, {})[name] = value
        try:
            return cls.model_validate(nested)
        except ValidationError as error:
            raise ConfigError(_sentences(error)) from None

    def with_values(self, values: Mapping[str, Any]) -> Config:
        """Return a copy with the dotted keys of `values` replaced, validated."""
        return Config.build(self.flat(), values)

    def flat(self) -> dict[str, Any]:
        """Return every key, dotted, with its resolved value."""
        return flatten(self.model_dump(mode="json"))

    def explicit(self) -> dict[str, Any]:
        """Return the dotted keys that were given rather than left at their defaults."""
        return flatten(self.model_dump(mode="json", exclude_unset=True))

    def parameters(self) -> dict[str, Any]:
        """Return the flat hyper-parameters as they are logged: `lr`, `batch_size`, `data.train`, ..."""
        plain = {f"{s}." for s in PLAIN_SECTIONS}
        return {
            (key.split(".", 1)[1] if any(key.startswith(p) for p in plain) else key): value
            for key, value in self.flat().items()
            if not key.startswith(("tracking.", "checkpoint."))
        }

    def digest(self) -> str:
        """Return the SHA-256 of all that the trained weights depend on, but for the data itself.

        Where the rows lie (`data.train`, `data.val`) is left out: the same rows may lie elsewhere on another
        machine, and the data's own digest says whether they are the same.
        """
        values = {k: v for k, v in self.flat().items() if k.split(".")[0] in RESULT_SECTIONS}
        del values["data.train"], values["data.val"]
        text = json.dumps(values, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return `values` with nested mappings folded into dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def known_keys() -> list[str]:
    """Return every dotted key that a configuration may hold."""
    return list(flatten(Config().model_dump()))


def read_toml(path: str | Path) -> dict[str, Any]:
    """Return the content of a TOML configuration file; ConfigError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(f"configuration file {str(path)!r} does not exist") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"configuration file {str(path)!r} cannot be read as TOML: {error}") from None


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Return `KEY=VALUE` texts as a mapping; a value is TOML if it parses as such, else the text itself."""
    values: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set takes KEY=VALUE, such as optim.lr=0.1, and found {text!r}")
        try:
            values[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            values[key.strip()] = value.strip()
    return values


def _nearest_key(key: str, known: list[str]) -> str:
    """Return the hint for the known key nearest to `key`, which may lack its section or have a wrong one."""
    by_name = {name.split(".", 1)[1]: name for name in known}
    name = key.rsplit(".", 1)[-1]
    if name in by_name:
        return nearest(by_name[name], known)
    return nearest(key, known) or nearest(name, by_name)


def _sentences(error: ValidationError) -> str:
    """Return what pydantic found as `key is ...: expected ...`, once for each key."""
    sentences: dict[str, str] = {}
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"][:2])
        message = problem["msg"].removeprefix("Value error, ")
        expected = message[0].lower() + message[1:]
        if len(problem["loc"]) < 2:  # of several keys together
            sentences[message] = message
        elif key not in sentences:
            sentences[key] = f"{key} is {problem['input']!r}: {expected}"
        elif expected not in sentences[key]:  # of another member of a union
            sentences[key] += f", or {expected}"
    return "; ".join(sentences.values())
