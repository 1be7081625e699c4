"""Resuming: what a run resumes from, what is refused, and messages about incomplete run directories."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
from runs import QUICK, invoke, journal, options, result, timeless

from distsgd.engine.local import LocalTrainer
from distsgd.rundir.checkpoint import load_newest
from distsgd.rundir.result import Result

KEPT = Path(__file__).resolve().parent.parent / "data_files" / "stopped_run_of_0_1_0"
"""A run of the version before checkpoints were apart from configurations; SIGTERM stopped it after step 46 of 138."""

KEPT_KEYS = {"model.hidden": 4, "train.epochs": 6, "optim.momentum": 0.9, "optim.lr": 0.05, "tracking.enabled": "false"}

STOPPED = 46


@pytest.fixture
def kept(own_folder) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(KEPT, own_folder / "kept"))


def resume(path: Path, *arguments: str):
    return invoke("train", "--resume", "--run-dir", str(path), *arguments)


def undisturbed() -> Path:
    assert invoke("train", "--workers=0", "--run-dir=undisturbed", *options(KEPT_KEYS)).code == 0
    return Path("undisturbed")


def test_a_run_of_the_version_before_goes_on_to_the_bits_of_an_undisturbed_one(kept):
    before = result(kept)
    found = resume(kept)
    assert found.code == 0, found.err
    assert f"resuming {str(kept)!r} after step {STOPPED} of 138" in found.err
    assert "warning" not in found.err
    whole = undisturbed()
    if before["numerics"] == result(whole)["numerics"]:
        assert result(kept)["weights_sha256"] == result(whole)["weights_sha256"]
        expected = timeless(whole)
        for line in expected:
            if line["step"] <= STOPPED:  # that version did not journal them
                for key in ("train/epoch_loss", "val/macro_f1", "val/roc_auc"):
                    line.pop(key, None)
        assert timeless(kept) == expected
        assert result(kept)["train/loss"] == result(whole)["train/loss"]
    else:  # another processor than the one that the first steps were computed on
        assert result(kept)["steps"] == result(whole)["steps"] == 138
        assert result(kept)["train/loss"] == pytest.approx(result(whole)["train/loss"], rel=1e-3)


def test_keys_that_a_run_does_not_know_take_their_defaults(kept):
    """As they do when a later version has keys that this one has not."""
    path = kept / "config.json"
    content = json.loads(path.read_text())
    for key in ("optim.final_lr", "train.eval_every", "data.classes"):
        del content["distsgd"]["requested"][key]
    content["distsgd"]["config_digest"] = "of fewer keys"
    path.write_text(json.dumps(content))
    found = resume(kept, *options({"train.eval_every": 1}))
    assert found.code == 0, found.err
    assert f"after step {STOPPED} of 138" in found.err
    refused = resume(Path(shutil.copytree(KEPT, "other")), *options({"train.eval_every": 2}))
    assert refused.code == 2
    assert "train.eval_every was 1 and is 2" in refused.err


def test_checkpoints_of_which_none_is_valid_are_refused_and_not_begun_anew(kept):
    for path in (kept / "checkpoints").glob("*.npz"):
        path.write_bytes(b"")
    found = resume(kept)
    assert found.code == 2
    lines = found.err.splitlines()
    assert [line for line in lines if "its arrays are damaged" in line] == lines[:2]
    assert lines[2].startswith(f"distsgd: none of the checkpoints in {str(kept / 'checkpoints')!r} is valid")
    assert "remove that folder to start again at step 0" in lines[2]
    shutil.rmtree(kept / "checkpoints")
    found = resume(kept)
    assert found.code == 0, found.err
    assert f"the run in {str(kept)!r} has no checkpoint yet, and begins again at step 0" in found.err


def test_a_first_checkpoint_that_was_being_written_counts_as_none(kept):
    for path in (kept / "checkpoints").iterdir():
        if path.name != "00000023.npz":
            path.unlink()
    found = resume(kept)
    assert found.code == 0, found.err
    assert f"the run in {str(kept)!r} has no checkpoint yet, and begins again at step 0" in found.err


@pytest.mark.parametrize(
    ("left", "lines", "steps"),
    [
        (lambda content: b"", "5 lines", "10, 20, 23, 30, 40"),  # 46 is an epoch's end, whose validation is done again
        (lambda content: b"\n".join(content.split(b"\n")[:4])[:-30], "2 lines", "30, 40"),
        (lambda content: b"\n".join(content.split(b"\n")[:1] + content.split(b"\n")[2:]), "1 line", "20"),
    ],
    ids=["emptied", "cut", "without its second line"],
)
def test_a_hole_in_the_journal_below_the_checkpoint_is_told(kept, left, lines, steps):
    path = kept / "metrics.jsonl"
    path.write_bytes(left(path.read_bytes()))
    found = resume(kept)
    assert found.code == 0, found.err
    (warning,) = result(kept)["warnings"]
    assert f"warning: {warning}" in found.err
    assert f"the journal {str(path)!r} lacks {lines} up to step {STOPPED}, from which the run continues" in warning
    assert f"steps {steps}. They were lost" in warning
    assert [record["step"] for record in journal(kept)][-1] == 138


@pytest.mark.parametrize("step", [1, 7, 22, 23, 30, 45])
def test_a_whole_journal_is_no_cause_for_a_warning_wherever_a_run_was_stopped(own_folder, monkeypatch, step):
    run = LocalTrainer.run

    def run_until_the_stop(self, until, tick):
        reached = run(self, min(until, step), tick)
        if reached == step:
            signal.raise_signal(signal.SIGTERM)
        return reached

    with monkeypatch.context() as patch:
        patch.setattr(LocalTrainer, "run", run_until_the_stop)
        keys = QUICK | {"train.log_every": 7, "train.eval_every": 2, "train.max_steps": 46}
        stopped = invoke("train", "--workers=0", "--run-dir=run", *options(keys))
    assert f"stopped by SIGTERM after step {step} of 46" in stopped.err
    found = resume(Path("run"))
    assert found.code == 0, found.err
    assert result(Path("run"))["warnings"] == []


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.write_bytes(b'{"step": 10, "x": 1' + b"0" * 400 + b"}\n"), "line 1 of the journal"),
        (lambda path: path.write_bytes(b'{"step": 10, "x": 1' + b"0" * 5000 + b"}\n"), "line 1 of the journal"),
        (lambda path: path.write_bytes(b"[" * 100_000 + b"\n"), "line 1 of the journal"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read: Is a directory"),
    ],
    ids=["401 digits", "5,001 digits", "brackets", "folder"],
)
def test_what_is_no_journal_is_refused(kept, spoil, words):
    spoil(kept / "metrics.jsonl")
    found = resume(kept)
    assert found.code == 2
    assert words in found.err
    assert "Traceback" not in found.err


def test_a_finished_run_is_left_as_it_is(kept):
    assert resume(kept).code == 0
    (kept / ".result.json.tmp").write_text('{"status": ')  # the driver was killed while it wrote the result again
    again = resume(kept)
    assert again.code == 0
    assert again.err == f"the run in {str(kept)!r} has finished; nothing is left to do\n"
    assert not list(kept.glob(".*.tmp"))


def test_a_resumed_run_writes_checkpoints_that_older_ones_can_stand_beside(kept):
    assert resume(kept, *options({"checkpoint.keep": 10})).code == 0
    about = json.loads((kept / "config.json").read_text())["distsgd"]
    newest, problems = load_newest(kept / "checkpoints", {key: about[key] for key in ("run_key", "data_digest")})
    assert (newest.step, problems) == (138, [])
    assert {path.stem for path in (kept / "checkpoints").glob("*.json")} >= {"00000023", "00000046", "00000138"}


def test_a_model_is_found_after_a_change_of_the_working_directory(kept, monkeypatch):
    assert resume(Path("kept")).code == 0
    found = Result.read(Path("kept"))
    monkeypatch.chdir("/")
    assert found.run_dir == kept
    assert found.model.net.hidden == 4
