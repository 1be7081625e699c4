"""An HTTP server's answers in JSON, for tests that stand in for Ray's dashboard."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler


def answer(handler: BaseHTTPRequestHandler, content: object) -> None:
    """Answer the request that `handler` has with `content`."""
    body = json.dumps(content).encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
