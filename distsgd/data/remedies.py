"""What messages recommend: settings, quoted for a shell, and names for files that commands write."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import tomllib
from collections.abc import Sequence
from pathlib import Path


def setting(key: str, names: str | Sequence[str]) -> str:
    """Return `--set KEY=a,b` for names of columns, or `--set KEY=a` for one name that is no list."""
    listed = [names] if isinstance(names, str) else list(names)
    text = ",".join(listed)
    if not _is_plain(text) or any("," in name or name != name.strip() or not name for name in listed):
        text = _escaped(json.dumps(names if isinstance(names, str) else listed, ensure_ascii=False))
    return f"--set {shlex.quote(f'{key}={text}')}"


def new_name(name: str) -> str:
    """Return the name of a new version of a file in this directory, which no file has: no repair undoes another.

    For `rows.csv` and for `rows-new.csv` it is the first one of `rows-new.csv`, `rows-new2.csv` and so on.
    """
    path = Path(name)
    stem = re.sub(r"-new\d*$", "", path.stem) or path.stem
    names = (f"{stem}-new{number}{path.suffix}" for number in itertools.chain([""], itertools.count(2)))
    return next(new for new in names if not Path(new).exists())


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
    except RecursionError:  # of hundreds of brackets
        return False
    return False


def _escaped(text: str) -> str:
    """Return a TOML string, or a list of some, with what cannot be printed as TOML's escapes."""
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)
