"""A log is shown once, whole and in order, over whatever happens to connections; exit codes are the job's."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st
from json_server import answer

from distsgd.cluster.job_client import JobClient
from distsgd.cluster.job_state import JobState, NotReachedError
from distsgd.errors import JobError, ResourceError
from distsgd.submission import following
from distsgd.submission.commands import run
from distsgd.submission.following import Follower, check_success

LOG = "".join(f"line {number} ö\n" for number in range(30))


class FlakyJob:
    """A job whose connections break after `cuts` characters, and whose states are `states` in turn."""

    name, stop_command = "job", "stop job"

    def __init__(self, cuts: list[int], states: Iterable[JobState | Exception]) -> None:
        self.cuts, self.states, self.stops = iter(cuts), iter(states), 0

    def state(self) -> JobState:
        state = next(self.states)
        if isinstance(state, Exception):
            raise state
        return state

    def stop(self) -> None:
        self.stops += 1

    def log(self) -> str:
        return LOG

    async def tail(self) -> AsyncIterator[str]:
        until = next(self.cuts, len(LOG))
        for start in range(0, until, 7):
            yield LOG[start : min(start + 7, until)]
        raise ConnectionResetError


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(following, "POLL_S", 0.002)


RUNNING, DONE = JobState("RUNNING"), JobState("SUCCEEDED", 0)


@given(
    cuts=st.lists(st.integers(0, len(LOG)), max_size=4),
    states=st.lists(st.sampled_from([RUNNING, NotReachedError("away")]), max_size=5),
)
def test_each_character_is_shown_once(cuts, states):
    shown: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(following, "POLL_S", 0.002)
        follower = Follower(FlakyJob(cuts, [*states, DONE]), show=shown.append, notice=lambda _: None)
        assert follower.follow() == DONE
    assert "".join(shown) == LOG


@pytest.mark.usefixtures("quick")
def test_a_silent_cluster_is_waited_for_and_given_up(monkeypatch):
    notices: list[str] = []
    away = NotReachedError("connection refused")
    job = FlakyJob([0] * 99, [RUNNING, away, away, RUNNING, away, DONE])
    Follower(job, show=lambda _: None, notice=notices.append).follow()
    assert [text.partition(" (")[0] for text in notices] == [
        "the cluster does not answer",
        "the cluster answers again",
        "the cluster does not answer",
        "the cluster answers again",
    ]
    monkeypatch.setattr(following, "LOST_S", 0.02)
    job = FlakyJob([0] * 999, itertools.repeat(away))
    with pytest.raises(
        JobError, match=r"has not answered for 0\.02 s \(connection refused\); the job job may be running"
    ):
        Follower(job, show=lambda _: None, notice=notices.append).follow()


@pytest.mark.usefixtures("quick")
def test_a_job_is_asked_to_stop_until_it_has_stopped(monkeypatch):
    """Ray says that a pending job is stopped, and does nothing (ray#58353)."""
    monkeypatch.setattr(following, "STOP_AGAIN_S", 0.0)
    job = FlakyJob([], [JobState("PENDING")] * 3 + [JobState("STOPPED")])
    follower = Follower(job, show=lambda _: None, notice=lambda _: None)
    follower.stop()
    assert follower.follow().status == "STOPPED"
    assert job.stops == 3


@pytest.mark.usefixtures("quick")
def test_the_log_of_another_attempt_is_shown_from_its_beginning():
    shown: list[str] = []
    first, second = JobState("RUNNING", attempt="a"), JobState("SUCCEEDED", 0, attempt="b")
    states = (second if "".join(shown) == LOG else first for _ in itertools.count())
    job = FlakyJob([], states)
    Follower(job, show=shown.append, notice=lambda _: None).follow()
    assert "".join(shown) == LOG + LOG


@pytest.mark.parametrize(
    ("state", "code", "words"),
    [
        (JobState("FAILED", 2), 2, "exit code 2"),
        (JobState("FAILED", 1), 1, "exit code 1"),
        (JobState("FAILED", -9), 1, "killed by SIGKILL"),
        (JobState("FAILED", 137), 1, "killed by SIGKILL"),
        (JobState("FAILED", 143), 143, "was stopped"),
        (JobState("STOPPED"), 143, "was stopped"),
        (JobState("STOPPED", 0), 143, "was stopped"),
        (JobState("FAILED", 0), 1, "exit code 0"),
        (JobState("FAILED", None, "Job supervisor actor died: x\n\nmore"), 1, "failed: Job supervisor actor died: x"),
        (JobState("FAILED", None, ""), 1, "gives no reason"),
    ],
)
def test_a_job_that_has_not_succeeded_never_exits_with_0(state, code, words):
    with pytest.raises(JobError, match=words) as ended:
        check_success("job", state)
    assert ended.value.exit_code == code


class _Dashboard(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        version = {"version": "4", "ray_version": "2.9.0", "ray_commit": "x", "session_name": "s"}
        answer(self, [] if self.path.startswith("/api/jobs") else version)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def other_cluster() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Dashboard)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_another_version_of_ray_is_refused(other_cluster):
    with pytest.raises(ResourceError, match=r"has Ray 2\.9\.0, and this machine has 2\.\d+\.\d+; install the same"):
        JobClient(other_cluster)


def test_another_address_in_the_environment_is_not_preferred(other_cluster, monkeypatch):
    """Ray's client prefers these variables to the address that it is given."""
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(ResourceError, match=r"has Ray 2\.9\.0"):
        JobClient(other_cluster)


class CommandJob(FlakyJob):
    """A job whose log is read by a process that never ends by itself; it is started again once `shown` has a text."""

    def __init__(self, shown: list[str]) -> None:
        super().__init__([], [])
        self.shown, self.ended = shown, 0

    def state(self) -> JobState:
        return JobState("RUNNING", attempt="second" if self.shown else "first")

    async def tail(self) -> AsyncIterator[str]:
        try:
            async for text in run([sys.executable, "-uc", "import time; print('on\\n', end=''); time.sleep(1000)"]):
                yield text
        finally:
            self.ended += 1


@pytest.mark.usefixtures("quick")
def test_no_process_that_reads_the_log_is_left():
    shown: list[str] = []

    def show(text: str) -> None:
        shown.append(text)
        if len(shown) == 2:  # the log of the second attempt
            raise KeyboardInterrupt

    job = CommandJob(shown)
    with contextlib.closing(Follower(job, show=show, notice=lambda _: None)) as follower:
        with pytest.raises(KeyboardInterrupt):
            follower.follow()
        assert job.ended == 1
    assert job.ended == 2
    assert not [thread for thread in threading.enumerate() if thread.name == "job log"]
