"""The error tree and the exit codes that it promises."""

from __future__ import annotations

import re
import signal

import pytest

from distsgd import errors
from distsgd.errors import DistsgdError, RefusedError, Stopped, counted, nearest

TREE = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, DistsgdError) and kind not in (DistsgdError, Stopped)
]


@pytest.mark.parametrize("kind", TREE)
def test_what_is_refused_exits_with_2_and_what_fails_with_1(kind):
    assert kind("message").exit_code == (2 if issubclass(kind, RefusedError) else 1)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_stop_exits_as_a_shell_reports_its_signal(signum, code):
    assert Stopped("message", signum=signum).exit_code == code


def test_the_tree_at_the_top_of_the_file_is_the_tree():
    """Depth by depth: each error stands under the one that it is a kind of."""
    drawn = re.findall(r"^ {4}([│├└─ ]*)(\w+)", errors.__doc__, re.MULTILINE)
    assert {name for _, name in drawn} == {kind.__name__ for kind in [DistsgdError, Stopped, *TREE]}
    above: list[type] = []
    for indent, name in drawn:
        kind = getattr(errors, name)
        depth = len(indent) // 4
        if depth:
            assert kind.__bases__ == (above[depth - 1],), name
        above[depth:] = [kind]


@pytest.mark.parametrize(
    ("word", "hint"),
    [("batch", " (did you mean 'batches'?)"), ("xyz", ""), ("", ""), ("label", " (did you mean 'label'?)")],
)
def test_nearest_is_a_hint_or_nothing(word, hint):
    assert nearest(word, ["batches", "label"]) == hint


def test_nothing_is_near_to_nothing():
    assert nearest("label", []) == ""


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 CPUs"), (1, "1 CPU"), (1.0, "1 CPU"), (0.5, "0.5 CPUs"), (2, "2 CPUs"), (1234, "1,234 CPUs")],
)
def test_counts_agree_with_what_is_counted(count, words):
    assert counted(count, "CPU") == words
    assert counted(count, "process", "processes").endswith("process" if count == 1 else "processes")
