"""Which parts of a URI are secret: all before the host, since a token may be the user name, and all after the path.

All code that shows or stores a URI redacts it with these functions.
"""

from __future__ import annotations

import re
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"
"""Placeholder for a secret."""

MIN_LENGTH = 4
"""Minimum length of a part of a secret that is also hidden in other text; shorter ones occur there by chance."""

_SCHEMES = "sqlite|postgresql|mysql|mssql|https?|databricks|databricks-uc|file"
_URI = re.compile(rf"((?:{_SCHEMES})(?:[+][a-z0-9_]+)?:/+)(.*)", re.DOTALL)
_REDACTED = re.compile(r":/+\*{3}(@|$)|[?#]\*{3}$")
_URI_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/+.*", re.DOTALL)


def redacted(uri: str) -> str:
    """Return the URI without its secrets; a redacted URI is returned unchanged.

    An unknown scheme may be a user name, so it is shown only if the URI has nothing to hide. An SQLite file needs no
    login, so its path is shown. If the order of `@` and `?` means that either may be part of a password, everything
    except the scheme is hidden.
    """
    found = _URI.fullmatch(uri)
    if found is None:
        return HIDDEN if "@" in uri or "?" in uri else uri
    start, rest = found.groups()
    mark = re.search("[?]" if start == "sqlite:///" else "[?#]", rest)
    end = len(rest) if mark is None else mark.start()
    query = "" if mark is None else f"{rest[end]}{HIDDEN}"
    at = -1 if start.startswith("sqlite:///") else rest.rfind("@")
    if at > end or (at < 0 and _lacks_host(start, rest)):
        return f"{start}{HIDDEN}"
    return f"{start}{rest[:end] if at < 0 else HIDDEN + rest[at:end]}{query}"


def _lacks_host(start: str, rest: str) -> bool:
    """Return whether what should be host and port may be a user name and a password, whose host was forgotten."""
    if not start.startswith(("postgresql", "mysql", "mssql", "http")):
        return False
    return re.fullmatch(r"(\[[^]]*\]|[^:]*)(:\d*)?", re.split("[/?#]", rest, maxsplit=1)[0]) is None


def holds_secret(uri: str) -> bool:
    """Return whether a part of the URI has to be hidden."""
    return redacted(uri) != uri


def is_redacted(uri: str) -> bool:
    """Return whether the secret of this URI has been removed, so that it cannot be used to connect."""
    return not holds_secret(uri) and (uri == HIDDEN or _REDACTED.search(uri) is not None)


def redacted_text(text: str) -> str:
    """Return a text with any URI redacted; its end is unknown, so all from the scheme on is taken as the URI."""
    return _URI_IN_TEXT.sub(lambda found: redacted(found[0]), text)


def without_uris(text: str) -> str:
    """Return a text with any URI hidden whole: for text that should hold none, where it may be cut off anywhere."""
    return _URI_IN_TEXT.sub(HIDDEN, text)


def scrubbed(text: str, uri: str) -> str:
    """Return a text with all parts of the secrets of `uri` replaced."""
    if not holds_secret(uri):
        return text
    text = text.replace(uri, redacted(uri))
    for part in sorted(_secret_parts(uri), key=len, reverse=True):
        text = text.replace(part, HIDDEN)
    return text


def _secret_parts(uri: str) -> set[str]:
    """Return all parts of a URI's user name, password and query that a message may quote, raw, decoded and encoded."""
    found = _URI.fullmatch(uri)
    rest = uri if found is None else found[2]
    login, query = rest.rpartition("@")[0], re.split("[?#]", rest, maxsplit=1)[1:]
    if found is not None and not login and _lacks_host(found[1], rest):
        login = rest
    whole = {login, *query}
    parts = {part for text in whole for part in re.split("[:@/?#&=]", text)} | {login.partition(":")[2]}
    return {
        form
        for text in whole | parts
        for plain in (text, unquote(text), unquote_plus(text))
        for form in (plain, quote(plain), quote_plus(plain))  # as a library writes it that puts the URI together again
        if len(form) >= MIN_LENGTH
    }
