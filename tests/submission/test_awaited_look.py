"""A look that the cluster does not start is reported, and ends with what to do; the dashboard here is a real server."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import ray
from json_server import answer

from distsgd.cluster.job_client import JobClient
from distsgd.errors import ResourceError
from distsgd.submission import awaited_look
from distsgd.submission.awaited_look import end_of

MESSAGE = "Job has not started yet. It may be waiting for the runtime environment to be set up."


class _Dashboard(BaseHTTPRequestHandler):
    """Answers as Ray's, with one job that stays as `status` says until it is stopped."""

    status = "PENDING"
    stopped = 0

    def do_GET(self) -> None:
        if self.path.startswith("/api/version"):
            answer(self, {"version": "4", "ray_version": ray.__version__, "ray_commit": "x", "session_name": "s"})
        elif self.path.rstrip("/") == "/api/jobs":
            answer(self, [])
        else:
            job = {"type": "SUBMISSION", "submission_id": "look", "status": self.status, "entrypoint": "python"}
            answer(self, job | {"message": MESSAGE})

    def do_POST(self) -> None:
        type(self).stopped += self.path.endswith("/stop")
        answer(self, {"stopped": True})

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(params=["PENDING", "RUNNING"])
def dashboard(request) -> Iterator[tuple[str, type[_Dashboard]]]:
    handler = type("Handler", (_Dashboard,), {"status": request.param, "stopped": 0})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.timeout(60)
def test_a_look_that_goes_on_is_reported_with_rays_message_and_given_up(dashboard, monkeypatch):
    address, handler = dashboard
    for name, seconds in (("POLL_S", 0.02), ("NOTICE_S", 0.1), ("PENDING_S", 0.5), ("LOOK_S", 0.9)):
        monkeypatch.setattr(awaited_look, name, seconds)
    notices: list[str] = []
    with pytest.raises(ResourceError) as refused:
        end_of(JobClient(address), "look", notices.append)
    text = f"PENDING ({MESSAGE})" if handler.status == "PENDING" else "RUNNING"
    assert notices
    assert all(
        re.fullmatch(re.escape(f"looking at the cluster: the job is {text}") + r" after \d+ s", n) for n in notices
    )
    assert text in str(refused.value)
    limit, advice = ("0.5 s", "RAY_AUTH_TOKEN_PATH") if handler.status == "PENDING" else ("0.9 s", "its log")
    assert limit in str(refused.value)
    assert advice in str(refused.value)
    assert handler.stopped == 1
