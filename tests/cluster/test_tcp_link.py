"""What a run does where an actor on another node cannot be connected to the server, without Ray."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

import pytest

from distsgd.cluster import tcp_link
from distsgd.cluster.actors import Location
from distsgd.cluster.tcp_link import TcpLink
from distsgd.comm.tcp_acceptor import TcpAddress
from distsgd.comm.tcp_endpoint import CONNECT_S
from distsgd.config import Config
from distsgd.errors import ResourceError, WorkerLostError

ADDRESS = TcpAddress("10.0.0.1", 30000, "the head", False)
THERE = Location("another", "b", 1, "")


class Link:
    """A link whose server and actors reply what a test says: a value, or an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **values: Any) -> None:
        self.listens: Any = ADDRESS
        self.replies: Any = None
        self.waits: list[float] = []
        self.notes: list[str] = []
        monkeypatch.setattr(tcp_link, "await_server", lambda reply, timeout_s: self.listens)
        monkeypatch.setattr(tcp_link, "await_reply", self._await_reply)
        run = Config.build({f"run.{key}": value for key, value in values.items()})
        self._link = TcpLink(run, 10, self.notes.append)
        self._link.use(MagicMock())

    def _await_reply(self, reply: Any, who: str, timeout_s: float) -> Any:
        self.waits.append(timeout_s)
        if isinstance(self.replies, Exception):
            raise self.replies
        return self.replies

    def connect(self) -> bool:
        return self._link.connect(MagicMock(), "worker 1", THERE, 1)


def test_an_actor_that_can_connect_is_not_worth_a_line(monkeypatch):
    link = Link(monkeypatch)
    assert link.connect()
    assert not link.notes


@pytest.mark.parametrize(
    ("ports", "remedy"),
    [("30000-30010", "the ports of run.ports"), (None, "ports that you set as run.ports")],
)
def test_what_cannot_be_reached_is_reached_by_ray_calls_and_one_line_says_so(monkeypatch, ports, remedy):
    link = Link(monkeypatch, ports=ports)
    link.replies = "10.0.0.1:30000: timed out"
    assert not link.connect()
    (line,) = link.notes
    assert "worker 1 on b cannot reach the parameter server by TCP (10.0.0.1:30000: timed out) and uses Ray" in line
    assert line.endswith(f" calls, which are slower: if a firewall is in between, open {remedy}")


def test_a_server_that_cannot_listen_is_no_matter_of_firewalls(monkeypatch):
    link = Link(monkeypatch, ports="30000", link="tcp")
    link.listens = "cannot listen on port 30000 to 30000 of 10.0.0.1: in use"
    with pytest.raises(ResourceError, match=r"in use\): correct that, or set run.link=auto to use Ray calls then"):
        link.connect()


@pytest.mark.parametrize("value", ["auto", "tcp"])
def test_an_actor_that_hangs_is_lost_and_does_not_end_the_run(monkeypatch, value):
    link = Link(monkeypatch, link=value)
    link.replies = ResourceError("worker 1 has not answered for 65 s")
    with pytest.raises(WorkerLostError, match="has not answered"):
        link.connect()
    assert not link.notes


def test_a_short_timeout_leaves_an_actor_the_time_to_find_out_that_it_cannot_connect(monkeypatch):
    link = Link(monkeypatch, timeout_s=0.5)
    link.connect()
    assert link.waits[0] > CONNECT_S
