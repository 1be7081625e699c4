"""Whether the configuration in a run directory is the one that was written there."""

from __future__ import annotations

import json
from pathlib import Path

from distsgd.config import flatten
from distsgd.rundir import seal
from distsgd.rundir.directory import CONFIG, json_text
from distsgd.system.files import read_file

UNSEALED = {"run_key", "data_digest", "version", "requested", "config_digest"}
"""What runs of earlier versions say about themselves, without a seal."""

DECIDED = ("run.workers", "run.device", "run.dir", "tracking.uri")
"""Keys whose requested values a run replaces by those that it has decided on."""


def config_change(path: Path, *, may_lack_seal: bool) -> str | None:
    """Return how `config.json` of a run differs from what was written into it; None if it does not.

    That of a run of version 0.1.0 has no seal: it `may_lack_seal`. OSError if it cannot be read.
    """
    text = read_file(path / CONFIG)
    try:
        content = json.loads(text)
        about = dict(content["distsgd"])
        sealed = about.pop(seal.KEY, None)
        same = sealed == seal.digest(content | {"distsgd": about}) and text.decode() == json_text(content)
        if same or (may_lack_seal and sealed is None and set(about) <= UNSEALED):
            return None
        resolved = flatten({key: value for key, value in content.items() if key != "distsgd"})
        requested = dict(about["requested"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "it cannot be read as JSON of a run any more"
    for key in resolved | requested:
        values = (resolved.get(key), requested.get(key))
        if key not in DECIDED and values[0] != values[1]:
            return f"{key} is {values[0]!r} at one place and {values[1]!r} at the other"
    return "its digest is another one"
