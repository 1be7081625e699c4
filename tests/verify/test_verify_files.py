"""What the files of a run hold beside the numbers that training comes to, and files that were taken away or added."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from proven import copied, stopped, train, verified

from distsgd.rundir import checkpoint, directory, seal
from distsgd.rundir.classifier import Classifier
from distsgd.tracking.sync import sync

EARLY = {"train__early_stopping": 1, "optim__lr": 3.0, "optim__momentum": 0.9}
"""A run that is at its best after the first epoch, and ends after the second."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(folder)
    return folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return copied(trained, tmp_path / "copy")


def without_last_line(run: Path, name: str = "proof.jsonl") -> None:
    lines = (run / name).read_text().splitlines(keepends=True)
    (run / name).write_text("".join(lines[:-1]))


def edit_result(run: Path, old: str, new: str) -> None:
    text = (run / "result.json").read_text()
    assert old in text
    (run / "result.json").write_text(text.replace(old, new, 1))


def other_weights(run: Path) -> None:
    model = Classifier.load(run / "model.npz")
    model.flat.flags.writeable = True
    model.flat[3] += 1
    model.save(run / "model.npz")


def rewritten_manifest(run: Path, name: str, **changes: object) -> None:
    """Change the manifest of a checkpoint, and its digest to match."""
    path = run / "checkpoints" / name
    manifest = json.loads(path.read_text()) | changes
    manifest["manifest_sha256"] = checkpoint._manifest_digest(manifest)
    path.write_bytes(checkpoint._encode(manifest))


def extra_array(run: Path) -> None:
    with np.load(run / "model.npz") as arrays:
        content = dict(arrays)
    np.savez(run / "model.npz", W3=np.ones(3), **content)


def copied_checkpoint(run: Path) -> None:
    """A copy of another name, which would hide what is done to the one that it was copied from."""
    for suffix in (".json", ".npz"):
        shutil.copy(run / f"checkpoints/00000032{suffix}", run / f"checkpoints/32{suffix}")


def without_seal(run: Path) -> None:
    """As configurations of version 0.1.0, which had no proof either."""
    content = json.loads((run / "config.json").read_text())
    del content["distsgd"][seal.KEY]
    (run / "config.json").write_text(directory.json_text(content))


def link_to_itself(run: Path) -> None:
    (run / "result.json").unlink()
    (run / "result.json").symlink_to("result.json")


def append(name: str, text: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        with (run / name).open("a") as file:
            file.write(text)

    return change


CHANGES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "a last line of the journal that is not whole": (
        append("metrics.jsonl", '{"step": 41'),
        "journal",
        "line 18 of metrics.jsonl is damaged",
    ),
    "the last line of the proof": (without_last_line, "proof", "it ends with step 32, and the run has 40 steps"),
    "a time": (
        lambda run: edit_result(run, '"wall_s": ', '"wall_s": 1'),
        "result",
        "result.json is not as it was written",
    ),
    "why the run ended": (
        lambda run: edit_result(run, '"ended": null', '"ended": "mine"'),
        "result",
        "result.json is not as it was written",
    ),
    "a figure twice": (
        lambda run: edit_result(run, '"val/accuracy"', '"val/accuracy": 1.0,\n  "val/accuracy"'),
        "result",
        "result.json is not as it was written",
    ),
    "the status": (
        lambda run: edit_result(run, "FINISHED", "KILLED"),
        "result",
        "result.json is not as it was written",
    ),
    "a result that is a link to itself": (link_to_itself, "result", "cannot be read as the result of a run"),
    "the confusion matrix": (append("confusion_matrix.csv", "\n"), "files", "confusion_matrix.csv is not as it was"),
    "a lost table": (lambda run: (run / "per_class.csv").unlink(), "files", "per_class.csv is missing"),
    "what MLflow is told": (append("tracking.json", " "), "files", "tracking.json is not as it was written"),
    "an array more in the model": (extra_array, "model", "model.npz is not as it was written"),
    "bytes after the model": (append("model.npz", "mine"), "model", "model.npz is not as it was written"),
    "a copy of a checkpoint": (copied_checkpoint, "checkpoint", "should have the name 00000032"),
    "a configuration without a seal": (without_seal, "configuration", "config.json is not as it was written"),
}


@pytest.mark.parametrize(("change", "kind", "words"), CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("segments", [None, 0])
def test_what_no_training_comes_to_is_protected_too(run, change, kind, words, segments):
    change(run)
    report = verified(run, segments=segments)
    assert list(report.differences) == [kind], report.lines()
    assert words in report.differences[kind][0]


def test_a_changed_record_of_a_checkpoint_is_named(run):
    rewritten_manifest(run, "00000032.json", last_record={"step": 32, "epoch": 4.0, "train/loss": 0.5})
    texts = verified(run).differences["checkpoint"]
    assert any(text.startswith("checkpoints/00000032: train/loss of its record is 0.5, and training") for text in texts)


def test_a_best_checkpoint_that_was_never_the_best_is_named(run):
    (run / "best").mkdir()
    for suffix in (".json", ".npz"):
        shutil.copy(run / f"checkpoints/00000032{suffix}", run / f"best/00000032{suffix}")
    words = ["best/00000032 is a state that was never the best one"]
    assert verified(run).differences == {"checkpoint": words}


@pytest.mark.parametrize("status", [None, "KILLED"])
def test_the_model_of_a_run_that_is_said_not_to_have_finished_is_compared(run, status):
    """Somebody removes the result, or makes it look as if the run had been stopped."""
    content = json.loads((run / "result.json").read_text()) | {"status": status, "files": {}}
    del content[seal.KEY]
    (run / "result.json").write_text(directory.json_text(seal.sealed(content)))
    if status is None:
        (run / "result.json").unlink()
    report = verified(run)
    assert report.is_verified, report.lines()
    assert any("the run has not finished" in note for note in report.notes)
    assert any("compared without --segments" in note for note in verified(run, segments=1).notes)
    other_weights(run)
    (words,) = verified(run).differences["model"]
    assert words.startswith("the weights of model.npz are not those of any state in the run")


def test_the_folder_of_checkpoints_has_to_be_one(run):
    from distsgd.errors import RunDirectoryError

    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").write_text("mine")
    with pytest.raises(RunDirectoryError, match="Not a directory"):
        verified(run)


@pytest.mark.slow
def test_a_result_that_names_its_mlflow_run_later_stays_sealed(tmp_path):
    run = train(tmp_path, tracking__enabled=True, tracking__uri=f"sqlite:///{tmp_path}/a.db")
    first = json.loads((run / "result.json").read_text())["mlflow_run_id"]
    sync(run, f"sqlite:///{tmp_path}/b.db")
    assert json.loads((run / "result.json").read_text())["mlflow_run_id"] != first
    report = verified(run)
    assert report.is_verified, report.lines()
    edit_result(run, '"wall_s": ', '"wall_s": 1')
    sync(run, f"sqlite:///{tmp_path}/c.db")
    assert verified(run).differences == {"result": ["result.json is not as it was written"]}


# What is clean


def test_a_run_without_its_best_checkpoint_is_verified_by_its_files(tmp_path):
    run = train(tmp_path, **EARLY)
    assert verified(run).is_verified
    shutil.rmtree(run / "best")
    for segments in (None, 0, 1):
        report = verified(run, segments=segments)
        assert report.is_verified, report.lines()


@pytest.mark.parametrize("end", [9, 10, 11, 12, 13])
def test_a_run_with_early_stopping_that_is_made_longer_is_verified(tmp_path, end):
    """The validation at its first end, within an epoch, is not one that early stopping goes by."""
    run = train(tmp_path, **EARLY, train__max_steps=end)
    assert verified(run).is_verified
    train(tmp_path, resume=True, **EARLY, train__max_steps=1000)
    report = verified(run)
    assert report.is_verified, report.lines()


@pytest.mark.parametrize("step", [3, 21])
def test_a_longer_run_that_is_stopped_still_has_the_model_of_the_shorter_one(tmp_path, monkeypatch, step):
    run = train(tmp_path, train__epochs=1)
    if step > 8:
        stopped(tmp_path, monkeypatch, step, resume=True)
    else:
        os.remove(run / "result.json")
    report = verified(run)
    assert report.is_verified, report.lines()
