"""The journal: a line that is there stays; crashes tear at most its end; readers never see half a line."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distsgd.errors import RunDirectoryError, TrainingError
from distsgd.rundir import journal as journal_module
from distsgd.rundir.journal import Journal, Reader, difference

STEPS = [10, 20, 23, 30, 40, 46]


def written(path: Path, steps=STEPS) -> bytes:
    path.unlink(missing_ok=True)
    with Journal.open(path, resume_step=None) as journal:
        for step in steps:
            journal.append({"step": step, "epoch": step / 23, "train/loss": 1 / step})
    return path.read_bytes()


def steps_of(path: Path) -> list[int]:
    return [record["step"] for record in Reader(path).new()]


def test_a_line_is_what_was_appended_with_the_time(tmp_path):
    content = written(tmp_path / "j")
    first = json.loads(content.splitlines()[0])
    assert {k: first[k] for k in ("step", "epoch", "train/loss")} == {"step": 10, "epoch": 10 / 23, "train/loss": 0.1}
    assert isinstance(first["timestamp_ms"], int)
    assert first["timestamp_ms"] > 1_600_000_000_000


def test_a_new_journal_refuses_an_existing_file(tmp_path):
    written(tmp_path / "j")
    with pytest.raises(FileExistsError):
        Journal.open(tmp_path / "j", resume_step=None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_line_holds_what_is_not_a_number(tmp_path, value):
    with Journal.open(tmp_path / "j", resume_step=None) as journal, pytest.raises(ValueError, match="JSON"):
        journal.append({"step": 1, "train/loss": value})
    assert (tmp_path / "j").read_bytes() == b""


def test_steps_do_not_go_back_to_one_that_has_no_line(tmp_path):
    written(tmp_path / "j")
    with (
        Journal.open(tmp_path / "j", resume_step=20) as journal,
        pytest.raises(TrainingError, match="none for step 15"),
    ):
        journal.append({"step": 15, "train/loss": 1.0})


def test_lines_after_the_checkpoint_stay_when_their_steps_are_computed_again(tmp_path):
    before = written(tmp_path / "j")
    with Journal.open(tmp_path / "j", resume_step=23) as journal:
        assert journal.last_step == 46
        line = journal.append({"step": 30, "epoch": 30 / 23, "train/loss": 1 / 30, "time/step_ms": 5.0})
        assert "time/step_ms" not in line
        assert (tmp_path / "j").read_bytes() == before
        journal.append({"step": 50, "train/loss": 0.5})
    assert (tmp_path / "j").read_bytes().startswith(before)
    assert steps_of(tmp_path / "j") == [*STEPS, 50]


def test_a_difference_is_found_in_losses_and_not_in_times():
    line = {"step": 3, "train/loss": 0.5, "val/loss": 0.25, "time/step_ms": 1.0, "timestamp_ms": 7}
    assert difference(line, {"step": 3, "train/loss": 0.5, "val/loss": 0.25, "time/step_ms": 2.0}) is None
    assert difference(line, {"step": 3, "train/loss": 0.5, "val/loss": 0.26}) == "val/loss"
    assert difference(line, {"step": 3, "train/loss": 0.5, "train/epoch_loss": 1.0}) is None  # new since 0.1.0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cut=st.integers(0, 10_000), data=st.data())
def test_a_torn_end_is_cut_off_and_written_again(tmp_path, cut, data):
    content = written(tmp_path / "j")
    torn = content[: cut % (len(content) + 1)]
    whole = torn.count(b"\n")
    resume = data.draw(st.integers(0, STEPS[whole - 1] if whole else 0))
    (tmp_path / "j").write_bytes(torn)
    assert steps_of(tmp_path / "j") == STEPS[:whole]
    with Journal.open(tmp_path / "j", resume_step=resume) as journal:
        assert [record["step"] for record in journal.records()] == STEPS[:whole]
        for step in (step for step in STEPS if step > resume):
            journal.append({"step": step, "epoch": step / 23, "train/loss": 1 / step})
    assert steps_of(tmp_path / "j") == STEPS
    lines = content.splitlines()[:whole]
    assert (tmp_path / "j").read_bytes().splitlines()[:whole] == lines


DAMAGE = [b"", b"\x00\x00\x00", b"{}", b'{"step": 1.5}', b'{"step": true}', b'{"step": 20, "x": NaN}', b"[1]", b"\xff"]
DAMAGE += [b'{"step": 20, "x": "text"}', b'{"step": 10}', b'{"step": 9}', b'{"step": 20, "x": 1e999}', b'{"step": 20']


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_line_before_the_checkpoint_is_named(tmp_path, damage):
    lines = written(tmp_path / "j").split(b"\n")
    lines[1] = damage
    (tmp_path / "j").write_bytes(b"\n".join(lines))
    for attempt in (lambda: Journal.open(tmp_path / "j", resume_step=20), lambda: Reader(tmp_path / "j").new()):
        with pytest.raises(RunDirectoryError, match="line 2 of the journal") as caught:
            attempt()
        assert str(tmp_path / "j") in str(caught.value)
    assert (tmp_path / "j").read_bytes() == b"\n".join(lines)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_line_after_the_checkpoint_is_cut_off_with_all_that_follows(tmp_path, damage):
    lines = written(tmp_path / "j").split(b"\n")
    lines[1] = damage
    (tmp_path / "j").write_bytes(b"\n".join(lines))
    with Journal.open(tmp_path / "j", resume_step=10) as journal:
        assert journal.last_step == 10
    assert (tmp_path / "j").read_bytes() == lines[0] + b"\n"


def test_a_reader_gets_each_line_once_however_the_file_grows(tmp_path):
    content = written(tmp_path / "j")
    path = tmp_path / "growing"
    path.touch()
    reader, seen = Reader(path), []
    for end in range(0, len(content) + 1, 7):
        path.write_bytes(content[:end])
        seen += reader.new()
    path.write_bytes(content)
    seen += reader.new()
    assert [record["step"] for record in seen] == STEPS
    assert reader.new() == []
    path.write_bytes(content + b"not json\n")
    with pytest.raises(RunDirectoryError, match=f"line {len(STEPS) + 1} of"):
        reader.new()


@contextlib.contextmanager
def file_size_limit(size: int):
    """Let no file grow beyond a size: a write across it is cut short, as by a disk that fills up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 1, 20])
def test_a_full_disk_is_said_and_leaves_the_journal_as_it_was(tmp_path, room):
    path = tmp_path / "j"
    before = written(path)
    with Journal.open(path, resume_step=46) as journal:
        with (
            file_size_limit(len(before) + room),
            pytest.raises(TrainingError, match=r"could not be written: .*; make room and use --resume"),
        ):
            journal.append({"step": 50, "train/loss": 0.5})
        assert path.read_bytes() == before
        journal.append({"step": 50, "train/loss": 0.5})
    assert steps_of(path) == [*STEPS, 50]


def test_lines_are_on_disk_after_sync(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with Journal.open(tmp_path / "j", resume_step=None) as journal:
        journal.append({"step": 1})
        journal.sync()
        assert synced == [journal._file.fileno()]


def test_a_journal_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text("")

    def refuse(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(journal_module, "open_regular", refuse)
    with pytest.raises(RunDirectoryError, match="cannot be read: Permission denied; correct its permissions"):
        Reader(path).new()
