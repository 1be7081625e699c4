"""TLS for connections between nodes, with the certificates that Ray uses.

Ray's variables apply: with `RAY_USE_TLS=1`, both sides show the certificate `RAY_TLS_SERVER_CERT`, signed by
`RAY_TLS_CA_CERT`. Unlike in Ray, names in certificates are not compared: nodes are known by their addresses, and the
run's secret says who belongs to the run.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator

VARIABLES = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")


def is_required() -> bool:
    """Return whether this process's Ray uses TLS; connections between nodes then do, too."""
    return os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")


def context(*, server: bool) -> ssl.SSLContext | None:
    """Return the context of one side of a connection, or None if TLS is not required.

    Raise OSError if it is and a variable is unset, or a certificate or key cannot be read or does not fit.
    """
    if not is_required():
        return None
    missing = [name for name in VARIABLES if not os.environ.get(name)]
    if missing:
        raise OSError(f"RAY_USE_TLS is set, and {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not")
    certificate, key, authority = (os.environ[name] for name in VARIABLES)
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    found.minimum_version = ssl.TLSVersion.TLSv1_3
    found.check_hostname = False
    found.verify_mode = ssl.CERT_REQUIRED
    with _naming("RAY_TLS_CA_CERT"):
        found.load_verify_locations(authority)
    with _naming("RAY_TLS_SERVER_CERT or RAY_TLS_SERVER_KEY"):
        found.load_cert_chain(certificate, key)
    return found


@contextlib.contextmanager
def _naming(variables: str) -> Iterator[None]:
    """Say which variables are wrong: errors of TLS name no file."""
    try:
        yield
    except OSError as error:
        raise OSError(f"the file that {variables} names cannot be used: {error.strerror or error}") from None
