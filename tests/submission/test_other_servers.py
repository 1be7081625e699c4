"""Servers that are no dashboard of Ray, and answer all the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from distsgd.cluster.job_client import JobClient
from distsgd.errors import ResourceError


@contextmanager
def server(body: bytes) -> Iterator[str]:
    """Yield the address of a server that answers every request with the same."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{found.server_port}"
        finally:
            found.shutdown()
            thread.join()


@pytest.mark.parametrize("body", [b"<html>", b"", b"\xff\xfe<html>", b"null", b"[1, 2]", b"{}", b'"text"', b"7"])
def test_a_server_that_is_no_dashboard_is_called_that(body):
    with (
        server(body) as address,
        pytest.raises(ResourceError, match=r"what answers at .* is no Ray cluster's dashboard"),
    ):
        JobClient(address)
