"""Names of columns as messages show them.

This file is copied into every model that is logged to MLflow.
"""

from __future__ import annotations

LONGEST_NAME = 60
"""Characters of a name that a message shows."""


def shortened(name: str) -> str:
    """Return a name as messages show it, with `...` in place of what is beyond LONGEST_NAME characters."""
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..."
