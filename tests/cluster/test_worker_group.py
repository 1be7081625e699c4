"""Replacing workers, without Ray."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from distsgd.cluster import worker_group
from distsgd.cluster.launching import Launcher
from distsgd.cluster.worker_group import WorkerGroup
from distsgd.cluster.worker_state import Pending, Waiting
from distsgd.config import Config
from distsgd.errors import WorkerLostError


def group_of(monkeypatch, *, min_workers: int) -> tuple[WorkerGroup, list[Any]]:
    """Return a group of two workers whose processes never come, and the actors that it has ended."""
    config = Config.build({"run.min_workers": min_workers})
    spec: Any = SimpleNamespace(net=SimpleNamespace(size=1))
    group, ended = WorkerGroup(config, workers=2, spec=spec, rows=spec, launcher=Launcher("r", {})), list[Any]()
    monkeypatch.setattr(group, "connections", SimpleNamespace(take_lost_peers=id, connect_ready=id))
    monkeypatch.setattr(worker_group, "has_arrived", lambda reply: False)
    monkeypatch.setattr(worker_group, "end", lambda actor, location: ended.append(actor))
    return group, ended


def test_a_process_that_is_not_there_in_time_is_asked_for_again(monkeypatch):
    """It may hang before its actor exists, which looks like a cluster without room."""
    group, ended = group_of(monkeypatch, min_workers=1)
    now, (first, second) = time.monotonic(), group.workers.all
    first.become(Pending("on its way", "placed", "initialized", now + 60), "")
    second.become(Pending("overdue", "placed", "initialized", now - 1), "")
    group.replace_lost(lambda: None)
    assert ended == ["overdue"]
    assert isinstance(first.state, Pending)
    assert isinstance(second.state, Waiting)
    assert second.state.due <= time.monotonic()
    assert second.restarts == 0  # waiting for room costs no restart


def test_too_few_workers_without_room_for_more_end_the_run(monkeypatch):
    group, ended = group_of(monkeypatch, min_workers=2)
    for worker in group.workers.all:
        worker.become(Pending("overdue", "placed", "initialized", time.monotonic() - 1), "")
    with pytest.raises(WorkerLostError, match="there was no room in the cluster for worker 0 within 60 s"):
        group.replace_lost(lambda: None)
    assert not ended
