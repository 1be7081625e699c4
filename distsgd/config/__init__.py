"""What a run is: validated, frozen, read from TOML and from `KEY=VALUE`.

Every key is dotted, `section.name`. The sections `model`, `optim`, `train` and `data` decide what is learned;
`run`, `tracking` and `checkpoint` say where and how, and may differ between a run and its resumption.
"""

from distsgd.config.config import Config, flatten, known_keys
from distsgd.config.reading import parse_assignments, read_toml
from distsgd.config.sections import CheckpointConfig, DataConfig, OptimConfig, TrackingConfig, TrainConfig

__all__ = [
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "OptimConfig",
    "TrackingConfig",
    "TrainConfig",
    "flatten",
    "known_keys",
    "parse_assignments",
    "read_toml",
]
