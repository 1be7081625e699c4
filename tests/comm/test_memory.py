"""Shared memory: sealed, aligned, read-only where requested, and anonymous."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsgd.comm.memory import ALIGNMENT, Segment


@pytest.fixture
def segment():
    made = Segment.create(3, 21)
    yield made
    made.close()


def addresses(segment: Segment) -> list[int]:
    return [row.ctypes.data for row in segment.rows]


@given(count=st.integers(1, 9), width=st.integers(1, 5000))
def test_every_row_begins_on_a_cache_line_of_its_own(count, width):
    segment = Segment.create(count, width)
    try:
        assert segment.rows.shape == (count, width)
        assert segment.rows.dtype == np.float32
        assert not segment.rows.any()
        assert all(address % ALIGNMENT == 0 for address in addresses(segment))
        assert all(row.flags.c_contiguous for row in segment.rows)
        segment.rows[:] = np.arange(count)[:, None]
        assert all((row == number).all() for number, row in enumerate(segment.rows))
    finally:
        segment.close()


def test_both_mappings_are_the_same_memory(segment):
    seen = Segment.attach(segment.descriptor, 3, 21, writable=False)
    written = Segment.attach(segment.descriptor, 3, 21, writable=True)
    written.rows[2, 20] = 5
    assert segment.rows[2, 20] == seen.rows[2, 20] == 5
    assert all(address % ALIGNMENT == 0 for address in addresses(seen))


def test_a_read_only_mapping_refuses_to_be_written_to(segment):
    seen = Segment.attach(segment.descriptor, 3, 21, writable=False)
    with pytest.raises(ValueError, match="read-only"):
        seen.rows[0, 0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        seen.rows.flags.writeable = True


def test_writing_to_a_read_only_mapping_faults(segment):
    script = (
        "import ctypes, sys\n"
        "from distsgd.comm.memory import Segment\n"
        "rows = Segment.attach(int(sys.argv[1]), 3, 21, writable=False).rows\n"
        "ctypes.memset(rows.ctypes.data, 1, 4)\n"
    )
    command = [sys.executable, "-c", script, str(segment.descriptor)]
    ended = subprocess.run(command, pass_fds=[segment.descriptor], capture_output=True, timeout=60, check=False)
    assert ended.returncode == -11, ended.stderr
    assert not segment.rows.any()


@pytest.mark.parametrize("size", [0, 64, 385, 2**20])
def test_the_size_of_a_segment_cannot_be_changed(segment, size):
    before = os.fstat(segment.descriptor).st_size
    with pytest.raises(PermissionError):
        os.ftruncate(segment.descriptor, size)
    assert os.fstat(segment.descriptor).st_size == before


@pytest.mark.parametrize(("count", "width"), [(2, 21), (4, 21), (3, 33), (3, 16)])
def test_a_segment_of_another_size_is_refused(segment, count, width):
    with pytest.raises(ValueError, match=r"has 384 bytes, not \d+"):
        Segment.attach(segment.descriptor, count, width, writable=True)


def test_a_file_that_is_not_a_segment_is_refused(tmp_path):
    with open(tmp_path / "file", "w+b") as file, pytest.raises(ValueError, match="has 0 bytes, not 64"):
        Segment.attach(file.fileno(), 1, 1, writable=False)


def test_an_unsealed_segment_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(bytes(64))
    memory = os.memfd_create("unsealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, 64)
    with open(tmp_path / "file", "r+b") as file:
        for descriptor in (file.fileno(), memory):
            with pytest.raises(ValueError, match="could change its size"):
                Segment.attach(descriptor, 1, 1, writable=True)
    os.close(memory)


def test_a_segment_has_no_name_in_the_file_system():
    before = set(Path("/dev/shm").iterdir())
    segment = Segment.create(2, 100)
    try:
        assert os.readlink(f"/proc/self/fd/{segment.descriptor}").startswith("/memfd:")
        assert not [path for path in set(Path("/dev/shm").iterdir()) - before if "distsgd" in path.name]
    finally:
        segment.close()


def test_segments_leave_no_descriptor_and_no_mapping_behind():
    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), Path("/proc/self/maps").read_text().count("memfd:distsgd")

    before = held()
    for _ in range(20):
        segment = Segment.create(2, 1000)
        Segment.attach(segment.descriptor, 2, 1000, writable=False)
        segment.close()
        del segment
    assert held() == before


def test_memory_outlives_the_descriptor(segment):
    made = Segment.create(1, 4)
    made.rows[0] = 7
    made.close()
    assert made.rows.tolist() == [[7, 7, 7, 7]]
