"""What is submitted: a command line that starts a run or resumes it, and the name of its job."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distsgd.config import IN_MEMORY, Config, parse_assignments
from distsgd.errors import ConfigError
from distsgd.system.secrets import holds_secret, redacted

LOCATIONS = ("data.train", "data.val")
"""Keys that name rows."""

BUILT_IN = "digits"
"""Rows that are part of scikit-learn, so that they are on every machine."""


@dataclass(frozen=True)
class Request:
    """A run that is to be a job."""

    command: str
    """The subcommand of distsgd."""
    config: Config
    run_dir: str
    """Absolute, as the cluster's machines see it."""
    options: tuple[str, ...] = ()
    """Further options of the command."""

    @classmethod
    def of(cls, config: Config, *, shared: bool, command: str = "train", options: Sequence[str] = ()) -> Request:
        """Return the request for `distsgd COMMAND`; ConfigError if it could not work on other machines.

        With `shared`, the cluster's machines see the files of this one, and relative paths are made absolute.
        """
        if shared:
            config = Config.build(config.explicit(), _absolute(config))
        _check(config)
        assert config.run.dir is not None
        return cls(command, config, config.run.dir, (*options, "--resume-or-start"))

    @property
    def name(self) -> str:
        """The job's name: the same run directory, rows and configuration give the same one.

        At most 39 lower-case letters, digits and hyphens, as Kubernetes wants them.
        """
        values = self.config.flat()
        rows = [values[key] for key in LOCATIONS]  # the digest leaves them out, as they may move
        identity = json.dumps([self.command, *self.options, self.run_dir, rows, self.config.digest()])
        folder = re.sub("[^a-z0-9]+", "-", Path(self.run_dir).name.lower())[:20].strip("-") or "run"
        return f"distsgd-{folder}-{hashlib.sha256(identity.encode()).hexdigest()[:10]}"

    @property
    def words(self) -> tuple[str, ...]:
        """The arguments of the command, which give what was set explicitly."""
        values = self.config.explicit()
        del values["run.dir"]
        assignments = [word for key in sorted(values) for word in ("--set", assignment(key, values[key]))]
        return (*assignments, "--run-dir", self.run_dir, *self.options)


def assignment(key: str, value: Any) -> str:
    """Return `KEY=VALUE` for `--set`, which reads the same value from it."""
    plain = f"{key}={value}"
    return plain if parse_assignments([plain]) == {key: value} else f"{key}={_toml(value)}"


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _absolute(config: Config) -> dict[str, str]:
    """Return the paths of a configuration, made absolute."""
    values = config.flat()
    paths = {key: values[key] for key in (*LOCATIONS, "run.dir") if values[key] not in (None, BUILT_IN, IN_MEMORY)}
    return {key: str(Path(path).expanduser().absolute()) for key, path in paths.items() if "://" not in path}


def _check(config: Config) -> None:
    """Raise ConfigError for what means nothing on another machine, and for secrets, which all of its users see."""
    run_dir, values = config.run.dir, config.flat()
    if run_dir is None or not Path(run_dir).is_absolute():
        found = "is not set" if run_dir is None else f"is {run_dir!r}, a path in a folder of this machine"
        raise ConfigError(
            f"run.dir {found}; a job needs an absolute path that the cluster's machines share, such as "
            "--run-dir /shared/runs/mine"
        )
    for key in LOCATIONS:
        location = values[key]
        if location == IN_MEMORY:
            raise ConfigError(f"{key} is {location!r}, rows of a Python process; a job needs them in a file")
        if location not in (None, BUILT_IN) and not Path(location).is_absolute():
            raise ConfigError(
                f"{key} is {location!r}, a path in a folder of this machine; data is not uploaded: give the absolute "
                "path that the rows have on the cluster's machines"
            )
    if config.run.address is not None:
        raise ConfigError(
            f"run.address is {config.run.address!r}; a job joins the cluster that it is submitted to: leave it out"
        )
    uri = config.tracking.uri
    if uri is not None and holds_secret(uri):
        raise ConfigError(
            f"tracking.uri is {redacted(uri)!r} and holds a secret, which everybody who may list the cluster's jobs "
            "would see; leave it out, and set MLFLOW_TRACKING_URI on the cluster's machines"
        )
