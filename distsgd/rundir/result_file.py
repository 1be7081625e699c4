"""`result.json` as it is written: with a seal, and with the digests of the other files of a run that has finished."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from distsgd.rundir import seal
from distsgd.rundir.directory import RunDirectory, json_text
from distsgd.system.files import open_regular, read_file

FILES = "files"
"""The key of the digests (SHA-256) of other files, by their names."""


def write(directory: RunDirectory, content: Mapping[str, Any], files: Iterable[str] = ()) -> None:
    """Write `result.json`, sealed, with the digests of those of the `files` that are there; OSError if that fails."""
    names = [name for name in files if (directory.path / name).is_file()]
    digests = {name: _digest(directory.path / name) for name in names}
    directory.write_json(directory.result.name, seal.sealed({**content, FILES: digests}))


def replace(directory: RunDirectory, **values: Any) -> None:
    """Replace values in `result.json`. One that is not as it was written does not become so."""
    content = json.loads(read_file(directory.result))
    new = content | values
    if seal.is_whole(content):
        del new[seal.KEY]
        new = seal.sealed(new)
    directory.write_json(directory.result.name, new)


def changes(directory: RunDirectory, *, may_lack_seal: bool) -> Iterator[tuple[str, str]]:
    """Yield what is not as it was written, first `result.json` itself: the name of the file, and how it differs.

    Results of version 0.1.0 have no seal: they `may_lack_seal`. OSError if a file cannot be read.
    """
    text = read_file(directory.result)
    try:
        content = json.loads(text)
        sealed, files = seal.KEY in content, dict(content.get(FILES, {}))
        same = seal.is_whole(content) and text.decode() == json_text(content)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return  # which has been said
    if not same and (sealed or not may_lack_seal):
        yield directory.result.name, "is not as it was written"
    for name, known in sorted(files.items()) if same else ():
        path = directory.path / name
        if not path.exists():
            yield name, "is missing"
        elif _digest(path) != known:
            yield name, "is not as it was written"


def _digest(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
