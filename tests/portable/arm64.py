"""Runs on an ARM64 that qemu emulates."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

from benchmarks.portable import arm64_command, prepare_arm64
from portable.child import answer

NEEDED = ("pydantic", "pydantic-core", "typing-extensions", "annotated-types", "typing-inspection", "threadpoolctl")
"""What a run without Ray imports beside NumPy."""


def on_arm64(folder: Path, numbers: Sequence[int]) -> tuple[str, dict[int, dict[str, str]]]:
    """Return the BLAS and the serial loop's digest of each run; `folder` is for what that needs."""
    prepare_arm64(folder, [f"{name}=={importlib.metadata.version(name)}" for name in NEEDED])
    found = answer(*arm64_command(folder), "serial", numbers)
    assert found is not None
    return found
