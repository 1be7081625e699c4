"""Runs from MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from distsgd.compare.runs import Curve, Run
from distsgd.config import Config, known_keys
from distsgd.errors import ConfigError
from distsgd.tracking.description import RUN_KEY_TAG
from distsgd.tracking.nesting import NAME_TAG, PARENT_TAG
from distsgd.tracking.reading import ReadRun


def runs_of(found: list[ReadRun]) -> list[Run]:
    """Return the runs that can be compared; those that only hold others together, parents, are left out."""
    parents = {run.tags[PARENT_TAG] for run in found if PARENT_TAG in run.tags}
    return [
        _run(run)
        for run in found
        if NAME_TAG not in run.tags and not (run.run_id in parents and RUN_KEY_TAG not in run.tags)
    ]


def _run(read: ReadRun) -> Run:
    exact = RUN_KEY_TAG in read.tags
    return Run(
        name=read.name,
        source=read.run_id,
        key=read.tags.get(RUN_KEY_TAG, read.run_id),
        status=read.status,
        parameters=_all_parameters(read.params) if exact else {k: _value(v) for k, v in read.params.items()},
        exact=exact,
        data_digest=read.tags.get("data_digest"),
        version=read.tags.get("distsgd.version"),
        weights_sha256=read.tags.get("weights_sha256"),
        rows=read.rows,
        curves={key: Curve.of(points) for key, points in read.points.items()},
    )


def _value(text: str) -> Any:
    """Return the number, list or table that a text holds, or the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _all_parameters(params: Mapping[str, str]) -> dict[str, Any]:
    """Return all parameters of a run of distsgd, which logs those that differ from the defaults.

    Version 0.1.0 logged them without their section. Those that this version does not know are kept as they are.
    """
    by_name = {key.partition(".")[2]: key for key in reversed(known_keys())}
    known = set(known_keys())
    named = {key if key in known else by_name.get(key, key): value for key, value in params.items()}
    mine = {key: value for key, value in named.items() if key in known}
    rest = {key: _value(value) for key, value in named.items() if key not in known}
    try:
        return Config.build({key: _value(value) for key, value in mine.items()}).parameters() | rest
    except ConfigError:
        return Config().parameters() | {key: _value(value) for key, value in mine.items()} | rest
