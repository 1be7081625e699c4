"""How much memory this process may use: the machine's memory, or less if a container or a limit restricts it."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
"""Where the kernel's control groups are mounted."""

MEMBERSHIP = Path("/proc/self/cgroup")
"""Which control groups this process is in: a line `hierarchy:controllers:path` for each hierarchy."""


def memory_limit() -> int:
    """Return the bytes of memory that this process may use.

    That is the smallest of the physical memory, the limits of its control groups and of those above them (version 2,
    `memory.max`, and version 1, `memory.limit_in_bytes`), and the limit of its address space (RLIMIT_AS).
    """
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_cgroup_limits()]
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        limits.append(address_space)
    return min(limits)


def _cgroup_limits() -> list[int]:
    """Return the limits of all control groups that this process is in, as far as they can be read."""
    limits = []
    with contextlib.suppress(OSError):
        for line in MEMBERSHIP.read_text().splitlines():
            hierarchy, controllers, path = line.split(":", 2)
            if hierarchy == "0":
                root, name = CGROUPS, "memory.max"
            elif "memory" in controllers.split(","):
                root, name = CGROUPS / "memory", "memory.limit_in_bytes"
            else:
                continue
            # A container sees its own group as the root of the hierarchy, whatever /proc says its path is.
            folder = root / path.lstrip("/")
            for group in {root, folder, *(parent for parent in folder.parents if parent.is_relative_to(root))}:
                with contextlib.suppress(OSError, ValueError):  # `max` means no limit
                    limits.append(int((group / name).read_text()))
    return limits
