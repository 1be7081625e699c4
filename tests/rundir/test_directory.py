"""The run directory: one driver at a time, one run, and words for whatever is wrong with it."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import distsgd
from distsgd.config import Config
from distsgd.errors import RunDirectoryError
from distsgd.rundir import directory as rundir
from distsgd.rundir import folders, lock

HOLDING = """
import sys, time
from pathlib import Path
from distsgd.rundir.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(100)
"""

CONFIG = Config.build({"optim.lr": 0.5, "data.features": ["a", "b"], "run.workers": 0})


@contextlib.contextmanager
def another_driver(path: Path):
    """A real process that holds the lock of a run directory."""
    process = subprocess.Popen([sys.executable, "-c", HOLDING, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "locked\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def make(path: Path, config: Config = CONFIG, digest: str = "d") -> rundir.RunDirectory:
    path.mkdir(parents=True)
    return rundir.create(path, resolved=config, requested=config, data_digest=digest)


def refused(call, *arguments) -> str:
    with pytest.raises(RunDirectoryError) as caught:
        call(*arguments)
    assert caught.value.exit_code == 2
    return str(caught.value)


def lock_once(path: Path) -> None:
    with lock.locked(path):
        pass


@pytest.mark.timeout(60)
def test_a_second_driver_is_refused_while_the_first_lives_and_not_after_it_was_killed(tmp_path):
    path = tmp_path / "run"
    with another_driver(path) as process:
        message = refused(lock_once, path)
        assert f"another driver is using the run directory {str(path)!r}" in message
        assert "wait for it to finish, or stop it" in message
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        lock_once(path)


def test_a_driver_holds_against_itself_and_lets_go_at_the_end(tmp_path):
    with contextlib.suppress(KeyError), lock.locked(tmp_path):
        assert "another driver" in refused(lock_once, tmp_path)
        raise KeyError
    lock_once(tmp_path)


@pytest.mark.timeout(60)
def test_a_program_that_a_driver_started_does_not_hold_its_lock(tmp_path):
    """A Ray that outlives its driver must not keep the next one out."""
    script = HOLDING.replace(
        "    time.sleep(100)",
        """    import subprocess
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    time.sleep(100)""",
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    child = None
    try:
        assert process.stdout.readline() == "locked\n"
        child = int(process.stdout.readline())
        process.kill()
        process.wait()
        os.kill(child, 0)
        lock_once(tmp_path)
    finally:
        if child is not None:
            os.kill(child, signal.SIGKILL)
        process.kill()
        process.wait()
        process.stdout.close()


def test_locking_makes_the_directory(tmp_path):
    with lock.locked(tmp_path / "a" / "b"):
        assert [entry.name for entry in (tmp_path / "a" / "b").iterdir()] == [lock.LOCK]
    folders.check_new(tmp_path / "a" / "b")


@pytest.mark.parametrize("below", [".", "deeper"])
def test_a_file_where_the_directory_should_be_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("x")
    path = tmp_path / "file" / below
    assert "is a file" in refused(folders.check_new, path)
    message = refused(lock_once, path)
    assert repr(str(path)) in message
    assert "--run-dir" in message


@pytest.mark.parametrize("name", ["n" * 300, "a\0b"])
def test_an_impossible_name_is_refused(tmp_path, name):
    assert "--run-dir" in refused(folders.check_new, tmp_path / name)


WITHOUT_RIGHTS = """
import os, sys
from pathlib import Path
from distsgd.config import Config
from distsgd.rundir import directory as rundir
from distsgd.rundir import folders, lock
from distsgd.errors import RunDirectoryError
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
folders.RUNS = Path(sys.argv[1]).parent
config = Config()
for call in (
    lambda path: folders.check_new(path),
    lambda path: lock.locked(path).__enter__(),
    lambda path: rundir.read(path),
    lambda path: folders.make_default(folders.default_name(config)),
    lambda path: folders.find_resumable(config),
):
    try:
        call(Path(sys.argv[1]))
    except RunDirectoryError as error:
        print(error)
"""


@pytest.mark.timeout(60)
def test_a_directory_without_permission_is_refused(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    command = [sys.executable, "-c", WITHOUT_RIGHTS, str(closed / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 5, done
    assert all("Permission denied" in line for line in lines)
    assert all("--run-dir" in line for line in [*lines[:2], *lines[3:]])


def test_a_directory_with_a_run_is_refused_for_a_new_one(tmp_path):
    make(tmp_path / "run")
    message = refused(folders.check_new, tmp_path / "run")
    assert "holds another run" in message
    assert "--resume" in message


def test_a_directory_with_something_else_is_refused_by_the_name_of_it(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    message = refused(folders.check_new, tmp_path)
    assert "is not empty and holds no run ('thesis.tex' is in it)" in message


def test_what_a_death_leaves_while_the_configuration_is_written_is_taken(tmp_path):
    """Else each of the two messages would send the user to what the other one refuses."""
    (tmp_path / lock.LOCK).touch()
    (tmp_path / ".config.json.tmp").write_text('{"model": ')
    folders.check_new(tmp_path)
    rundir.create(tmp_path, resolved=CONFIG, requested=CONFIG, data_digest="d")
    assert {path.name for path in tmp_path.iterdir()} == {lock.LOCK, "config.json"}


def test_a_new_or_empty_directory_is_taken(tmp_path):
    folders.check_new(tmp_path)
    folders.check_new(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


def test_what_was_created_is_read_back(tmp_path):
    made = make(tmp_path / "run")
    directory, requested, digest = rundir.read(tmp_path / "run")
    assert directory == made
    assert requested == CONFIG
    assert requested.run.dir is None
    assert digest == "d"
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    assert content["optim"]["lr"] == 0.5
    assert content["run"]["dir"] == str(tmp_path / "run")
    assert set(content) == {*Config.model_fields, "distsgd"}


def test_runs_have_keys_of_their_own_and_identities_differ(tmp_path):
    one, two = make(tmp_path / "one"), make(tmp_path / "two")
    assert one.run_key != two.run_key
    identities = [rundir.identity(one, "d"), rundir.identity(two, "d"), rundir.identity(one, "e")]
    assert len({tuple(identity.values()) for identity in identities}) == 3


def test_reading_a_directory_without_a_run_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        message = refused(rundir.read, path)
        assert f"there is no run to resume in {str(path)!r}" in message
        assert "leave --resume out" in message
    (tmp_path / "file").write_text("")
    assert "file" in refused(rundir.read, tmp_path / "file")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "null",
        lambda text: "{}",
        lambda text: text.replace('"run_key"', '"key"'),
        lambda text: text.replace('"requested": {', '"requested": "x", "y": {'),
        lambda text: text.replace('"optim.lr": 0.5', '"optim.lr": "fast"'),
        lambda text: text.replace('"optim.lr"', '"optim.of_a_later_version"'),
        lambda text: "\ud800".encode("utf-8", "surrogatepass").decode("latin-1") + text,
    ],
)
def test_a_damaged_configuration_is_refused_by_its_path(tmp_path, damage):
    path = make(tmp_path / "run").path / "config.json"
    text = path.read_text()
    assert damage(text) != text
    path.write_text(damage(text))
    message = refused(rundir.read, path.parent)
    assert f"{str(path)!r} is damaged or of another version of distsgd: " in message


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("digits", "digits"),
        ("data/rows.parquet", "rows"),
        ("data/train/*.parquet", "train"),
        ("data/train/", "train"),
        ("data/part-?.parquet", "data"),
        ("*.parquet", "run"),
        ("/", "run"),
        ("my rows (1).csv", "my-rows--1-"),
    ],
)
def test_the_default_directory_is_named_after_data_and_time(tmp_path, monkeypatch, source, name):
    monkeypatch.chdir(tmp_path)
    path = folders.make_default(folders.default_name(Config.build({"data.train": source})))
    assert path.is_dir()
    assert path.parent == Path("runs")
    stem, date, clock = path.name.rsplit("-", 2)
    assert stem == name
    time.strptime(date + clock, "%Y%m%d%H%M%S")


MAKING = """
import sys, time
from distsgd.config import Config
from distsgd.rundir import folders

class Clock(folders.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 11, 24, 12, 0, 0)

folders.datetime = Clock
print(flush=True)
sys.stdin.read()  # until all are there
for _ in range(20):
    print(folders.make_default(folders.default_name(Config())).name)
"""


@pytest.mark.timeout(60)
def test_default_directories_of_one_second_differ_even_if_several_drivers_make_them_at_once(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    drivers = [subprocess.Popen([sys.executable, "-c", MAKING], cwd=tmp_path, **pipes) for _ in range(3)]
    for driver in drivers:
        driver.stdout.readline()
    for driver in drivers:
        driver.stdin.close()
    names = [name for driver in drivers for name in driver.stdout.read().split()]
    for driver in drivers:
        driver.stdout.close()
        assert driver.wait() == 0
    first = "digits-20261124-120000"
    assert sorted(names) == sorted([first, *(f"{first}-{number}" for number in range(2, 61))])


def test_a_home_directory_is_meant_by_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folders.named(Config.build({"run.dir": "~/runs/one"})) == tmp_path / "runs" / "one"
    assert folders.named(Config.build({"run.dir": "a~"})) == Path("a~")
    assert folders.named(Config()) is None
    assert "no such user" in refused(folders.named, Config.build({"run.dir": "~nobody-of-this-name/run"}))


def test_the_newest_run_of_the_same_configuration_is_resumed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for age, (name, config) in enumerate(
        {
            "newest but of another configuration": CONFIG.with_values({"optim.lr": 0.25}),
            "newest but of other data": CONFIG.with_values({"data.train": "elsewhere"}),
            "right": CONFIG.with_values({"run.workers": 2}),
            "right but older": CONFIG,
        }.items()
    ):
        make(Path("runs") / name, config)
        os.utime(Path("runs") / name / "config.json", (1e9 - age, 1e9 - age))
    assert folders.find_resumable(CONFIG) == Path("runs/right")


def test_runs_that_are_damaged_or_of_another_version_do_not_hinder_resuming(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(Path("runs/right"))
    for name, old, new in [("damaged", "{", ""), ("later", '"optim.lr"', '"optim.later"'), ("list", "", "")]:
        path = make(Path("runs") / name).path / "config.json"
        path.write_text(path.read_text().replace(old, new) if old else "[]")
    assert folders.find_resumable(CONFIG) == Path("runs/right")


def test_nothing_to_resume_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refused(folders.find_resumable, CONFIG)
    assert "no run of this configuration is in 'runs'" in message
    assert "--run-dir" in message


def test_no_room_for_the_configuration_is_refused(tmp_path):
    """A file may not grow beyond a few bytes, as on a full disk or over a quota."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        with pytest.raises(RunDirectoryError, match=r"cannot be written: File too large; give another one"):
            make(tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list((tmp_path / "run").iterdir()) == []


def test_json_that_is_not_finite_is_never_written(tmp_path):
    directory = make(tmp_path / "run")
    with pytest.raises(ValueError, match="JSON"):
        directory.write_json("result.json", {"loss": float("nan")})
    assert not directory.result.exists()


def test_where_things_are(tmp_path):
    directory = rundir.RunDirectory(tmp_path, "key")
    assert directory.journal == tmp_path / "metrics.jsonl"
    assert directory.checkpoints == tmp_path / "checkpoints"
    assert directory.model == tmp_path / "model.npz"
    assert directory.result == tmp_path / "result.json"


def test_a_deleted_current_folder_is_refused(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(RunDirectoryError, match=r"perhaps because it was deleted; change to another one"):
        distsgd.train({"run.workers": 0, "tracking.enabled": False, "run.dir": str(tmp_path / "run")})
    assert not (tmp_path / "run").exists()
