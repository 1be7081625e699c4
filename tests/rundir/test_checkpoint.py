"""Checkpoints: read back bit by bit or not at all, whatever happens to the files, the disk or the writer."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from runs import eventually

import distsgd
from distsgd.engine.snapshot import UNKNOWN, EpochLoss, Snapshot
from distsgd.errors import CheckpointError
from distsgd.run.observer import Observer
from distsgd.rundir import checkpoint, checkpoint_writer
from distsgd.rundir.checkpoint import load_newest, save
from distsgd.rundir.checkpoint_writer import Writer
from distsgd.rundir.classifier import Classifier
from distsgd.system import files

IDENTITY = {"run_key": "r", "data_digest": "d"}


def snapshot(step: int, *, velocity: bool = False, size: int = 50) -> Snapshot:
    rng = np.random.default_rng(step)
    return Snapshot(
        step=step,
        parameters=rng.normal(size=size).astype(np.float32),
        slots={"velocity": rng.normal(size=size).astype(np.float32)} if velocity else {},
        skipped=step % 3,
        epoch_loss=EpochLoss(1.0 / (step + 1), 64.0 * step),
        last_record={
            "step": step,
            "epoch": step / 7,
            "train/loss": 1e-05 / (step + 1),
            "train/lr": 0.30000000000000004,
        },
    )


def put(folder: Path, *steps: int, keep: int = 3, **options) -> None:
    for step in steps:
        save(folder, snapshot(step, **options), IDENTITY, keep=keep)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def files_of(*steps: int) -> list[str]:
    return sorted(f"{step:08d}.{kind}" for step in steps for kind in ("json", "npz"))


def assert_equal(found: Snapshot | None, expected: Snapshot) -> None:
    assert found is not None
    assert (found.step, found.skipped, found.last_record) == (expected.step, expected.skipped, expected.last_record)
    assert found.epoch_loss == expected.epoch_loss
    assert found.parameters.dtype == np.float32
    assert found.parameters.tobytes() == expected.parameters.tobytes()
    assert {name: slot.tobytes() for name, slot in found.slots.items()} == {
        name: slot.tobytes() for name, slot in expected.slots.items()
    }


@pytest.mark.parametrize("velocity", [False, True])
def test_what_was_saved_comes_back_bit_by_bit(tmp_path, velocity):
    put(tmp_path / "c", 7, velocity=velocity)
    found, problems = load_newest(tmp_path / "c", IDENTITY)
    assert_equal(found, snapshot(7, velocity=velocity))
    assert problems == []


def test_no_checkpoint_is_no_problem(tmp_path):
    assert load_newest(tmp_path / "none", IDENTITY) == (None, [])
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "notes.json").write_text("{}")
    assert load_newest(tmp_path / "c", IDENTITY) == (None, [])


def test_the_newest_wins_by_its_number(tmp_path):
    put(tmp_path, 9, 10, 99_999_999, 100_000_000)
    assert load_newest(tmp_path, IDENTITY)[0].step == 100_000_000


@pytest.mark.parametrize("keep", [1, 3])
def test_the_newest_few_are_kept(tmp_path, keep):
    put(tmp_path, 10, 20, 30, 40, 50, keep=keep)
    assert names(tmp_path) == files_of(*[10, 20, 30, 40, 50][-keep:])


def test_the_same_step_can_be_saved_twice(tmp_path):
    put(tmp_path, 10, 20, 20)
    assert names(tmp_path) == files_of(10, 20)
    assert_equal(load_newest(tmp_path, IDENTITY)[0], snapshot(20))


def test_damaged_ones_of_later_steps_do_not_push_out_new_ones(tmp_path):
    """Training went back to step 10, because three newer checkpoints are damaged, and reaches step 15."""
    put(tmp_path, 10, 20, 30, 40, keep=4)
    for step in (20, 30, 40):
        (tmp_path / f"{step:08d}.npz").write_bytes(b"")
    assert load_newest(tmp_path, IDENTITY)[0].step == 10
    put(tmp_path, 15)
    found, problems = load_newest(tmp_path, IDENTITY)
    assert_equal(found, snapshot(15))
    assert problems == []
    assert names(tmp_path) == files_of(10, 15)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Return `content` with one to three flipped bits, or cut off, or with something at its end."""
    kind = rng.random()
    if kind < 0.7:
        changed = bytearray(content)
        for location in rng.sample(range(8 * len(content)), rng.randint(1, 3)):
            changed[location // 8] ^= 1 << location % 8
        return bytes(changed)
    if kind < 0.95:
        return content[: rng.randrange(len(content))]
    return content + rng.randbytes(3)


@pytest.mark.parametrize("kind", ["json", "npz"])
def test_a_file_damaged_anywhere_is_never_loaded_but_the_older_checkpoint(tmp_path, kind):
    put(tmp_path, 10, 20, velocity=True)
    path, rng = tmp_path / f"00000020.{kind}", random.Random(4)
    content = path.read_bytes()
    for _ in range(200):
        path.write_bytes(damaged(content, rng))
        found, problems = load_newest(tmp_path, IDENTITY)
        assert_equal(found, snapshot(10, velocity=True))
        (problem,) = problems
        assert problem.startswith(f"the checkpoint {str(tmp_path / '00000020')!r} was skipped: ")
        assert ("manifest" if kind == "json" else "its arrays are damaged") in problem
    path.write_bytes(content)
    assert_equal(load_newest(tmp_path, IDENTITY)[0], snapshot(20, velocity=True))


def test_a_flipped_bit_anywhere_in_a_manifest_is_found(tmp_path):
    """Even where the text means the same afterwards: `1E-05` is `1e-05`."""
    put(tmp_path, 20)
    path = tmp_path / "00000020.json"
    content = path.read_bytes()
    assert b"e-" in content
    for location, bit in itertools.product(range(len(content)), (1, 32)):
        changed = bytearray(content)
        changed[location] ^= bit
        path.write_bytes(changed)
        assert load_newest(tmp_path, IDENTITY)[0] is None, bytes(changed)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"3", b"{}", b'{"step": 20}', b"[" * 400])
def test_a_manifest_that_is_something_else_is_passed_over(tmp_path, content):
    put(tmp_path, 10, 20)
    (tmp_path / "00000020.json").write_bytes(content)
    found, problems = load_newest(tmp_path, IDENTITY)
    assert found.step == 10
    assert "its manifest is damaged" in problems[0]


@pytest.mark.parametrize(("kind", "words"), [("json", "it has no manifest"), ("npz", "its arrays are missing")])
def test_half_a_checkpoint_is_passed_over(tmp_path, kind, words):
    put(tmp_path, 10, 20)
    (tmp_path / f"00000020.{kind}").unlink()
    found, problems = load_newest(tmp_path, IDENTITY)
    assert_equal(found, snapshot(10))
    assert words in problems[0]
    put(tmp_path, 30)
    assert load_newest(tmp_path, IDENTITY)[1] == []


@pytest.mark.parametrize("key", IDENTITY)
def test_a_checkpoint_of_another_run_is_passed_over(tmp_path, key):
    put(tmp_path, 10)
    save(tmp_path, snapshot(20), IDENTITY | {key: "other"}, keep=3)
    found, problems = load_newest(tmp_path, IDENTITY)
    assert found.step == 10
    assert "another run" in problems[0]


def test_what_older_versions_wrote_of_the_configuration_is_of_no_account(tmp_path):
    """It was a digest of all keys, which any new key would change."""
    save(tmp_path, snapshot(20), IDENTITY | {"config_digest": "of other keys"}, keep=3)
    found, problems = load_newest(tmp_path, IDENTITY)
    assert_equal(found, snapshot(20))
    assert problems == []


def test_the_arrays_of_another_checkpoint_are_passed_over(tmp_path):
    put(tmp_path, 10, 20, 30)
    shutil.copy(tmp_path / "00000020.npz", tmp_path / "00000030.npz")
    found, problems = load_newest(tmp_path, IDENTITY)
    assert found.step == 20
    assert "arrays are damaged" in problems[0]


CRASHING = """
import os, sys
from pathlib import Path
import numpy as np
from distsgd.rundir import checkpoint
from distsgd.system import files
from distsgd.engine.snapshot import Snapshot

left = 0
identity = {"run_key": "r", "data_digest": "d"}

def dying(real):
    def call(*arguments, **options):
        global left
        if left == 0:
            os._exit(9)
        left -= 1
        return real(*arguments, **options)
    return call

class DyingFile:
    def __init__(self, *arguments):
        self.file = open(*arguments)
    def __enter__(self):
        return self
    def __exit__(self, *error):
        self.file.close()
    def __getattr__(self, name):
        return getattr(self.file, name)
    def write(self, content):
        global left
        if left == 0:
            self.file.write(content[: len(content) // 2])
            self.file.flush()
            os._exit(9)
        left -= 1
        return self.file.write(content)

def crash(folder, moment):
    global left
    left = moment
    for name in ("fsync", "replace"):
        setattr(os, name, dying(getattr(os, name)))
    Path.unlink = dying(Path.unlink)
    files.open = dying(DyingFile)
    weights = np.random.default_rng(50).normal(size=50).astype(np.float32)
    checkpoint.save(folder, Snapshot(step=50, parameters=weights), identity, keep=3)
    os._exit(0)

for moment, folder in enumerate(sys.argv[1:]):
    pid = os.fork()
    if pid == 0:
        crash(Path(folder), moment)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.timeout(110)
def test_a_crash_at_any_moment_of_writing_leaves_a_whole_checkpoint(tmp_path):
    """The process dies for real: before each of the calls that write, flush, rename or remove, and within a write."""
    folders = [tmp_path / str(moment) for moment in range(14)]
    for folder in folders:
        put(folder, 10, 20, 30)
    command = [sys.executable, "-c", CRASHING, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    codes = [int(line) for line in done.stdout.split()]
    assert codes == [9] * 12 + [0] * 2, done.stderr
    endings = []
    for folder in folders:
        found, problems = load_newest(folder, IDENTITY)
        assert found is not None
        assert found.parameters.tobytes() == snapshot(found.step).parameters.tobytes()
        assert len(problems) <= 1
        endings.append(found.step)
        put(folder, 60)
        assert names(folder) == files_of(*([30, 50, 60] if found.step == 50 else [20, 30, 60]))
    assert endings == [30] * 9 + [50] * 5  # the ninth call to live through is the manifest's rename


@contextlib.contextmanager
def small_disk(folder: Path, size: str):
    """A file system of a given size, mounted for real; skips where that is not permitted."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="there is no mount command")
@pytest.mark.parametrize("room", [0, 4096, 12_288])
def test_a_full_disk_leaves_the_older_checkpoint_and_no_rubbish(tmp_path, room):
    """The disk is full before the arrays, within them, or between arrays and manifest."""
    with small_disk(tmp_path / "disk", "256k") as disk:
        folder = disk / "checkpoints"
        put(folder, 10, size=2500)
        filler = disk / "filler"
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(bytes(1024))
        os.truncate(filler, max(filler.stat().st_size - room, 0))
        with pytest.raises(CheckpointError) as caught:
            put(folder, 20, size=2500)
        message = str(caught.value)
        assert "step 20" in message
        assert "No space left on device" in message
        assert repr(str(folder)) in message
        assert "make room" in message
        assert caught.value.exit_code == 1
        assert names(folder) == files_of(10)
        found, problems = load_newest(folder, IDENTITY)
        assert_equal(found, snapshot(10, size=2500))
        assert problems == []
        filler.unlink()
        put(folder, 20, size=2500)
        assert load_newest(folder, IDENTITY)[0].step == 20


def test_the_content_is_on_disk_before_its_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    calls = []

    def noting(name):
        real = getattr(os, name)

        def call(target, *rest):
            calls.append((name, os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else str(target)))
            return real(target, *rest)

        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(files.os, name, noting(name))
    put(tmp_path / "c", 10)
    folder = str(tmp_path / "c")
    arrays, manifest = f"{folder}/.00000010.npz.tmp", f"{folder}/.00000010.json.tmp"
    assert calls == [
        ("fsync", str(tmp_path)),
        *(("fsync", arrays), ("replace", arrays), ("fsync", folder)),
        *(("fsync", manifest), ("replace", manifest), ("fsync", folder)),
    ]


def test_a_folder_that_cannot_be_made_is_an_error_that_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"step 10 could not be written .*Not a directory"):
        put(tmp_path / "file" / "c", 10)


@pytest.fixture
def writer(tmp_path):
    writer = Writer(tmp_path / "c", IDENTITY, keep=3)
    yield writer
    writer.close()


def test_a_writer_has_written_when_flush_returns(tmp_path, writer):
    writer.submit(snapshot(10))
    writer.flush()
    assert_equal(load_newest(tmp_path / "c", IDENTITY)[0], snapshot(10))


def test_a_writer_writes_what_is_pending_when_it_is_closed(tmp_path):
    writer = Writer(tmp_path / "c", IDENTITY, keep=3)
    writer.submit(snapshot(10))
    writer.close()
    assert names(tmp_path / "c") == files_of(10)
    assert "checkpoints" not in {thread.name for thread in threading.enumerate()}


def test_the_error_of_an_earlier_write_is_raised_by_the_next_submit(tmp_path):
    (tmp_path / "file").write_text("")
    writer = Writer(tmp_path / "file" / "c", IDENTITY, keep=3)
    writer.submit(snapshot(10))
    assert eventually(lambda: writer._error is not None, 10)
    with pytest.raises(CheckpointError, match="step 10 could not be written"):
        writer.submit(snapshot(20))
    writer.close()


def test_a_slow_disk_drops_what_is_in_between_and_never_the_newest(tmp_path, writer, monkeypatch):
    goes_on, writing = threading.Event(), threading.Event()

    def slow(*arguments, **options):
        writing.set()
        assert goes_on.wait(60)
        save(*arguments, **options)

    monkeypatch.setattr(checkpoint_writer, "save", slow)
    writer.submit(snapshot(10))
    assert writing.wait(60)
    for step in (20, 30, 40):
        writer.submit(snapshot(step))  # and does not wait
    goes_on.set()
    writer.flush()
    assert names(tmp_path / "c") == files_of(10, 40)


@pytest.mark.parametrize("error", [CheckpointError("the disk is full"), MemoryError("no memory")])
def test_an_error_of_the_writer_is_raised_once_where_it_can_be_seen(tmp_path, writer, monkeypatch, error):
    """And flush does not wait for ever, whatever kind of error it is."""

    def fails(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_writer, "save", fails)
        writer.submit(snapshot(10))
        with pytest.raises(type(error), match=str(error)):
            writer.flush()
    writer.check()
    writer.submit(snapshot(20))
    writer.flush()
    assert names(tmp_path / "c") == files_of(20)


def test_a_manifest_is_json_that_names_step_and_run(tmp_path):
    put(tmp_path, 10)
    manifest = json.loads((tmp_path / "00000010.json").read_text())
    assert manifest["step"] == 10
    assert manifest["identity"] == IDENTITY
    assert manifest["bytes"] == (tmp_path / "00000010.npz").stat().st_size


def rewritten(folder: Path, number: int, /, *, arrays: bytes | None = None, **changed) -> None:
    """Change a checkpoint, and make all its digests right again, as somebody would who means harm."""
    path = folder / f"{number:08d}.json"
    manifest = json.loads(path.read_text()) | changed
    if arrays is not None:
        path.with_suffix(".npz").write_bytes(arrays)
        manifest |= {"bytes": len(arrays), "sha256": hashlib.sha256(arrays).hexdigest()}
    manifest["manifest_sha256"] = checkpoint._manifest_digest(manifest)
    path.write_bytes(checkpoint._encode(manifest))


@pytest.mark.parametrize(
    "changed",
    [
        {"step": "20"},
        {"step": -20},
        {"step": 21},
        {"step": True},
        {"step": 20.0},
        {"step": None},
        {"skipped": None},
        {"skipped": -1},
        {"skipped": 21},
        {"last_record": []},
        {"last_record": None},
        {"epoch_loss": 0.5},
        {"epoch_loss": [0.5]},
        {"epoch_loss": [0.5, 64]},
        {"epoch_loss": [0.5, float("nan")]},
        {"epoch_loss": ["0.5", 64.0]},
        {"identity": None},
        {"identity": "r"},
        {"bytes": None},
        {"sha256": 7},
    ],
    ids=str,
)
def test_a_manifest_whose_digest_is_right_and_whose_content_is_not_is_passed_over(tmp_path, changed):
    put(tmp_path, 10, 20)
    rewritten(tmp_path, 20, **changed)
    found, (problem,) = load_newest(tmp_path, IDENTITY)
    assert_equal(found, snapshot(10))
    assert "00000020" in problem


def test_losses_of_the_epoch_that_are_not_known_stay_unknown(tmp_path):
    """As in the checkpoints of version 0.1.0, which do not have them."""
    save(tmp_path, dataclasses.replace(snapshot(10), epoch_loss=UNKNOWN), IDENTITY, keep=3)
    found, _ = load_newest(tmp_path, IDENTITY)
    assert found.epoch_loss is UNKNOWN
    assert found.epoch_loss.mean is None
    assert found.epoch_loss.plus(1.0, 2.0).mean is None


def archive(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


ZEROS = np.zeros(50, np.float32)

WRONG_ARRAYS = {
    "none": archive(),
    "no archive": b"text",
    "no parameters": archive(velocity=ZEROS),
    "not a number": archive(parameters=ZEROS * np.nan),
    "float64": archive(parameters=ZEROS.astype("f8")),
    "text": archive(parameters=np.array(["a"] * 50)),
    "two dimensions": archive(parameters=ZEROS.reshape(5, 10)),
    "a shorter velocity": archive(parameters=ZEROS, velocity=ZEROS[:49]),
    "objects": archive(parameters=np.array([None] * 50, object)),
    "a header that lies": archive(parameters=ZEROS).replace(b"'shape': (50,), ", b"'shape': (9**9)"),
    "a larger shape": archive(parameters=ZEROS).replace(b"(50,), }   ", b"(50000,), }"),
}


@pytest.mark.parametrize("kind", WRONG_ARRAYS)
def test_arrays_that_no_run_writes_are_passed_over(tmp_path, kind):
    put(tmp_path, 10, 20)
    rewritten(tmp_path, 20, arrays=WRONG_ARRAYS[kind])
    found, (problem,) = load_newest(tmp_path, IDENTITY)
    assert_equal(found, snapshot(10))
    assert "00000020" in problem


def test_brackets_without_end_are_a_damaged_manifest(tmp_path):
    put(tmp_path, 10, 20)
    (tmp_path / "00000020.json").write_bytes(b"[" * 200_000)
    assert load_newest(tmp_path, IDENTITY)[0].step == 10


OLD_RUN = Path(__file__).parent.parent / "data_files" / "run_of_0_1_0"


def test_a_checkpoint_of_version_0_1_0_is_loaded():
    """It was written when the velocity was not yet a slot by that name."""
    identity = json.loads((OLD_RUN / "checkpoints" / "00000012.json").read_text())["identity"]
    found, problems = load_newest(OLD_RUN / "checkpoints", identity)
    assert problems == []
    assert found.step == 12
    assert found.parameters.shape == (3 * 2 + 2 + 2 * 2 + 2,)
    assert set(found.slots) == {"velocity"}
    assert found.slots["velocity"].any()


def test_a_run_of_version_0_1_0_is_resumed_and_comes_to_where_that_version_came(own_folder):
    shutil.copytree(OLD_RUN, own_folder / "run")
    shutil.copy(OLD_RUN.with_name("run_of_0_1_0_rows.npz"), own_folder / "rows.npz")
    notes: list[str] = []

    class Noting(Observer):
        def note(self, text: str) -> None:
            notes.append(text)

    result = distsgd.train({"run.dir": "run"}, resume=True, observer=Noting())
    assert notes == ["features (3): X", "resuming 'run' after step 12 of 40"]
    assert (result.status, result.steps) == ("FINISHED", 40)
    expected = Classifier.load(OLD_RUN.with_name("model_of_0_1_0.npz"))
    np.testing.assert_allclose(result.model.flat, expected.flat, rtol=1e-4, atol=1e-5)
