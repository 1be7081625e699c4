"""What in a URI is secret: all before the host, since a token may be the user name, and all behind the path.

Whatever shows a URI or writes one down takes it from here.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_plus

HIDDEN = "***"
"""What stands in the place of a secret."""

MIN_LENGTH = 4
"""Characters of a part of a secret that is hidden in other text, too; shorter ones are in any text by chance."""

_SCHEMES = "sqlite|postgresql|mysql|mssql|https?|databricks|databricks-uc|file"
_URI = re.compile(rf"((?:{_SCHEMES})(?:[+][a-z0-9_]+)?:/+)(.*)", re.DOTALL)
_REDACTED = re.compile(r":/+\*{3}(@|$)|[?#]\*{3}$")
_URI_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/+.*", re.DOTALL)


def redacted(uri: str) -> str:
    """Return the URI without its secrets; what was redacted stays as it is.

    A scheme that no store has may be a user name, and is shown only of a URI that has nothing to hide.
    An SQLite file needs no login, so that its path is shown as it is. Where `@` and `?` are in an order in which either
    may be part of a password, all is hidden but the scheme.
    """
    found = _URI.fullmatch(uri)
    if found is None:
        return HIDDEN if "@" in uri or "?" in uri else uri
    start, rest = found.groups()
    mark = re.search("[?]" if start == "sqlite:///" else "[?#]", rest)
    end = len(rest) if mark is None else mark.start()
    query = "" if mark is None else f"{rest[end]}{HIDDEN}"
    at = -1 if start.startswith("sqlite:///") else rest.rfind("@")
    if at > end:
        return f"{start}{HIDDEN}"
    return f"{start}{rest[:end] if at < 0 else HIDDEN + rest[at:end]}{query}"


def holds_secret(uri: str) -> bool:
    """Return whether a part of the URI has to be hidden."""
    return redacted(uri) != uri


def is_redacted(uri: str) -> bool:
    """Return whether this is a URI whose secret has been taken out, so that nothing can be reached by it."""
    return not holds_secret(uri) and (uri == HIDDEN or _REDACTED.search(uri) is not None)


def redacted_text(text: str) -> str:
    """Return a text that may hold a URI, which ends nobody knows where: from its scheme on, all is taken for a URI."""
    return _URI_IN_TEXT.sub(lambda found: redacted(found[0]), text)


def scrubbed(text: str, uri: str) -> str:
    """Return a text in which nothing stands of the secrets of a URI, wherever it was taken from there."""
    if not holds_secret(uri):
        return text
    text = text.replace(uri, redacted(uri))
    for part in sorted(_secret_parts(uri), key=len, reverse=True):
        text = text.replace(part, HIDDEN)
    return text


def _secret_parts(uri: str) -> set[str]:
    """Return all that a program may take out of a URI's user name, password and query, as it stands and decoded."""
    found = _URI.fullmatch(uri)
    rest = uri if found is None else found[2]
    login, query = rest.rpartition("@")[0], re.split("[?#]", rest, maxsplit=1)[1:]
    whole = {login, *query}
    parts = {part for text in whole for part in re.split("[:@/?#&=]", text)} | {login.partition(":")[2]}
    return {
        form for text in whole | parts for form in (text, unquote(text), unquote_plus(text)) if len(form) >= MIN_LENGTH
    }
