"""Temporary folders: no other user gets in; a live owner's is never removed, a dead owner's always."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from runs import eventually

from distsgd.system import scratch
from distsgd.system.scratch import locked_folder, scratch_folder

HOLDING = """
import sys, time
from distsgd.system.scratch import {kind}
with {kind}() as folder:
    (folder / "file").touch()
    print(folder, flush=True)
    time.sleep(100)
"""


@pytest.fixture
def parent(monkeypatch):
    """A temporary folder whose name is short enough."""
    with tempfile.TemporaryDirectory(prefix="ds", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


@pytest.fixture
def hold(parent):
    """Starts processes that hold a folder."""
    started = []

    def start(kind: str, *prefix: str) -> tuple[subprocess.Popen[str], Path]:
        command = [*prefix, sys.executable, "-c", HOLDING.format(kind=kind)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process, Path(process.stdout.readline().strip())

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("kind", [scratch_folder, locked_folder])
def test_a_folder_is_empty_and_gone_afterwards(parent, kind):
    with kind() as folder:
        assert folder.is_relative_to(parent)
        assert list(folder.iterdir()) == []
    assert list(parent.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.timeout(60)
def test_no_other_user_has_access_even_if_ray_makes_the_folder_world_writable(parent):
    """As Ray does with `_temp_dir`; another user could then put his own sockets in place of the raylet's."""
    parent.chmod(0o1777)
    attack = "import os, sys; os.setuid(65534); os.rename(sys.argv[1], sys.argv[1] + '.moved')"
    with scratch_folder() as folder:
        folder.chmod(0o777)
        (folder / "raylet").touch()
        done = subprocess.run([sys.executable, "-c", attack, str(folder / "raylet")], capture_output=True, text=True)
        assert "PermissionError" in done.stderr
        assert (folder / "raylet").exists()
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def can_unshare() -> bool:
    command = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.timeout(60)
@pytest.mark.skipif(not can_unshare(), reason="namespaces of processes cannot be made here")
def test_a_live_folder_is_kept_by_processes_of_another_container(parent, hold):
    """Which share /tmp, and know no process of its owner's number."""
    _, folder = hold("scratch_folder")
    code = "from distsgd.system.scratch import scratch_folder\nwith scratch_folder(): pass"
    subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code], check=True)
    assert (folder / "file").exists()


@pytest.mark.timeout(60)
def test_the_folder_of_a_killed_process_is_removed_at_once(hold, parent):
    process, folder = hold("scratch_folder")
    process.kill()
    assert eventually(lambda: not folder.parent.exists(), 20)


@pytest.mark.timeout(60)
def test_who_looks_whether_the_folder_of_a_killed_process_is_stale_is_not_killed(hold, parent):
    """As the next run does, which may begin in the very moment."""
    process, folder = hold("scratch_folder")
    looking = [sys.executable, "-c", "import sys\nfile = open(sys.argv[1])\nprint(1, flush=True)\ninput()"]
    with subprocess.Popen(
        [*looking, folder.parent / scratch.LOCK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "1\n"
        process.kill()
        assert eventually(lambda: not folder.parent.exists(), 20)
        other.communicate("\n")
    assert other.returncode == 0


@pytest.mark.timeout(60)
def test_the_folder_of_a_killed_process_is_left_to_its_watcher(hold, parent):
    """Whoever removed it too would have open files in it."""
    process, folder = hold("scratch_folder")
    (watcher,) = psutil.Process(process.pid).children()
    watcher.suspend()
    try:
        process.kill()
        process.wait()
        with locked_folder():
            assert (folder / "file").exists()
    finally:
        watcher.resume()
    assert eventually(lambda: not folder.parent.exists(), 20)


@pytest.mark.timeout(60)
def test_what_is_left_after_all_was_killed_is_removed_by_the_next_one(hold, parent):
    process, folder = hold("locked_folder")
    with locked_folder():
        assert folder.exists()
    process.kill()
    process.wait()
    assert folder.exists()
    with locked_folder():
        assert not folder.exists()


def test_a_folder_that_another_process_is_about_to_lock_is_kept(parent):
    fresh = Path(tempfile.mkdtemp(prefix=scratch.PREFIX, dir=parent))
    old = Path(tempfile.mkdtemp(prefix=scratch.PREFIX, dir=parent))
    os.utime(old, (1e9, 1e9))
    with locked_folder():
        assert fresh.exists()
        assert not old.exists()


@pytest.mark.timeout(60)
def test_a_forked_child_neither_holds_nor_removes_the_folder_of_its_parent(parent):
    with scratch_folder() as folder:
        child = os.fork()
        if child == 0:
            signal.pause()
            os._exit(0)
    try:
        assert not folder.exists()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_sockets_of_ray_fit_into_a_path(parent, monkeypatch):
    longest = "/tmp/" + "x" * (scratch.LONGEST - len("/tmp/"))
    socket = "/session_2026-01-01_00-00-00_123456_1234567/sockets/plasma_store"
    for name in (longest, longest + "x"):
        Path(name).mkdir()
        try:
            monkeypatch.setattr(tempfile, "tempdir", name)
            with locked_folder() as folder:
                assert len(f"{folder}{socket}") <= 107
                assert folder.is_relative_to(name) == (name == longest)
        finally:
            Path(name).rmdir()
