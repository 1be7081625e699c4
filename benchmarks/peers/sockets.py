"""The exchange of a step between nodes and nothing else, over plain sockets: what no step on them can be faster than.

Each node owns a slice of the parameters. It sends every other node the part of its gradient that is that node's, and
then its own new slice: 8P(N − 1)/N bytes out of each node, and as many into it. One process for each node: RANK,
WORLD_SIZE and NODE_ADDRESSES, separated by commas, are in the environment, and CONNECTIONS has the number of
connections of a pair.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.peers.common import StepClock, Task, main

PORT = 29600

START_S = 60.0
"""Seconds within which all nodes have to be there."""


class Link(NamedTuple):
    """One connection to another node, and the bytes that it carries in each half of an exchange."""

    connection: socket.socket
    theirs: memoryview
    """This connection's part of the other node's slice."""
    mine: memoryview
    """This connection's part of this node's slice."""


def cut(size: int, parts: int, number: int) -> tuple[int, int]:
    """Return the first and one past the last index of a part of `size`."""
    return size * number // parts, size * (number + 1) // parts


def part_of(parameters: int, nodes: int, node: int, connections: int, number: int) -> int:
    """Return how many bytes of a node's slice one of several connections carries."""
    begin, end = cut(parameters, nodes, node)
    first, last = cut(end - begin, connections, number)
    return 4 * (last - first)


def connect(rank: int, addresses: Sequence[str], connections: int) -> list[tuple[int, int, socket.socket]]:
    """Return this node's connections, each with the other node and its number; OSError if a node is missing."""
    found = []
    with socket.create_server((addresses[rank], PORT), backlog=128) as server:
        server.settimeout(START_S)
        for other in range(rank):
            for number in range(connections):
                made = _dial(addresses[other])
                made.sendall(bytes([rank, number]))
                found.append((other, number, made))
        for _ in range(connections * (len(addresses) - rank - 1)):
            accepted, _ = server.accept()
            other, number = accepted.recv(1)[0], accepted.recv(1)[0]
            found.append((other, number, accepted))
    for _, _, connection in found:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(True)
    return found


def _dial(address: str) -> socket.socket:
    deadline = time.monotonic() + START_S
    while True:
        try:
            return socket.create_connection((address, PORT), timeout=START_S)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def swap(links: Sequence[tuple[socket.socket, memoryview, memoryview]]) -> None:
    """Send the first buffer of every connection while the second is received; ConnectionError if one is closed."""
    outgoing = {link: buffer for link, buffer, _ in links if buffer}
    incoming = {link: buffer for link, _, buffer in links if buffer}
    while outgoing or incoming:
        moved = 0
        for link, buffer in list(outgoing.items()):
            moved += (count := _send(link, buffer))
            _advance(outgoing, link, buffer[count:])
        alone = not outgoing and len(incoming) == 1  # then the kernel may wait for all of it
        for link, buffer in list(incoming.items()):
            moved += (count := _receive(link, buffer, socket.MSG_WAITALL if alone else socket.MSG_DONTWAIT))
            _advance(incoming, link, buffer[count:])
        if not moved:
            _wait(outgoing, incoming)


def _send(link: socket.socket, buffer: memoryview) -> int:
    """Send what can be sent at once and return the number of bytes."""
    try:
        return link.send(buffer, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return 0


def _receive(link: socket.socket, buffer: memoryview, flags: int) -> int:
    """Receive and return the number of bytes; ConnectionError if the connection is closed."""
    try:
        count = link.recv_into(buffer, 0, flags)
    except BlockingIOError:
        return 0
    if not count:
        raise ConnectionError("another node has ended")
    return count


def _advance(buffers: dict[socket.socket, memoryview], link: socket.socket, rest: memoryview) -> None:
    if rest:
        buffers[link] = rest
    else:
        del buffers[link]


def _wait(outgoing: dict[socket.socket, memoryview], incoming: dict[socket.socket, memoryview]) -> None:
    poll = select.poll()
    for link in outgoing.keys() | incoming.keys():
        poll.register(link, (select.POLLOUT if link in outgoing else 0) | (select.POLLIN if link in incoming else 0))
    poll.poll()


def measure(task: Task) -> dict[str, Any]:
    """Exchange until the time of rank 0 is over; return its summary, or that of the exchanges until it ended."""
    rank, nodes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    connections = int(os.environ.get("CONNECTIONS", "1"))
    links = []
    for other, number, connection in connect(rank, os.environ["NODE_ADDRESSES"].split(","), connections):
        theirs = bytearray(part_of(task.shape.parameters, nodes, other, connections, number))
        mine = bytearray(part_of(task.shape.parameters, nodes, rank, connections, number))
        links.append(Link(connection, memoryview(theirs), memoryview(mine)))
    gradients = [(link.connection, link.theirs, link.mine) for link in links]
    slices = [(link.connection, link.mine, link.theirs) for link in links]
    sent = sum(len(link.theirs) + len(link.mine) for link in links)
    clock = StepClock(task)
    more = True
    while more:
        try:
            swap(gradients)
            swap(slices)
        except ConnectionError:
            if rank == 0:
                raise
            break
        more = clock.step() or rank != 0
    for link in links:
        link.connection.close()
    return clock.summary() | {"bytes_out": sent}


if __name__ == "__main__":
    main(measure)
