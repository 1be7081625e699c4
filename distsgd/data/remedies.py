"""What to add to the command line so that a run works: names and values quoted for a shell."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Sequence


def setting(key: str, names: str | Sequence[str]) -> str:
    """Return `--set KEY=a,b` for names of columns, or `--set KEY=a` for one name that is no list."""
    listed = [names] if isinstance(names, str) else list(names)
    text = ",".join(listed)
    if not _is_plain(text) or any("," in name or name != name.strip() or not name for name in listed):
        text = _escaped(json.dumps(names if isinstance(names, str) else listed, ensure_ascii=False))
    return f"--set {shlex.quote(f'{key}={text}')}"


def _is_plain(text: str) -> bool:
    """Return whether the command line takes a text as text, and not as a number, a list or another TOML value.

    Line ends and other characters that cannot be printed are never plain: a message could not show them.
    """
    if not text.isprintable():
        return False
    try:
        tomllib.loads(f"value = {text}")
    except ValueError:
        return True
    return False


def _escaped(text: str) -> str:
    """Return a TOML string, or a list of some, with what cannot be printed as TOML's escapes."""
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)
