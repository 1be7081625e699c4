"""A real MLflow server over HTTP, and servers that misbehave."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

START_S = 180


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class MlflowServer:
    """`mlflow server` on 127.0.0.1 with one worker, its database and artifacts in `folder`."""

    def __init__(self, folder: Path, options: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
        """`options` and `environment` are further ones; with `--uvicorn-opts` for a certificate, the server has TLS."""
        self._folder, self._port = folder, free_port()
        self._options, self._environment = options, environment or {}
        scheme = "https" if any("--ssl-certfile" in option for option in options) else "http"
        self.uri = f"{scheme}://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder / 'server.db'}"]
        command += ["--artifacts-destination", str(self._folder / "artifacts"), *self._options]
        environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "TMPDIR": str(self._folder)}
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # whose stores would stay behind in /dev/shm
        environment = {name: value for name, value in environment.items() if not name.startswith("MLFLOW_TRACKING_")}
        with open(self._folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._folder,
                env=environment | self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline, trusting = time.monotonic() + START_S, ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        while time.monotonic() < deadline and self._process.poll() is None:
            address = f"{self.uri}/health"
            with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=2, context=trusting) as reply:
                if reply.status == 200:
                    return
            time.sleep(0.1)
        self.stop()
        raise RuntimeError(f"mlflow server did not start: {(self._folder / 'server.log').read_text()[-2000:]}")

    def stop(self) -> None:
        """Kill the server and all that it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def mlflow_server(
    folder: Path, options: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[MlflowServer]:
    """Yield a running server; none of its processes is left afterwards."""
    server = MlflowServer(folder, options, environment)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def stalled_server() -> Iterator[str]:
    """Yield the URI of a server that accepts every connection and never answers."""
    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connections.append(listener.accept()[0])

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in connections:
                connection.close()


class _Failing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b'{"error_code": "INTERNAL_ERROR", "message": "the database is on fire"}'
        self.send_response(500)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PATCH = do_PUT = do_GET  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def failing_server() -> Iterator[str]:
    """Yield the URI of a server that answers everything with HTTP 500."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Failing) as server, _serving(server) as uri:
        yield uri


@contextlib.contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()


class Proxy:
    """Stands before a server, and can be closed, opened again, or told to lose replies."""

    def __init__(self, target: str) -> None:
        self.target, self.uri = target, f"http://127.0.0.1:{free_port()}"
        self.to_lose: list[str] = []
        """Endings of paths, such as `runs/create`: the next request to each gets through, its reply does not."""
        self._stack = contextlib.ExitStack()

    def open(self) -> None:
        address = ("127.0.0.1", int(self.uri.rpartition(":")[2]))
        handler = type("Handler", (_Forwarding,), {"proxy": self})
        self._stack.enter_context(_serving(self._stack.enter_context(ThreadingHTTPServer(address, handler))))

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Proxy:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Forwarding(BaseHTTPRequestHandler):
    proxy: Proxy

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or None
        kept = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "content-length", "connection")}
        request = urllib.request.Request(self.proxy.target + self.path, body, kept, method=self.command)
        try:
            reply = urllib.request.urlopen(request, timeout=60)
        except urllib.error.HTTPError as error:
            reply = error
        with reply:
            status, content, kind = reply.status, reply.read(), reply.headers.get("Content-Type", "")
        ending = next((ending for ending in self.proxy.to_lose if self.path.endswith(ending)), None)
        if ending is not None:
            self.proxy.to_lose.remove(ending)
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_PATCH = do_PUT = do_DELETE = do_GET  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        pass
