"""The file of a proof: every changed bit shows, and every line depends on those before it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsgd.config import Config
from distsgd.engine.snapshot import EpochLoss, Snapshot
from distsgd.errors import TrainingError
from distsgd.rundir import proof, seal
from distsgd.rundir.proof_writer import ProofWriter

NUMERICS = {"machine": "x86_64", "numpy": "2.0"}


def state(step: int, value: float = 0.5) -> Snapshot:
    slots = {"velocity": np.full(4, value / 2, np.float32)}
    parameters = np.full(4, value + step, np.float32)
    return Snapshot(step=step, parameters=parameters, slots=slots, epoch_loss=EpochLoss(1.5, 3.0))


def lines(first: float = 0.5, loss: float = 0.25) -> list[dict]:
    found = [proof.beginning(state(0, first), config=Config(), data_digest="d", rows={}, numerics=NUMERICS)]
    for step in (10, 20, 30):
        records = [{"step": step, "train/loss": loss / step, "timestamp_ms": step, "time/step_ms": 0.1}]
        found.append(proof.following(found[-1], state(step), records, journal="j", lines="00000000"))
    return found


def written(path: Path, content: list[dict]) -> bytes:
    text = b"".join(map(proof.encoded, content))
    path.write_bytes(text)
    return text


def test_what_is_written_is_read(tmp_path):
    written(tmp_path / "proof", lines())
    found = proof.read(tmp_path / "proof")
    assert found.problem is None
    assert found.lines == lines()
    assert found.sizes[-1] == (tmp_path / "proof").stat().st_size
    assert proof.read(tmp_path / "none") is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("proofs")


@given(st.integers(0, 2**20))
def test_every_changed_bit_ends_the_proof_before_its_line(folder, draw):
    content = bytearray(written(folder / "proof", lines()))
    bit = draw % (8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    (folder / "proof").write_bytes(content)
    found = proof.read(folder / "proof")
    assert found.problem is not None
    assert sum(size <= bit // 8 for size in found.sizes) == len(found.lines)


@pytest.mark.parametrize("change", ["state", "records", "step"])
def test_a_line_that_is_sealed_anew_does_not_follow_from_the_one_before(tmp_path, change):
    content = lines()
    content[2][change] = content[2][change] + 1 if change == "step" else "0" * 64
    content[2] = seal.sealed({key: value for key, value in content[2].items() if key != seal.KEY})
    written(tmp_path / "proof", content)
    found = proof.read(tmp_path / "proof")
    assert found.problem == "line 3 of proof.jsonl does not follow from the line before"
    assert len(found.lines) == 2


def test_the_last_chain_depends_on_all_that_was_trained_and_not_on_time():
    base = lines()[-1]["chain"]
    assert lines(first=0.75)[-1]["chain"] != base
    assert lines(loss=0.5)[-1]["chain"] != base
    later = lines()[:1]
    for step in (10, 20, 30):
        records = [{"step": step, "train/loss": 0.25 / step, "timestamp_ms": 77, "time/step_ms": 9.0}]
        later.append(proof.following(later[-1], state(step), records, journal="k", lines="11111111"))
    assert later[-1]["chain"] == base


def test_a_state_is_all_that_training_goes_on_from():
    base = state(5)
    others = [
        state(6),
        state(5, 0.25),
        Snapshot(
            step=5, parameters=base.parameters, slots={"other": base.slots["velocity"]}, epoch_loss=base.epoch_loss
        ),
        Snapshot(step=5, parameters=base.parameters, slots=base.slots, skipped=1, epoch_loss=base.epoch_loss),
        Snapshot(step=5, parameters=base.parameters, slots=base.slots, epoch_loss=EpochLoss(1.5, 4.0)),
    ]
    digests = {proof.state_digest(snapshot) for snapshot in (base, *others)}
    assert len(digests) == 1 + len(others)


def test_the_digest_of_a_configuration_leaves_out_its_length_and_where_it_is_computed():
    base = proof.config_digest(Config())
    for same in ({"train.epochs": 7}, {"train.max_steps": 9}, {"run.workers": 3}, {"data.train": "elsewhere.parquet"}):
        assert proof.config_digest(Config.build(same)) == base
    for other in ({"optim.lr": 0.7}, {"train.seed": 1}, {"data.val_fraction": 0.5}, {"model.hidden": 3}):
        assert proof.config_digest(Config.build(other)) != base


@pytest.mark.parametrize("value", ["[]", "{}", "3", '"' * 5, json.dumps(seal.sealed({"step": 0})), "[" * 100_000])
def test_what_is_no_proof_is_told(tmp_path, value):
    (tmp_path / "proof").write_text(f"{value}\n")
    found = proof.read(tmp_path / "proof")
    assert found.lines == []
    assert found.problem.startswith("line 1 of proof.jsonl is ")


def test_a_journal_that_is_gone_ends_the_run_with_a_message(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 10}\n')
    writer = ProofWriter.open(tmp_path, tmp_path / "metrics.jsonl", state(0), lambda: lines()[0], NUMERICS)
    writer.append(state(10))
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(TrainingError, match="could not be written: No such file"):
        writer.rewind(10)
    writer.close()
