"""`distsgd verify`: what is changed is found and named, and what is not is verified."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from proven import KEYS, ROWS, copied, flip, stopped, train, verified, write_rows
from runs import invoke, timeless

import distsgd
from distsgd.data import blocks
from distsgd.errors import NonFiniteError, RunDirectoryError
from distsgd.rundir import checkpoint, lock, proof, seal
from distsgd.rundir import directory as rundir

STEPS, STATES = 40, 5


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with rows and a finished run."""
    folder = tmp_path_factory.mktemp("trained")
    train(folder)
    return folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of the run, to be changed."""
    return copied(trained, tmp_path / "copy")


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "proof.jsonl").read_text().splitlines()]


def deterministic(run: Path) -> list[dict]:
    """Return the proof without what depends on the clock."""
    return [{k: v for k, v in line.items() if k not in ("journal", "lines", "sha256")} for line in lines(run)]


def test_a_whole_run_is_verified(trained):
    report = verified(trained / "run")
    assert report.is_verified, report.lines()
    assert report.tolerated is None
    text = "\n".join(report.lines())
    assert f"all {STEPS} steps from the start" in text
    assert f"{STATES + 1} recorded states, 3 checkpoints" in text
    assert lines(trained / "run")[-1]["chain"] in text


def test_the_proof_has_a_line_for_the_start_and_one_for_each_validated_step(trained):
    found = lines(trained / "run")
    assert [line["step"] for line in found] == [0, 8, 16, 24, 32, 40]
    assert found[0]["data"] == json.loads((trained / "run" / "config.json").read_text())["distsgd"]["data_digest"]
    before = found[0]["chain"]
    for line in found[1:]:
        chained = {key: line[key] for key in ("step", "state", "records")}
        text = json.dumps([before, chained], sort_keys=True)
        assert line["chain"] == hashlib.sha256(text.encode()).hexdigest()
        before = line["chain"]


@pytest.mark.parametrize("step", [3, 8, 12, 16])
def test_the_proof_of_a_resumed_run_is_that_of_an_undisturbed_one(trained, tmp_path, monkeypatch, step):
    shutil.copy(trained / "rows.parquet", tmp_path)
    run = stopped(tmp_path, monkeypatch, step)
    partly = verified(run)
    assert partly.is_verified, partly.lines()
    assert f"the run has not finished; it was verified up to step {step}" in "\n".join(partly.lines())
    train(tmp_path, resume=True)
    assert deterministic(run) == deterministic(trained / "run")
    assert timeless(run) == timeless(trained / "run")
    assert verified(run).is_verified


def test_a_proof_that_a_kill_has_cut_short_goes_on(trained, tmp_path, monkeypatch):
    shutil.copy(trained / "rows.parquet", tmp_path)
    run = stopped(tmp_path, monkeypatch, 21)
    path = run / "proof.jsonl"
    content = path.read_bytes()
    path.write_bytes(content + content.splitlines()[-1][:100])  # of a line that was being written
    train(tmp_path, resume=True)
    assert deterministic(run) == deterministic(trained / "run")


def test_the_line_of_a_checkpoint_is_written_on_resuming_if_a_kill_came_before(trained, tmp_path, monkeypatch):
    shutil.copy(trained / "rows.parquet", tmp_path)
    run = stopped(tmp_path, monkeypatch, 21)
    for path in (run / "checkpoints").glob("00000021.*"):
        path.unlink()
    path = run / "proof.jsonl"
    assert lines(run)[-1]["step"] == 16
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    train(tmp_path, resume=True)
    assert deterministic(run) == deterministic(trained / "run")


def test_a_damaged_proof_is_not_continued_and_the_run_says_so(trained, tmp_path, monkeypatch):
    shutil.copy(trained / "rows.parquet", tmp_path)
    run = stopped(tmp_path, monkeypatch, 21)
    flip(run / "proof.jsonl", 8 * 300)
    train(tmp_path, resume=True)
    (warning,) = json.loads((run / "result.json").read_text())["warnings"]
    assert "line 1 of proof.jsonl is not as it was written, so the proof is not continued" in warning
    report = verified(run)
    assert list(report.differences) == ["proof"]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads_verifies(trained, threads):
    report = verified(trained / "run", overrides={"run.threads": threads})
    assert report.is_verified, report.lines()


def test_a_run_that_is_made_longer_is_verified(trained, tmp_path):
    shutil.copy(trained / "rows.parquet", tmp_path)
    run = train(tmp_path, train__max_steps=20)
    train(tmp_path, resume=True, train__max_steps=36)
    assert [line["step"] for line in lines(run)] == [0, 8, 16, 20, 24, 32, 36]
    report = verified(run)
    assert report.is_verified, report.lines()


@pytest.mark.parametrize(
    "keys",
    [
        {"train.early_stopping": 1, "train.min_gain": 0.05, "train.epochs": 12},
        {"train.early_stopping": 2, "train.stopping_metric": "macro_f1", "train.epochs": 12},
        {"optim.rule": "adam", "optim.momentum": 0, "optim.lr": 0.01, "train.eval_every": 2},
        {"train.max_steps": 0},
        {"model.hidden": 0, "data.val_fraction": 0, "train.sampling": "replacement"},
        {
            "optim.clip_norm": 0.5,
            "train.class_weight": "balanced",
            "data.normalize": "none",
            "optim.schedule": "cosine",
        },
    ],
    ids=["early stopping", "macro F1", "Adam", "no step", "no hidden layer", "clipping"],
)
def test_other_configurations_are_verified(trained, tmp_path, keys):
    shutil.copy(trained / "rows.parquet", tmp_path)
    run = train(tmp_path, **{key.replace(".", "__"): value for key, value in keys.items()})
    report = verified(run)
    assert report.is_verified, report.lines()
    assert any(re.search(r"\bstates?\b", text) for text in report.compared)


def test_a_run_that_has_failed_is_verified_as_far_as_it_came(trained, tmp_path):
    shutil.copy(trained / "rows.parquet", tmp_path)
    with pytest.raises(NonFiniteError):
        train(tmp_path, optim__lr=1e30)
    report = verified(tmp_path / "run")
    assert report.is_verified, report.lines()
    assert "the run has not finished" in report.notes[-1]


def test_segments_start_at_checkpoints(trained):
    for count, trained_again in ((1, "1 of 3 segments"), (2, "2 of 3 segments"), (9, "3 of 3 segments")):
        report = verified(trained / "run", segments=count)
        assert report.is_verified, report.lines()
        assert trained_again in report.compared
    assert "files and rows only; nothing was trained again" in verified(trained / "run", segments=0).compared


# Changes


def rewrite_checkpoint(run: Path, step: int, change) -> None:
    """Change a checkpoint so that it is whole, as somebody would who knows how they are made."""
    directory, _, digest = rundir.read(run)
    identity = rundir.identity(directory, digest)
    snapshots, problems = checkpoint.load_all(directory.checkpoints, identity)
    assert not problems
    parameters = snapshots[step].parameters.copy()
    change(parameters)
    object.__setattr__(snapshots[step], "parameters", parameters)
    shutil.rmtree(directory.checkpoints)
    for snapshot in snapshots.values():
        checkpoint.save(directory.checkpoints, snapshot, identity, keep=9)


def one_bit(parameters: np.ndarray) -> None:
    parameters.view(np.uint32)[11] ^= 1


def test_a_changed_weight_of_a_checkpoint_is_named(run):
    rewrite_checkpoint(run, 32, one_bit)
    report = verified(run)
    assert list(report.differences) == ["checkpoint"]
    whole, value = report.differences["checkpoint"]
    assert whole == "checkpoints/00000032 is whole, but not the state in proof.jsonl"
    assert value.startswith("checkpoints/00000032: W1[1, 3] is ")
    assert value.endswith("1 of 83 differ")


def test_a_forged_proof_is_found_by_training_again(run):
    """Somebody changes a checkpoint, and the proof with it, line by line to its end."""
    rewrite_checkpoint(run, 32, one_bit)
    directory, _, digest = rundir.read(run)
    snapshots, _ = checkpoint.load_all(directory.checkpoints, rundir.identity(directory, digest))
    found = lines(run)
    for number, line in enumerate(found[1:], start=1):
        if line["step"] == 32:
            line["state"] = proof.state_digest(snapshots[32])
        chained = {key: line[key] for key in ("step", "state", "records")}
        line["chain"] = seal.digest([found[number - 1]["chain"], chained])
        found[number] = seal.sealed({key: value for key, value in line.items() if key != "sha256"})
    (run / "proof.jsonl").write_bytes(b"".join(map(proof.encoded, found)))
    assert verified(run, segments=0).is_verified
    report = verified(run)
    assert set(report.differences) == {"state", "checkpoint"}
    assert report.differences["state"] == ["that after step 32 is not the one in proof.jsonl"]


def test_a_changed_weight_of_the_model_is_named(run):
    with np.load(run / "model.npz") as arrays:
        content = dict(arrays)
    content["W2"] = content["W2"].copy()
    content["W2"][2, 1] += 1
    np.savez(run / "model.npz", **content)
    report = verified(run)
    assert list(report.differences) == ["model"]
    assert "model.npz has weights of the digest" in report.differences["model"][0]
    assert report.differences["model"][1].startswith("model.npz: W2[2, 1] is ")


def test_a_changed_row_is_named(run):
    path = run.parent / "rows.parquet"
    table = pq.read_table(path)
    values = table.column("x3").to_numpy().copy()
    values[[17, 80]] += 1
    pq.write_table(table.set_column(3, "x3", pa.array(values)), path)
    report = verified(run)
    assert list(report.differences) == ["rows"]
    text = "\n".join(report.differences["rows"])
    assert f"{path}, row 17 (counted from 0)" in text
    assert f"{path}, row 80 (counted from 0)" in text
    assert len(report.differences["rows"]) == 2


@pytest.mark.parametrize("has_parities", [True, False])
def test_a_changed_row_of_a_block_is_named_and_the_block_if_an_earlier_version_wrote_the_proof(
    tmp_path, monkeypatch, has_parities
):
    monkeypatch.setattr(blocks, "MAX_BLOCKS", 8)
    to_json = blocks.RowBlocks.to_json
    with monkeypatch.context() as patch:
        if not has_parities:
            patch.setattr(blocks.RowBlocks, "to_json", lambda found: to_json(replace(found, parities=())))
        run = train(tmp_path, train__epochs=1)
    assert verified(run, segments=0).is_verified
    path = tmp_path / "rows.parquet"
    table = pq.read_table(path)
    values = table["x2"].to_numpy().copy()
    values[[17, 95]] += 1
    pq.write_table(table.set_column(2, "x2", pa.array(values)), path, compression="none")
    text = "\n".join(verified(run, segments=0).differences["rows"])
    assert len(verified(run, segments=0).differences["rows"]) == 2
    if has_parities:
        assert "row 17 (counted from 0)" in text
        assert "row 95 (counted from 0)" in text
        assert "or some of them" not in text
    else:
        assert text.count("or some of them, have changed: from ") == 2


def test_a_changed_label_and_a_lost_row_are_named(run):
    path = run.parent / "rows.parquet"
    table = pq.read_table(path)
    labels = table.column("label").to_numpy().copy()
    labels[5] = (labels[5] + 1) % 2
    pq.write_table(table.set_column(6, "label", pa.array(labels)), path)
    assert "row 5 (counted from 0)" in verified(run).differences["rows"][0]
    pq.write_table(table.slice(0, ROWS - 1), path)
    assert "the run had" in verified(run).differences["rows"][0]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"lr": 0.05', '"lr": 0.06', "optim.lr is 0.06 at one place and 0.05 at the other"),
        ('"timeout_s": "auto"', '"timeout_s": 30', "run.timeout_s is 30 at one place"),
        ('"run_key": "', '"run_key": "0', "its digest is another one"),
        ("{", "[", "it cannot be read as JSON of a run any more"),
    ],
)
def test_a_changed_configuration_is_named(run, old, new, words):
    path = run / "config.json"
    path.write_text(path.read_text().replace(old, new, 1))
    report = verified(run)
    assert list(report.differences) == ["configuration"]
    assert words in report.differences["configuration"][0]


def test_a_configuration_that_was_forged_whole_is_found_by_the_proof(run):
    content = json.loads((run / "config.json").read_text())
    content["optim"]["lr"] = content["distsgd"]["requested"]["optim.lr"] = 0.06
    del content["distsgd"]["sha256"]
    content["distsgd"]["sha256"] = seal.digest(content)
    (run / "config.json").write_text(rundir.json_text(content))
    report = verified(run)
    assert "that of config.json is not the one that proof.jsonl begins with" in report.differences["configuration"]
    assert "that after step 8 is not the one in proof.jsonl" in report.differences["state"]


def test_a_changed_journal_line_is_named(run):
    path = run / "metrics.jsonl"
    content = path.read_text().splitlines(keepends=True)
    record = json.loads(content[4])
    record["train/loss"] += 1e-9
    content[4] = json.dumps(record) + "\n"
    path.write_text("".join(content))
    report = verified(run)
    assert list(report.differences) == ["journal"]
    assert report.differences["journal"][0] == "line 5 of metrics.jsonl is not as written"
    assert f"line of step {record['step']}: train/loss is {record['train/loss']!r}" in report.differences["journal"][1]


def test_a_changed_timestamp_a_lost_and_an_added_line_are_named(run):
    path = run / "metrics.jsonl"
    content = path.read_text().splitlines(keepends=True)
    stamp = json.loads(content[2])["timestamp_ms"]
    path.write_text("".join(content).replace(str(stamp), str(stamp + 1), 1))
    assert verified(run).differences["journal"][0].startswith("line ")
    path.write_text("".join(content[:3] + content[4:]))
    texts = verified(run).differences["journal"]
    assert texts[0] == "line 4 of metrics.jsonl is not as written"
    assert f"it has no line for step {json.loads(content[3])['step']}" in texts
    path.write_text("".join(content[:1]) + '{"step": 4, "epoch": 0.5, "timestamp_ms": 1}\n' + "".join(content[1:]))
    assert "it has a line for step 4, which this run does not log" in verified(run).differences["journal"]


def test_a_changed_result_is_named(run):
    path = run / "result.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"val/accuracy": 1.0, "steps": 39}))
    texts = verified(run).differences["result"]
    assert "steps is 39, and the run has 40" in texts
    assert any(text.startswith("val/accuracy is 1.0, and training comes to ") for text in texts)


@pytest.mark.parametrize(
    "key",
    [
        "train/loss",
        "val/macro_f1",
        "val/roc_auc",
        "macro_f1",
        "balanced_accuracy",
        "majority_share",
        "held_out_classes",
        "best_val_loss",
        "best_epoch",
        "epochs",
    ],
)
@pytest.mark.parametrize("change", ["other", "lost"])
def test_every_figure_of_the_result_is_compared(run, key, change):
    path = run / "result.json"
    content = json.loads(path.read_text())
    assert isinstance(content[key], int | float)
    other = content[key] + 1 if type(content[key]) is int else float(np.nextafter(content[key], 9))
    path.write_text(json.dumps(content | {key: other if change == "other" or key == "epochs" else None}))
    (text,) = verified(run).differences["result"]
    assert text.endswith(f", and training comes to {content[key]!r}")
    assert text.startswith(f"{key} is ")


def test_a_changed_recall_and_another_arithmetic_in_the_result_are_named(run):
    path = run / "result.json"
    content = json.loads(path.read_text())
    recall = content["recall"] | {"1": 1.0}
    assert recall != content["recall"]
    path.write_text(json.dumps(content | {"recall": recall, "arithmetic": "portable"}))
    texts = verified(run).differences["result"]
    assert [text.partition(" is ")[0] for text in texts] == ["recall", "arithmetic"]


def test_a_lost_proof_is_told_and_the_run_is_verified_by_training(run):
    (run / "proof.jsonl").unlink()
    report = verified(run)
    assert report.is_verified, report.lines()
    assert "the run has no proof.jsonl" in report.notes[0]


def test_a_run_of_an_earlier_version_is_verified(own_folder):
    """Where it was computed with the same arithmetic; elsewhere within a tolerance."""
    from pathlib import Path as Folder

    kept = Folder(__file__).resolve().parent.parent / "data_files" / "stopped_run_of_0_1_0"
    shutil.copytree(kept, "kept")
    report = verified_digits(Folder("kept"))
    assert report.is_verified, report.lines()


def verified_digits(run: Path):
    from distsgd.verify.verification import verify

    return verify(run)


# The command


def test_the_command_says_what_it_found_by_its_exit_code(run):
    data = f"--data={run.parent / 'rows.parquet'}"
    found = invoke("verify", str(run), data)
    assert found.code == 0, found.err
    assert found.out.startswith(f"VERIFIED: the bits of the run {str(run)!r} are those that were recorded")
    flip(run / "checkpoints" / "00000040.npz", 8 * 500)
    found = invoke("verify", str(run), data)
    assert found.code == 1
    assert "DIFFERS: 1 thing" in found.out
    assert "checkpoint: checkpoints/00000040: its arrays are damaged" in found.out


def test_what_cannot_be_verified_is_refused(run, own_folder):
    def refused(*arguments: str) -> str:
        found = invoke("verify", *arguments)
        assert found.code == 2, found
        assert found.out == ""
        return found.err

    assert "no run is in 'nowhere'" in refused("nowhere")
    assert f"name one of the 1 that are in it, such as '{run}'" in refused(str(run.parent))
    assert "does not exist" in refused(str(run), "--data=nothing.parquet")
    with lock.locked(run):
        assert "a driver is using the run directory" in refused(str(run))
    X, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2
    distsgd.train({**KEYS, "run.dir": "memory", "train.epochs": 1}, data=(X, y))
    assert "were passed in memory" in refused("memory")


def test_verifying_writes_nothing_into_the_run_directory(trained):
    run = trained / "run"
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    os.chmod(run, 0o555)
    try:
        assert verified(run).is_verified
    finally:
        os.chmod(run, 0o755)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_rows_written_the_same_way_are_the_same(tmp_path):
    assert write_rows(tmp_path / "a.parquet").read_bytes() == write_rows(tmp_path / "b.parquet").read_bytes()


@pytest.mark.parametrize("step", [3, 21])
@pytest.mark.parametrize("content", [b"mine\n", b"mine", b'{"step": 0}\n', b"\x00" * 50], ids=range(4))
def test_a_file_in_the_place_of_the_proof_is_left_as_it_is(trained, tmp_path, monkeypatch, step, content):
    shutil.copy(trained / "rows.parquet", tmp_path)
    run = stopped(tmp_path, monkeypatch, step)
    (tmp_path / "mine").write_bytes(content)
    (run / "proof.jsonl").unlink()
    (run / "proof.jsonl").symlink_to(tmp_path / "mine")
    for path in (run / "checkpoints").glob("*") if step == 3 else ():
        path.unlink()  # and the run begins again at step 0
    train(tmp_path, resume=True)
    assert (tmp_path / "mine").read_bytes() == content
    (warning,) = json.loads((run / "result.json").read_text())["warnings"]
    assert "so the proof is not continued" in warning


def test_a_proof_that_cannot_be_read_is_refused(trained, tmp_path, monkeypatch):
    shutil.copy(trained / "rows.parquet", tmp_path)
    run = stopped(tmp_path, monkeypatch, 21)
    (run / "proof.jsonl").unlink()
    (run / "proof.jsonl").mkdir()
    with pytest.raises(RunDirectoryError, match="cannot be read: Is a directory; restore it from a backup, or move it"):
        train(tmp_path, resume=True)
    (run / "proof.jsonl").rmdir()
    train(tmp_path, resume=True)
    report = verified(run)
    assert report.is_verified, report.lines()
    assert "the run has no proof.jsonl" in report.notes[0]


def test_a_run_of_a_version_that_measured_less_is_verified(run):
    """A later version measures more: what no line of the journal has is not missed, what some have is."""
    path = run / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    (run / "proof.jsonl").unlink()
    without = [{key: value for key, value in record.items() if key != "val/roc_auc"} for record in records]
    path.write_text("".join(json.dumps(record) + "\n" for record in without))
    report = verified(run)
    assert report.is_verified, report.lines()
    del records[-1]["val/accuracy"]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert "val/accuracy is 'missing'" in verified(run).differences["journal"][0]
