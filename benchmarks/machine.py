"""What a measurement depends on besides the programs: processor, cores, versions and load."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import threadpoolctl

PACKAGES = ("distsgd", "numpy", "ray", "scikit-learn", "torch", "lightgbm", "xgboost-cpu")


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def facts() -> dict[str, Any]:
    """Return processor, cores, memory, BLAS and package versions."""
    blas = [f"{b['internal_api']} {b['version']} {b.get('architecture', '')}".strip() for b in _blas_libraries()]
    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "blas": ", ".join(blas),
        **_versions(),
    }


def in_words(facts: Mapping[str, Any], packages: Sequence[str] = PACKAGES[1:]) -> str:
    """Return a line with processor, cores, system, the versions of those of the packages that are there, and BLAS."""
    versions = ", ".join(f"{name} {facts[name]}" for name in packages if name in facts)
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['system']}; Python {facts['python']}, {versions}; "
        f"{facts['blas']}."
    )


def load_average() -> float:
    """Return the load average of the last minute."""
    return os.getloadavg()[0]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _blas_libraries() -> list[dict[str, Any]]:
    """Return the BLAS libraries that NumPy has loaded."""
    libraries = [library for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]
    return [library for library in libraries if "numpy" in str(library["filepath"])] or libraries


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions
