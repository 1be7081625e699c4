"""Why an MLflow store has failed, in a line, and which of MLflow's variables a login or a certificate needs."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator

from distsgd.system.secrets import scrubbed

LONGEST = 200
"""Characters of a message that are shown."""

LOGIN = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"

CLIENT_CERTIFICATE = "MLFLOW_TRACKING_CLIENT_CERT_PATH"

OTHER_NAME = (62, 64)
"""OpenSSL's codes of a certificate that is trusted, and is another host's, or another address's."""

CLOSED = (
    "EOF occurred",
    "closed connection without response",
    "Connection reset",
    "Broken pipe",
    "CERTIFICATE_REQUIRED",
)
"""What is said of a server that hangs up: with TLS 1.3, also of one that misses the client's certificate."""


def reason(error: BaseException, uri: str) -> str:
    """Return the root cause of an error from mlflow, in one line, without the secrets of the store's URI."""
    causes = list(_causes(error))
    advice = next((text for cause in causes if (text := _advice(cause)) is not None), None)
    if advice is not None:
        return scrubbed(advice, uri)
    lines = scrubbed(str(causes[-1]), uri).strip().splitlines() or [""]
    found = f"{lines[0][:LONGEST]} ({type(causes[-1]).__name__})".strip()
    if uri.startswith("https") and CLIENT_CERTIFICATE not in os.environ and any(words in found for words in CLOSED):
        found += f"; if it wants a certificate from this side, set {CLIENT_CERTIFICATE}"
    return found


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what has caused it, the root last."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


def _advice(error: BaseException) -> str | None:
    """Return what a refused login or a broken TLS connection is called, and what to do; None for any other error."""
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code not in OTHER_NAME:
        return (
            f"its certificate is not trusted here ({error.verify_message}): set MLFLOW_TRACKING_SERVER_CERT_PATH to "
            "the file with the certificate of the authority that signed it"
        )
    status = _http_status(error)
    if status == 401:
        return f"it wants a login that it knows, and got another one or none (HTTP 401): set {LOGIN}"
    if status == 403 and "Permission denied" in str(error):  # else it may be the address that it does not like
        return (
            "it does not permit this login to do that (HTTP 403): have its administrator grant the permission to edit "
            "the experiment, or name another one (tracking.experiment)"
        )
    return None


def _http_status(error: BaseException) -> int | None:
    """Return the status with which a server has answered, as errors of mlflow and of requests have it."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None and callable(of_mlflow := getattr(error, "get_http_status_code", None)):
        status = of_mlflow()
    return status if isinstance(status, int) else None
