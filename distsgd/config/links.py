"""Addresses that people open in a browser, which are printed as they are."""

from __future__ import annotations

from urllib.parse import urlsplit

LINK = "an address for browsers, such as http://127.0.0.1:5000, without user name, password, query and fragment"
"""What is expected, for messages."""


def is_link(address: str) -> bool:
    """Return whether this is a server's HTTP address that holds no secret and to which a page's path can be added."""
    try:
        parts = urlsplit(address)
        readable = parts.port != 0  # reading it raises ValueError for what is no port
    except ValueError:
        return False
    served = parts.scheme in ("http", "https") and bool(parts.hostname)
    return readable and served and address.isprintable() and not set(address) & set("@?# ")
