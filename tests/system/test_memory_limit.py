"""How much memory there is: the smallest of what the machine, its control groups and the process's limits allow."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distsgd.system import memory
from distsgd.system.memory import memory_limit

PHYSICAL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def groups(tmp_path, monkeypatch) -> Path:
    """A folder in place of the control groups' file system, and `membership` beside it."""
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "MEMBERSHIP", tmp_path / "membership")
    (tmp_path / "cgroup").mkdir()
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_groups_it_is_the_machines(groups):
    assert memory_limit() == PHYSICAL


def test_the_smallest_limit_of_a_version_2_group_and_of_those_above_it(groups):
    write(groups / "membership", "0::/jobs/one\n")
    write(groups / "cgroup" / "jobs" / "one" / "memory.max", "max\n")
    assert memory_limit() == PHYSICAL
    write(groups / "cgroup" / "jobs" / "memory.max", "1000000\n")
    assert memory_limit() == 1_000_000
    write(groups / "cgroup" / "jobs" / "one" / "memory.max", "500000\n")
    assert memory_limit() == 500_000


def test_a_container_sees_its_own_group_as_the_root(groups):
    write(groups / "membership", "0::/../../elsewhere\n")
    write(groups / "cgroup" / "memory.max", "2000000\n")
    assert memory_limit() == 2_000_000


def test_a_version_1_group(groups):
    write(groups / "membership", "5:cpu,cpuacct:/x\n3:memory:/batch\n")
    write(groups / "cgroup" / "memory" / "batch" / "memory.limit_in_bytes", "3000000\n")
    assert memory_limit() == 3_000_000


@pytest.mark.timeout(30)
def test_the_limit_of_the_address_space():
    code = "from distsgd.system.memory import memory_limit; print(memory_limit())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31)),
    )
    assert int(done.stdout) == 2**31


@pytest.fixture
def real_group() -> Iterator[Path]:
    """A control group of the kernel's, with a limit of 400 MB; skips where none can be made."""
    for root, name in ((memory.CGROUPS / "memory", "memory.limit_in_bytes"), (memory.CGROUPS, "memory.max")):
        group = root / f"distsgd-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if not (group / name).exists():
                continue
            (group / name).write_text("400000000")
            yield group
        finally:
            group.rmdir()
        return
    pytest.skip("no control group with a limit of memory can be made here")


@pytest.mark.timeout(30)
def test_a_process_in_a_real_group(real_group):
    code = (
        f"import os; open({str(real_group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
        "from distsgd.system.memory import memory_limit; print(memory_limit())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 399_000_000 < int(done.stdout) <= 400_000_000
