"""Error messages for invalid configuration keys and values."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from distsgd.config.choices import meant
from distsgd.system.secrets import redacted_text

CHOICE = re.compile("'([^']*)'")
"""A choice in pydantic's list of them."""

SHOWN = 100
"""Maximum number of characters of an invalid value that a message shows."""

SECRETS = ("tracking.uri", "tracking.link_uri")
"""The keys whose values may contain a password."""


def sentences(error: ValidationError) -> str:
    """Return pydantic's findings as `key is ...: input should ...`, one for each key."""
    found: dict[str, str] = {}
    for problem in error.errors():
        if problem["type"] == "default_factory_not_called":
            continue  # the key is not set, and its default depends on another one, whose value is wrong
        key = ".".join(str(part) for part in problem["loc"][:2])
        message = problem["msg"].removeprefix("Value error, ")
        expected = message[0].lower() + message[1:]
        if problem["type"] == "literal_error":
            expected += meant(key, problem["input"], CHOICE.findall(problem["ctx"]["expected"]))
        if problem["type"] == "string_type" and isinstance(problem["input"], int | float):
            expected += f'; put it in quotes, "{problem["input"]}"'
            if problem["loc"][2:] in ((), ("str",)):
                expected += f""" (in a shell: --set '{key}="{problem["input"]}"')"""
        if len(problem["loc"]) < 2:  # an error about several keys together
            found[message] = message
        elif key not in found:
            value = problem["input"]
            found[key] = f"{key} is {f'a {type(value).__name__}' if key in SECRETS else shown(value)}: {expected}"
        elif expected not in found[key]:  # of another member of a union
            found[key] += f", or {expected}"
    return "; ".join(found.values())


def shown(value: Any) -> str:
    """Return the repr of an invalid value, without secrets and shortened if it is long."""
    try:
        text = redacted_text(repr(value))
    except (ValueError, RecursionError):  # integers of more than 4,300 digits, tables nested without end
        return f"of type {type(value).__name__} and too large to print"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text):,} characters)"
