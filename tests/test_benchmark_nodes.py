"""The comparison on several nodes: what is exchanged, its table, and a run of it for a tiny net and a blink."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from namespaces import unavailable

from benchmarks import report
from benchmarks.contestants import REPOSITORY
from benchmarks.node_contestants import CONTESTANTS, OURS_NODES, OURS_ONE_NODE, SOCKETS, environments
from benchmarks.node_report import SECTION, Case, markdown, table
from benchmarks.peers.sockets import part_of, swap
from benchmarks.shapes import Shape, parse_shape

TINY = Shape(5, 4, 3, 2048)


@pytest.mark.parametrize(("parameters", "nodes", "connections"), [(2410, 2, 1), (203_530, 4, 3), (7, 8, 2), (1, 2, 1)])
def test_slices_are_exchanged_completely(parameters, nodes, connections):
    parts = [[part_of(parameters, nodes, node, connections, n) for n in range(connections)] for node in range(nodes)]
    assert sum(map(sum, parts)) == 4 * parameters
    # Each of the other nodes gets its part of the gradient, and then each gets the new slice.
    sent = [sum(map(sum, parts)) - sum(own) + (nodes - 1) * sum(own) for own in parts]
    assert sum(sent) == 8 * parameters * (nodes - 1)


def test_buffers_are_swapped_over_several_connections_at_once():
    pairs = [socket.socketpair() for _ in range(3)]
    sizes = [(10, 3), (0, 5), (1_000_000, 2_000_000)]
    received = ([bytearray(b) for _, b in sizes], [bytearray(a) for a, _ in sizes])
    links = [
        [
            (pair[side], memoryview(bytes([side + 1]) * size[side]), memoryview(into))
            for pair, size, into in zip(pairs, sizes, received[side], strict=True)
        ]
        for side in (0, 1)
    ]
    thread = threading.Thread(target=swap, args=[links[1]])
    thread.start()
    swap(links[0])
    thread.join()
    assert [bytes(found) for found in received[0]] == [b"\2" * size for _, size in sizes]
    assert [bytes(found) for found in received[1]] == [b"\1" * size for size, _ in sizes]
    for ours, _ in pairs:
        ours.close()
    with pytest.raises(ConnectionError):
        swap(links[1])
    for _, theirs in pairs:
        theirs.close()


def test_the_table_compares_with_one_node_and_with_peers():
    case = Case(parse_shape("784-256-10"), 2, 0.5)
    times = {"one-node": [2.0, 2.2, 9.0], "distsgd": [3.3], "ddp": [6.6, 9.9, 6.5], "ray": [], "sockets": [0.4]}
    times |= {"mesh": [0.5]}
    assert (
        table({case: times})[-1]
        == "| 784-256-10@256 | 2 | 0.5 | 2.2 | 3.3 | 6.6 | - | 0.4 | 0.5 | 1.50× | 2.00× | - | 0.80× |"
    )
    facts = {"processor": "P", "cores": 2, "system": "S", "python": "3", "numpy": "2", "blas": "B"}
    lines = markdown({case: times}, facts, "Quiet.").splitlines()
    assert lines[0] == "P, 2 cores, S; Python 3, numpy 2; B. Quiet."
    assert lines[-3].count("|") == lines[-1].count("|")


def test_every_process_knows_its_rank_and_drivers_know_the_cluster():
    addresses = ["10.0.0.1", "10.0.0.2"]
    ranks = environments(SOCKETS, addresses, "10.0.0.1:6379")
    assert [found["RANK"] for found in ranks] == ["0", "1"]
    assert {found["MASTER_ADDR"] for found in ranks} == {"10.0.0.1"}
    assert environments(OURS_NODES, addresses, "10.0.0.1:6379") == [{"RAY_ADDRESS": "10.0.0.1:6379"}]
    assert environments(OURS_ONE_NODE, addresses, "10.0.0.1:6379") == [{}]


def compare(folder: Path, names: Iterable[str], *arguments: str) -> dict[str, Any]:
    """Run the comparison on two nodes and return what it found; the table is left in `page.md`."""
    if reason := unavailable():
        pytest.skip(reason)
    page = folder / "page.md"
    page.write_text("\n".join(report.markers(SECTION)))
    command = [sys.executable, "-m", "benchmarks.nodes", "--nodes=2", f"--shapes={TINY}", "--rounds=1", *arguments]
    command += [f"--json={folder / 'nodes.json'}", f"--markdown={page}", *(f"--only={name}" for name in names)]
    environment = os.environ | {"TMPDIR": str(folder)}
    ended = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=220)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (case,) = json.loads((folder / "nodes.json").read_text())["cases"]
    assert {name: len(found) for name, found in case["measurements"].items()} == dict.fromkeys(names, 1), ended.stdout
    assert "| 5-4-3@2048 | 2 |" in page.read_text()
    return {name: found for name, (found,) in case["measurements"].items()}


@pytest.mark.slow
def test_the_exchange_alone_takes_a_round_trip(tmp_path):
    links = ("--delay-ms=2", "--rate=1gbit", "--connections=2")
    exchange = compare(tmp_path, ["sockets"], *links, "--seconds=0.1")["sockets"]
    assert exchange["bytes_out"] == 4 * TINY.parameters
    assert exchange["step_ms_p50"] >= 2 * 2.0  # half of it has to arrive before the other half is sent


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_contestants_run_on_two_nodes(tmp_path):
    names = [contestant.name for contestant in CONTESTANTS if contestant.program.needs is None]
    found = compare(tmp_path, names, "--seconds=1", "--set=optim.momentum=0.9")
    assert all(measured["step_ms_p50"] > 0 for measured in found.values())
