"""Reads configuration from TOML files and from `KEY=VALUE` arguments on the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distsgd.config.messages import shown
from distsgd.errors import ConfigError
from distsgd.system.files import read_file


def read_toml(path: str | Path) -> dict[str, Any]:
    """Return the content of a TOML configuration file; ConfigError if it cannot be read."""
    try:
        return tomllib.loads(read_file(Path(path)).decode())
    except FileNotFoundError:
        raise ConfigError(f"configuration file {str(path)!r} does not exist") from None
    except RecursionError:
        raise ConfigError(f"configuration file {str(path)!r} cannot be read as TOML: it is nested too deeply") from None
    except OSError as error:
        raise ConfigError(f"configuration file {str(path)!r} cannot be read as TOML: {error.strerror}") from None
    except ValueError as error:  # such as a TOMLDecodeError, or an integer of more than 4,300 digits
        raise ConfigError(f"configuration file {str(path)!r} cannot be read as TOML: {error}{_hint(path)}") from None


def _hint(path: str | Path) -> str:
    """Return what to do if a data file was given in place of a configuration."""
    return "" if Path(path).suffix.lower() == ".toml" else f"; if it holds rows, write --data {str(path)!r}"


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Return `KEY=VALUE` texts as a mapping; a value that is not valid TOML is taken as text."""
    values: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set takes KEY=VALUE, such as optim.lr=0.1, and found {shown(text)}")
        try:
            values[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except (ValueError, RecursionError):  # not TOML, or no number that Python converts, or nested too deeply
            values[key.strip()] = value.strip()
    return values
