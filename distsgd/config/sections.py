"""The sections of a configuration: every key with its type, bounds, default and a one-sentence description.

`docs/configuration_table.py` and the error messages are generated from this file alone.
"""

from __future__ import annotations

import codecs
import os
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from distsgd.config.choices import meant
from distsgd.config.links import LINK, is_link

INTEGER_LIMIT = 2**63
"""All integers are below this, so that they fit into 64 bits and convert to float64 without overflow."""

WEEK_S = 7.0 * 24 * 60 * 60
"""Longest timeout, in seconds; the system calls that wait accept at most 24 days."""

REPLY_S = 60.0
"""Seconds to wait for a process's reply outside of steps if `run.timeout_s` is `auto`."""

IN_MEMORY = "in-memory"
"""What `data.train` and `data.val` are if the rows were passed to `distsgd.train` in memory."""

PositiveNumber = Annotated[float, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, le=WEEK_S)]


class Section(BaseModel):
    """Base class of all sections: frozen, no unknown keys, finite numbers only, integers of at most 64 bits.

    The texts below the fields are read by keys.py and not by pydantic, which would take as long for it as for all else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_values(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and annotation not in (bool, bool | None):
            raise ValueError("Input should not be true or false")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _paths_are_texts(cls, value: Any) -> Any:
        return os.fspath(value) if isinstance(value, os.PathLike) else value

    @field_validator("*", mode="after")
    @classmethod
    def _integers_fit_64_bits(cls, value: Any) -> Any:
        if isinstance(value, int) and value >= INTEGER_LIMIT:
            raise ValueError(f"Input should be less than {INTEGER_LIMIT}")
        return value


class ModelConfig(Section):
    """The network of two layers, or of one."""

    hidden: int = Field(default=64, ge=0, le=2**24)
    """Number of hidden units, H; 0: no hidden layer, which makes softmax regression, the linear probe."""

    activation: Literal["relu", "leaky_relu", "elu", "gelu", "tanh", "sigmoid"] = "relu"
    """Activation of the hidden units."""

    loss: Literal["softmax", "hinge", "logistic", "squared"] = "softmax"
    """`softmax` cross-entropy or multi-class `hinge` for one class a row; `logistic` for independent labels of 0 and 1;
    `squared` for real numbers."""

    scale: float | None = Field(default=None, gt=0)
    """Standard deviation of the initial weights; unset: for each layer He initialisation, about sqrt(2 / fan-in), or
    for `tanh` and `sigmoid` Glorot's, sqrt(2 / (fan-in + fan-out)); without a hidden layer zeros."""

    @model_validator(mode="after")
    def _activation_has_a_layer(self) -> Self:
        if self.hidden == 0 and self.activation != "relu":
            raise ValueError(
                f"model.activation is {self.activation!r} and model.hidden is 0; without a hidden layer there is no "
                "activation: leave it out, or set model.hidden"
            )
        return self


Rule = Literal["sgd", "adagrad", "rmsprop", "adam", "adamw"]

LEARNING_RATES: dict[Rule, float] = {"sgd": 0.1, "adagrad": 0.01, "rmsprop": 0.01, "adam": 0.001, "adamw": 0.001}
"""The learning rate of an update rule if `optim.lr` is not set; but for `sgd` that of PyTorch."""

BETA2: dict[Rule, float] = {"rmsprop": 0.99, "adam": 0.999, "adamw": 0.999}
"""`optim.beta2` of the update rules that use it, if it is not set, as in PyTorch."""

EPSILON: dict[Rule, float] = {"adagrad": 1e-10, "rmsprop": 1e-8, "adam": 1e-8, "adamw": 1e-8}
"""`optim.epsilon` of the update rules that use it, if it is not set, as in PyTorch."""

WEIGHT_DECAY: dict[Rule, float] = {"adamw": 0.01}
"""`optim.weight_decay` of the update rules that have one if it is not set, as in PyTorch."""

USERS = {
    "momentum": ("sgd",),
    "nesterov": ("sgd",),
    "beta1": ("adam", "adamw"),
    "beta2": tuple(BETA2),
    "epsilon": tuple(EPSILON),
}
"""The update rules that use a key which others do not."""


class OptimConfig(Section):
    """The update rule and its learning rate."""

    rule: Rule = "sgd"
    """Update rule: `sgd`, plain or with `momentum`, or one with a learning rate of its own for each parameter."""

    lr: float = Field(default_factory=lambda values: LEARNING_RATES[values["rule"]], gt=0)
    """Learning rate α; unset: 0.1 with `sgd`, 0.01 with `adagrad` and `rmsprop`, 0.001 with `adam` and `adamw`."""

    l2: float = Field(default=1e-4, ge=0)
    """L2 strength λ: adds λ(ΣW1² + ΣW2²) to the loss and 2λW to the gradient. Biases are not regularised."""

    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Momentum μ; 0 is plain SGD."""

    nesterov: bool = False
    """Use Nesterov momentum instead of classical momentum."""

    beta1: float | None = Field(default=None, ge=0, lt=1)
    """Share of the running mean of the gradients that `adam` and `adamw` keep in a step, β1; unset: 0.9."""

    beta2: float | None = Field(default=None, ge=0, lt=1)
    """Share of the running mean of the squared gradients that `adam`, `adamw` and `rmsprop` keep in a step, β2; unset:
    0.999, or 0.99 with `rmsprop`."""

    epsilon: float | None = Field(default=None, ge=1e-30)
    """What all rules but `sgd` add to the root of the squared gradients, ε; unset: 1e-8, or 1e-10 with `adagrad`."""

    weight_decay: float | None = Field(default=None, ge=0)
    """Decoupled weight decay: in each step α·weight_decay·W is taken off the weights, past the rule's own arithmetic,
    unlike `l2`; biases do not decay. Unset: 0, or 0.01 with `adamw`."""

    clip_norm: float | None = Field(default=None, gt=0)
    """Maximum norm of the averaged gradient, L2 term included; larger gradients are scaled down. Unset: no clipping."""

    schedule: Literal["constant", "step", "cosine", "exponential"] = "constant"
    """Learning rate schedule after the warm-up; `exponential` changes it by the same factor in each step."""

    warmup_steps: int = Field(default=0, ge=0)
    """Number of steps over which the learning rate rises linearly from α/(warmup_steps+1) towards α."""

    decay_every: float = Field(default=10.0, ge=1e-6)
    """Epochs between decays in the `step` schedule."""

    decay_factor: float = Field(default=0.5, gt=0, le=1)
    """Factor by which the `step` schedule multiplies the learning rate at each decay."""

    final_lr: float = Field(default=0.0, ge=0)
    """Learning rate at the last step in the `cosine` and the `exponential` schedule; in that one above 0."""

    @model_validator(mode="after")
    def _factor_is_finite(self) -> Self:
        if self.schedule == "exponential" and self.final_lr == 0:
            raise ValueError(
                "optim.schedule is 'exponential' and optim.final_lr is 0, which no factor leads to; set optim.final_lr "
                "above 0"
            )
        return self

    @model_validator(mode="after")
    def _rule_uses_what_is_set(self) -> Self:
        for name, rules in USERS.items():
            value = getattr(self, name)
            if value != type(self).model_fields[name].default and self.rule not in rules:
                raise ValueError(
                    f"optim.{name} is {str(value).lower()} and optim.rule is {self.rule!r}, which does not use it: "
                    f"leave one of them out, or set optim.rule to {' or '.join(rules)}"
                )
        return self


class TrainConfig(Section):
    """The training loop."""

    batch_size: int = Field(default=64, ge=1)
    """Examples per mini-batch, over all workers; if it exceeds the training rows, all of them form one mini-batch."""

    num_shards: int = Field(default=4, ge=1, le=65536)
    """Number of shards that each mini-batch is split into. Affects the result, unlike the number of workers; without a
    meaning if `arithmetic` is `portable`."""

    arithmetic: Literal["fast", "portable"] = "fast"
    """`portable`: the same bits on every processor, BLAS library and GPU, and for any `num_shards`, in two to three
    times the time; `fast`: the same bits for one BLAS library, kernel and number of its threads."""

    epochs: int = Field(default=30, ge=0)
    """Passes over the training rows."""

    max_steps: int | None = Field(default=None, ge=0)
    """Maximum number of steps, if reached before the end of the last epoch; 0 saves the initial weights."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed for the initial weights and the order of the rows."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """With `softmax`: ε of the label (1−ε)·onehot + ε/C that is trained towards; validation has the label as it is."""

    class_weight: Literal["balanced"] | dict[str, PositiveNumber] | None = None
    """Weights of the classes in training: a table such as `{spam = 2.5}`, or `balanced`, inverse to their frequency. A
    mini-batch's gradient is divided by the total weight of its rows."""

    sampling: Literal["shuffle", "replacement"] = "shuffle"
    """`shuffle`: each row exactly once per epoch; `replacement`: rows are drawn with replacement."""

    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What to do if a loss or gradient is not finite: `stop` the run, or `skip` the update for that mini-batch."""

    log_every: int = Field(default=10, ge=1)
    """Steps between journal lines; the last step of each epoch is always logged."""

    eval_every: int = Field(default=1, ge=1)
    """Epochs between validations; there is always one after the last step."""

    early_stopping: int | None = Field(default=None, ge=1)
    """Validations without a gain after which training ends; the weights are then those of the best one. Unset: off."""

    stopping_metric: Literal["loss", "accuracy", "macro_f1", "roc_auc"] = "loss"
    """What of the held-out rows has to get better, and which weights are the best."""

    min_gain: float = Field(default=0.0, ge=0)
    """By how much a validation has to be better than the best one before to be a gain."""

    @field_validator("class_weight", mode="before")
    @classmethod
    def _classes_are_texts(cls, value: Any) -> Any:
        """Take classes that are integers, as they are in Python; ValueError if it is neither a table nor a choice."""
        if value is not None and value != "balanced" and not isinstance(value, dict):
            hint = meant("train.class_weight", value, ["balanced"])
            raise ValueError(f"expected 'balanced', a table such as {{spam = 2.5}}, or {{}} for no weights{hint}")
        if not isinstance(value, dict):
            return value
        return {str(key) if isinstance(key, int) and not isinstance(key, bool) else key: value[key] for key in value}


class DataConfig(Section):
    """The training and held-out rows."""

    train: str = "digits"
    """Training rows: a Parquet, Arrow IPC, .npz or CSV file, a folder or glob of such files, or `digits`; `in-memory`:
    passed to `distsgd.train`."""

    val: str | None = None
    """Held-out rows, specified in the same way; unset: split off from the training rows."""

    val_fraction: float | None = Field(default=None, ge=0, lt=1)
    """Fraction of the training rows to hold out if `val` is not set; unset: 0.2; 0 holds out none."""

    split_seed: int = Field(default=1, ge=0, lt=2**63)
    """Seed for the hold-out split; separate from `train.seed`, so that changing that seed keeps the split."""

    label: str | tuple[str, ...] = "label"
    """Name of the label column; with `model.loss` `logistic` or `squared` also `a,b,c`, or a column of lists."""

    weight: str | None = None
    """Name of the column of weights, in training and held-out rows; weight 0 leaves a row out. Unset: no weights."""

    features: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Names of the feature columns, `a,b,c` on the command line; unset: all columns but label, weight, `exclude`."""

    exclude: tuple[str, ...] = ()
    """Names of columns that are not features."""

    categorical: Literal["one-hot", "hash", "refuse"] = "one-hot"
    """Text and categories: `one-hot`, a feature for each value in the training rows; `hash`: columns with more values
    than `max_categories` are hashed into that many features instead of being left out; `refuse` them."""

    max_categories: int = Field(default=100, ge=1, le=2**20)
    """Largest number of different values of a column of text or categories that becomes one-hot features."""

    missing: Literal["refuse", "mean", "zero"] = "refuse"
    """What missing values become: the `mean` of the training rows, or `zero`; a missing category sets no feature."""

    normalize: Literal["none", "unit", "standard"] = "standard"
    """`unit`: divide integers by the maximum of their type; `standard`: zero mean and unit variance per feature."""

    classes: int | None = Field(default=None, ge=2)
    """Number of classes C, for integer labels in [0, C); unset: one class for each distinct training label."""

    csv_separator: str | None = Field(default=None, min_length=1, max_length=3)
    """What stands between the columns of CSV files: one character, or `tab`; unset: found out."""

    csv_decimal: Literal[".", ","] | None = None
    """The decimal mark in CSV files; unset: found out."""

    csv_header: bool | None = None
    """Whether the first line of CSV files holds the names of the columns; unset: found out."""

    csv_encoding: str | None = None
    """Encoding of CSV files, such as `cp1252`; unset: UTF-8, UTF-16 or else Windows-1252."""

    csv_null: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Spellings of a missing value in CSV files, such as `?`, besides no text at all, `NA`, `NaN`, `null` and such."""

    @field_validator("csv_separator", mode="after")
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        value = {"tab": "\t", "\\t": "\t"}.get(value or "", value)
        if value is not None and (len(value) != 1 or value in '"\r\n' or not value.isascii()):
            raise ValueError("Input should be one ASCII character, or 'tab'")
        return value

    @field_validator("csv_encoding", mode="after")
    @classmethod
    def _text_encoding(cls, value: str | None) -> str | None:
        try:
            known = value is None or codecs.lookup(value)._is_text_encoding
            _ = value is None or b"\xe9".decode(value, "replace")  # idna and others are not for the text of a file
        except (LookupError, ValueError):
            known = False
        if not known:
            raise ValueError("Input should be an encoding that Python knows, such as 'utf-8', 'cp1252' or 'shift_jis'")
        return value

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the label columns."""
        return (self.label,) if isinstance(self.label, str) else self.label

    @field_validator("label", mode="before")
    @classmethod
    def _labels_are_a_list(cls, value: Any) -> Any:
        """Take `a,b,c` as several columns; a single name with a comma needs a list."""
        if isinstance(value, str) and "," in value:
            value = [name for part in value.split(",") if (name := part.strip())] or value
        if isinstance(value, list | tuple):
            if len(value) == 1:
                return value[0]
            if not value or len(set(value)) < len(value):
                raise ValueError("Input should be one column, or several different ones")
        return value

    @field_validator("features", "exclude", "csv_null", mode="before")
    @classmethod
    def _text_is_a_list(cls, value: Any) -> Any:
        """Take `a,b,c`, as one types it on the command line; a name with a comma needs a list."""
        if isinstance(value, int) and not isinstance(value, bool):  # a header line of numbers
            return (str(value),)
        if not isinstance(value, str):
            return value
        return tuple(name for part in value.split(",") if (name := part.strip())) or (value,)

    @model_validator(mode="after")
    def _one_source_of_held_out_rows(self) -> Self:
        if self.val is not None and self.val_fraction is not None:
            raise ValueError("data.val and data.val_fraction are both set; keep one of them")
        return self

    @model_validator(mode="after")
    def _one_way_to_choose_a_column(self) -> Self:
        both = [name for name in self.features or () if name in self.exclude]
        if both:
            raise ValueError(f"data.features and data.exclude both name {both[0]!r}; keep one of them")
        return self


class RunConfig(Section):
    """Where and how the run executes."""

    workers: int | Literal["auto"] = "auto"
    """Number of worker processes; 0: this process alone, without Ray; `auto`: one per available core, at most
    num_shards."""

    threads: int | Literal["auto"] = "auto"
    """Threads that compute shards if `workers` is 0; 1: the serial loop, the reference of every other way; `auto`: one
    per available core, at most num_shards, if steps take less time so. Does not affect the result."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device that workers compute on; `auto` uses a GPU only if a test product on it works; `cuda` never falls back."""

    gpus_per_worker: float = Field(default=1.0, gt=0)
    """GPUs per worker with `cuda`; with a fraction, workers share a GPU."""

    blas_threads: int = Field(default=1, ge=1)
    """BLAS threads per worker; changing it may change the last bits of the result."""

    blas_kernel: str | None = None
    """OpenBLAS kernel that all workers use, such as `Haswell`; unset: the default for each CPU."""

    address: str | None = None
    """Address of the Ray cluster to join; unset: RAY_ADDRESS, or else a local Ray is started."""

    name: str | None = None
    """Name of the run in MLflow; unset: what differs from the defaults, or else the name of the run directory."""

    dir: str | None = None
    """Run directory; `~` is expanded. Unset: `runs/<data>-<date>-<time>`."""

    timeout_s: Seconds | Literal["auto"] = "auto"
    """Seconds without an answer after which a worker is marked as lost, at most one week; half of that for workers
    behind an aggregator. `auto`: 20 times as long as its steps usually take, at least 10; 60 for its first step."""

    link: Literal["auto", "tcp", "ray"] = "auto"
    """How the server communicates with workers. `auto`: shared memory on its own node and TCP to other nodes, or Ray
    calls where a connection cannot be made; `tcp`: the same, but refuse to use Ray calls; `ray`: Ray calls alone."""

    ports: str | None = None
    """TCP ports that a node may listen on for the others, such as `30000-30010`; unset: any free port."""

    max_restarts: int = Field(default=3, ge=0)
    """How many times a lost worker, or a lost parameter server, is replaced; after that the run continues with fewer
    workers, or fails."""

    min_workers: int = Field(default=1, ge=1)
    """Minimum number of workers; if fewer are left and none can be replaced, the run writes a checkpoint and fails."""

    @property
    def reply_timeout_s(self) -> float:
        """Seconds to wait for the reply to a call outside of steps, such as one for a checkpoint."""
        return REPLY_S if self.timeout_s == "auto" else self.timeout_s

    @property
    def port_range(self) -> range:
        """The ports that `ports` names; empty if it is unset."""
        if self.ports is None:
            return range(0)
        first, _, last = self.ports.partition("-")
        return range(int(first), int(last or first) + 1)

    @field_validator("ports", mode="before")
    @classmethod
    def _may_be_a_number(cls, value: object) -> object:
        return str(value) if type(value) is int else value

    @field_validator("ports", mode="after")
    @classmethod
    def _are_ports(cls, value: str | None) -> str | None:
        if value is None:
            return None
        numbers = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", value)
        if numbers is None or not 1 <= int(numbers[1]) <= int(numbers[2] or numbers[1]) <= 65535:
            raise ValueError("Input should be a port or a range of ports such as '30000-30010', from 1 to 65535")
        return value

    @field_validator("threads", mode="after")
    @classmethod
    def _at_least_one(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("Input should be 'auto' or a number of at least 1")
        return value

    @field_validator("workers", mode="after")
    @classmethod
    def _not_negative(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 0:
            raise ValueError("Input should be 'auto' or a number of at least 0")
        return value


class TrackingConfig(Section):
    """Tracking with MLflow."""

    enabled: bool = True
    """Log to MLflow; if false, metrics are written only to the journal in the run directory."""

    uri: str | None = None
    """MLflow tracking URI; unset: MLFLOW_TRACKING_URI, or else `sqlite:///mlflow.db`."""

    link_uri: str | None = None
    """Address of MLflow in links to runs, if people reach its server at another one than runs do, such as
    `http://127.0.0.1:5000`; unset: DISTSGD_LINK_URI, which goes with MLFLOW_TRACKING_URI, or else the store's own."""

    experiment: str = "distsgd"
    """Name of the MLflow experiment."""

    parent: str | None = None
    """Name of a run of the experiment that this run is a child of, created if it is missing; unset: MLflow's active run
    in this process, or the one that MLFLOW_RUN_ID names, if there is one."""

    timeout_s: Seconds = 30.0
    """Seconds to wait for MLflow at the end of the run until it has everything, at most one week."""

    required: bool = False
    """Refuse to start if the store cannot be reached; if false, train anyway and send the run with `distsgd sync`."""

    system_metrics: bool = False
    """Log every ten seconds how busy the driver's machine is: CPU, memory, disk and network, and GPUs if
    nvidia-ml-py is installed. MLflow shows it as system metrics."""

    @field_validator("link_uri", mode="after")
    @classmethod
    def _is_for_browsers(cls, value: str | None) -> str | None:
        if value is not None and not is_link(value):
            raise ValueError(f"Input should be {LINK}")
        return value

    @field_validator("parent", mode="after")
    @classmethod
    def _can_be_searched_for(cls, value: str | None) -> str | None:
        if value is not None and (not value.strip() or not value.isprintable() or set(value) & set("'\"`\\")):
            raise ValueError("Input should be a name without quotes and backslashes, which MLflow cannot search for")
        return value

    @model_validator(mode="after")
    def _required_is_enabled(self) -> Self:
        if self.required and not self.enabled:
            raise ValueError("tracking.required is true and tracking.enabled is false; keep one of them")
        return self


class CheckpointConfig(Section):
    """Checkpoints, from which a run is resumed."""

    every_s: float = Field(default=30.0, gt=0)
    """Seconds between checkpoints within an epoch; there is always one at the end of an epoch."""

    keep: int = Field(default=3, ge=1)
    """Number of checkpoints to keep, the newest ones."""
