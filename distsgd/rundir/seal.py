"""Seals: a file, or a line of one, that holds the SHA-256 of its own content shows if a bit of it has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

KEY = "sha256"
"""The key of the digest within the content."""


def digest(content: Any) -> str:
    """Return the SHA-256 of content that JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content with its digest."""
    return {**content, KEY: digest(content)}


def is_whole(content: Mapping[str, Any]) -> bool:
    """Return whether sealed content is as it was when it was sealed."""
    return content.get(KEY) == digest({key: value for key, value in content.items() if key != KEY})
