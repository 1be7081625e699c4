"""What this machine shows of containers: listening sockets, processes, mounts."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

HELPERS = ("conmon", "aardvark-dns", "rootlessport", "slirp4netns", "pasta", "netavark")
"""Programs of podman that listen on this machine's addresses for containers."""

LISTENING = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}
"""States of sockets, in the kernel's numbers, that take what comes from anybody."""


def podman_sockets() -> set[tuple[str, str, int]]:
    """Return protocol, address and port of all sockets of this machine on which podman's programs listen."""
    inodes = {inode for pid, name in _processes() if name in HELPERS for inode in _socket_inodes(pid)}
    found = set()
    for protocol, state in LISTENING.items():
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{protocol}").read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == state and words[9] in inodes:
                    address, _, port = words[1].partition(":")
                    found.add((protocol, _address(address), int(port, 16)))
    return found


def traces(names: Iterable[str]) -> list[str]:
    """Return processes and mounts that have one of the names in their command line or path."""
    wanted = [name for name in names if name]
    found = []
    for pid, _ in _processes():
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if pid not in (os.getpid(), os.getppid()) and any(name in command for name in wanted):
                found.append(f"process {pid}: {command[:200]}")
    mounts = Path("/proc/mounts").read_text().splitlines()
    return found + [f"mount {line.split()[1]}" for line in mounts if any(name in line for name in wanted)]


def _processes() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(entry.name), (entry / "comm").read_text().strip()


def _socket_inodes(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(link))
                if match:
                    yield match[1]


def _address(text: str) -> str:
    """Return an address as people write it; the kernel prints it as 32-bit words in this processor's byte order."""
    words = [bytes.fromhex(text[i : i + 8])[::-1] for i in range(0, len(text), 8)]
    return str(ipaddress.ip_address(b"".join(words)))
