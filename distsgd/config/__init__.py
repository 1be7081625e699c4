"""The configuration of a run: validated, frozen, read from TOML files and `KEY=VALUE` arguments.

Every key is dotted, `section.name`. The sections `model`, `optim`, `train` and `data` determine the
result; `run`, `tracking` and `checkpoint` determine where and how it is computed, and may change when a run is resumed.
"""

from distsgd.config.config import Config, flatten, known_keys, number_type
from distsgd.config.reading import parse_assignments, read_toml
from distsgd.config.sections import IN_MEMORY, CheckpointConfig, DataConfig, OptimConfig, TrackingConfig, TrainConfig

__all__ = [
    "IN_MEMORY",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "OptimConfig",
    "TrackingConfig",
    "TrainConfig",
    "flatten",
    "known_keys",
    "number_type",
    "parse_assignments",
    "read_toml",
]
