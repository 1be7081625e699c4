"""What Ray shows of a run: names of actors, gauges, and the dashboard file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsgd.cluster import launching
from distsgd.cluster.launching import Label, Launcher
from distsgd.cluster.ray_metrics import GAUGES, WaitingShare

DASHBOARD = Path(__file__).resolve().parents[2] / "docker" / "grafana.json"


class Remote:
    """In place of ray.remote: remembers what actors are started with."""

    def __init__(self) -> None:
        self.options_given: list[dict[str, Any]] = []
        self.labels: list[Label] = []

    def __call__(self, kind: type) -> Remote:
        return self

    def options(self, **options: Any) -> Remote:
        self.options_given.append(options)
        return self

    def remote(self, *, label: Label, **values: Any) -> None:
        self.labels.append(label)


@pytest.fixture
def remote(monkeypatch) -> Remote:
    found = Remote()
    monkeypatch.setattr(launching.ray, "remote", found)
    return found


def test_actors_are_named_after_run_and_role_and_no_name_is_used_twice(remote):
    """Not even by two processes of a job that train runs of the same name: each has a random number."""
    for _ in range(2):
        launcher = Launcher("wine-1", {"env_vars": {}})
        for role in ("worker 0", "worker 1", "worker 0"):
            launcher.start(object, role, options={"num_cpus": 1})
    names = [options["name"] for options in remote.options_given]
    numbers = [re.fullmatch(r".*\((?:process 2, )?([0-9a-f]{6})\)", name)[1] for name in names]
    assert numbers[:3] == numbers[:1] * 3
    assert numbers[3:] == numbers[3:4] * 3
    assert numbers[0] != numbers[3]
    expected = ["wine-1: worker 0 ({})", "wine-1: worker 1 ({})", "wine-1: worker 0 (process 2, {})"]
    assert names == [form.format(number) for form, number in zip(2 * expected, numbers, strict=True)]
    assert [str(label) for label in remote.labels[:3]] == ["wine-1: worker 0", "wine-1: worker 1", "wine-1: worker 0"]
    assert remote.options_given[0]["runtime_env"] == {"env_vars": {}}
    assert remote.options_given[0]["enable_task_events"] is False


@given(st.lists(st.tuples(st.just(0.0) | st.floats(0.001, 100), st.floats(0, 1)), min_size=1, max_size=20))
def test_the_waiting_share_is_that_of_the_time_since_the_last_look(parts):
    """`parts` are seconds between two looks, and which share of them was busy."""
    clock = busy = 0.0
    share = WaitingShare(lambda: busy, lambda: clock)
    for passed, of_it in parts:
        before = clock
        clock += passed
        busy += passed * of_it
        found = share()
        if clock > before:
            assert found["distsgd_worker_waiting_share"] == pytest.approx(1 - of_it, abs=1e-6)
        else:
            assert not found


def test_the_dashboard_shows_every_gauge_and_no_other():
    text = DASHBOARD.read_text()
    panels = json.loads(text)["panels"]
    asked = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"ray_(distsgd_\w+)", target["expr"])
    }
    assert asked == GAUGES.keys()
    assert len({panel["id"] for panel in panels}) == len(panels)
