"""The sections of a configuration: every key with its type, its bounds, its default and a sentence on what it means.

`docs/configuration_table.py` and the refusals are made from this file alone.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

INTEGER_LIMIT = 2**63
"""Bound of all integers: what 64 bits hold, and float64 without overflow."""

WEEK_S = 7.0 * 24 * 60 * 60
"""Longest timeout, in seconds: the system calls that wait take no more than 24 days."""

Seconds = Annotated[float, Field(gt=0, le=WEEK_S)]


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, finite numbers only, integers of at most 64 bits."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_values(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and annotation is not bool:
            raise ValueError("Input should not be true or false")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _integers_fit_64_bits(cls, value: Any) -> Any:
        if isinstance(value, int) and value >= INTEGER_LIMIT:
            raise ValueError(f"Input should be less than {INTEGER_LIMIT}")
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
    """Largest norm of the averaged gradient, L2 included: a larger one is scaled down to it; unset, no clipping."""

    schedule: Literal["constant", "step", "cosine"] = "constant"
    """How the learning rate changes after warm-up."""

    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises linearly from α/(warmup_steps+1) towards α."""

    decay_every: float = Field(default=10.0, ge=1e-6)
    """Epochs between two decays of the `step` schedule."""

    decay_factor: float = Field(default=0.5, gt=0, le=1)
    """What the `step` schedule multiplies the learning rate by."""

    final_lr: float = Field(default=0.0, ge=0)
    """Learning rate at which the `cosine` schedule ends, at the run's last step."""


class TrainConfig(Section):
    """The training loop."""

    batch_size: int = Field(default=64, ge=1)
    """Examples in a mini-batch, over all workers; larger than the data means the whole set."""

    num_shards: int = Field(default=4, ge=1, le=65536)
    """Shards that every mini-batch is cut into. Part of the result, unlike the number of workers."""

    epochs: int = Field(default=30, ge=0)
    """Passes over the training rows."""

    max_steps: int | None = Field(default=None, ge=0)
    """Stop after this many steps if that comes before the last epoch's end; 0 writes the initial weights."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the initial weights and of the order of the rows."""

    sampling: Literal["shuffle", "replacement"] = "shuffle"
    """`shuffle`: every row exactly once per epoch; `replacement`: each position draws any row."""

    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What to do when a loss or a gradient is not finite: `stop` the run, or `skip` that mini-batch's update."""

    log_every: int = Field(default=10, ge=1)
    """Steps between two lines of the journal; the last step of an epoch is always logged."""

    eval_every: int = Field(default=1, ge=1)
    """Epochs between two validations; the last step is always validated."""


class DataConfig(Section):
    """The training and held-out rows."""

    train: str = "digits"
    """Training rows: a Parquet, Arrow IPC, .npz or CSV file, a folder or a glob of such files, or `digits`."""

    val: str | None = None
    """Held-out rows, in the same forms; unset, they are split off the training rows."""

    val_fraction: float | None = Field(default=None, ge=0, lt=1)
    """Fraction of the training rows held out when `val` is not set; unset, 0.2. 0 holds out none."""

    split_seed: int = Field(default=1, ge=0, lt=2**63)
    """Seed of the hold-out split; apart from `train.seed`, so that runs with other seeds see the same split."""

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
    """Where and how the run is executed."""

    workers: int | Literal["auto"] = "auto"
    """Worker processes; 0 is the serial loop without Ray; `auto` is the cores there are, at most num_shards."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What workers compute on; `auto` takes a GPU only if a product on it works, `cuda` never falls back."""

    gpus_per_worker: float = Field(default=1.0, gt=0)
    """GPUs for each worker on `cuda`; a fraction lets workers share one."""

    blas_threads: int = Field(default=1, ge=1)
    """BLAS threads of each worker; another number may give other bits."""

    blas_kernel: str | None = None
    """OpenBLAS kernel that all workers must use, such as `Haswell`; unset, each processor's own."""

    address: str | None = None
    """Ray cluster to join; unset, RAY_ADDRESS, or else a local Ray."""

    dir: str | None = None
    """Run directory, in which `~` is the home directory; unset, `runs/<data>-<date>-<time>`."""

    timeout_s: Seconds = 60.0
    """Seconds after which a worker that does not answer counts as lost, at most a week; half of that behind an
    aggregator."""

    link: Literal["auto", "ray"] = "auto"
    """How workers are reached: `auto`, shared memory on the server's node and an aggregator on every other node; `ray`,
    Ray calls."""

    max_restarts: int = Field(default=3, ge=0)
    """Times that a lost worker is replaced; after that the run continues with fewer."""

    min_workers: int = Field(default=1, ge=1)
    """Fewest workers that the run continues with when lost ones are no longer replaced; below that it stops, with a
    checkpoint."""

    @field_validator("workers", mode="after")
    @classmethod
    def _not_negative(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 0:
            raise ValueError("Input should be 'auto' or a number of at least 0")
        return value


class TrackingConfig(Section):
    """MLflow."""

    enabled: bool = True
    """Log to MLflow; if false, only the journal in the run directory is written."""

    uri: str | None = None
    """MLflow tracking store; unset, MLFLOW_TRACKING_URI, or else `sqlite:///mlflow.db`."""

    experiment: str = "distsgd"
    """MLflow experiment."""

    timeout_s: Seconds = 30.0
    """Seconds that the end of a run waits for MLflow to accept the rest of the journal, at most a week."""

    required: bool = False
    """Refuse to start if the store cannot be reached; if false, train anyway and leave the rest to `distsgd sync`."""

    @model_validator(mode="after")
    def _required_is_enabled(self) -> Self:
        if self.required and not self.enabled:
            raise ValueError("tracking.required is true and tracking.enabled is false; keep one of them")
        return self


class CheckpointConfig(Section):
    """Checkpoints, from which a run is resumed."""

    every_s: float = Field(default=30.0, gt=0)
    """Seconds between two checkpoints within an epoch; the end of an epoch is always checkpointed."""

    keep: int = Field(default=3, ge=1)
    """How many of the newest checkpoints are kept."""
