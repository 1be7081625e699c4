"""A switch that delays every frame, for kernels without netem: `python delaying_switch.py SECONDS DEVICE...`.

A separate program, without anything but the standard library. It makes the devices, TAP interfaces that may then be
moved into other network namespaces, prints a line, and forwards frames between them until it is killed. It costs some
ten microseconds of processor time for each frame, of up to 64 KiB.
"""

from __future__ import annotations

import collections
import ctypes
import fcntl
import os
import select
import struct
import sys
import time

TUNSETIFF, TUNSETOFFLOAD, TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 = 0x01, 0x02, 0x04
PR_SET_TIMERSLACK = 29

HEADER = 10
"""Bytes of the virtio header before each frame: with it, the kernel passes on up to 64 KiB in one frame."""

LONGEST = HEADER + 14 + 2**16

BURST = 64
"""Frames that are read from a device before others have their turn."""


def tap(name: str) -> int:
    """Make a TAP interface in this process's network namespace and return its descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(descriptor, TUNSETVNETHDRSZ, struct.pack("i", HEADER))
    fcntl.ioctl(descriptor, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)
    return descriptor


def forward(ports: list[int], delay: float) -> None:
    """Forward frames between ports, each `delay` seconds after it was read; does not return."""
    waiting: collections.deque[tuple[float, list[int], bytes]] = collections.deque()
    behind: dict[bytes, int] = {}  # a port by the Ethernet address that was seen there
    while True:
        timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for port in select.select(ports, [], [], timeout)[0]:
            for _ in range(BURST):
                try:
                    frame = os.read(port, LONGEST)
                except BlockingIOError:
                    break
                except OSError:  # the interface is down
                    break
                target, source = frame[HEADER : HEADER + 6], frame[HEADER + 6 : HEADER + 12]
                behind[source] = port
                if target[0] & 1:  # to all
                    targets = [other for other in ports if other != port]
                else:
                    targets = [behind[target]] if target in behind else []
                waiting.append((time.monotonic() + delay, targets, frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, targets, frame = waiting.popleft()
            for target_port in targets:
                try:
                    os.write(target_port, frame)
                except OSError:  # the interface is down
                    continue


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)  # the kernel may otherwise wake it 50 µs late
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))  # nor may others keep it from its time
    devices = [tap(name) for name in sys.argv[2:]]
    print("ready", flush=True)
    forward(devices, float(sys.argv[1]))
