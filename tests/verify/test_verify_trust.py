"""What a verification does not take on trust: the arithmetic that a result names, and a model without its columns."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from proven import copied, stopped, train, verified
from runs import result

from distsgd.core import numerics
from distsgd.rundir import directory, seal
from distsgd.rundir.classifier import Classifier, weights_sha256
from distsgd.verify.tolerance import figures_agree


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(folder)
    return folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return copied(trained, tmp_path / "copy")


def change_model(run: Path, **changes: object) -> None:
    """Change the model, and the digest in the result to match."""
    model = dataclasses.replace(Classifier.load(run / "model.npz"), **changes)
    model.save(run / "model.npz")
    change_result(run, weights_sha256=weights_sha256(model.flat))


def change_result(run: Path, **changes: object) -> None:
    """Change the result so that it looks as it was written."""
    path = run / "result.json"
    content = json.loads(path.read_text()) | changes
    del content[seal.KEY]
    path.write_text(directory.json_text(seal.sealed(content)))


def a_little_other_weights(run: Path) -> np.ndarray:
    flat = Classifier.load(run / "model.npz").flat.copy()
    flat[3] *= np.float32(1.001)
    return flat


def test_other_arithmetic_in_the_result_does_not_make_the_comparison_a_tolerant_one(run):
    change_result(run, numerics=result(run)["numerics"] | {"machine": "another"})
    report = verified(run)
    assert report.is_verified, report.lines()
    assert any("result.json names other arithmetic than proof.jsonl" in note for note in report.notes)
    change_model(run, flat=a_little_other_weights(run))
    report = verified(run)
    assert report.tolerated is None
    assert set(report.differences) == {"model", "result"}, report.lines()


@pytest.mark.slow
def test_a_run_that_went_on_elsewhere_says_so_and_is_not_called_a_forgery(trained, tmp_path, monkeypatch):
    shutil.copy(trained / "rows.parquet", tmp_path)
    here = numerics.fingerprint("cpu")
    with monkeypatch.context() as patch:
        patch.setattr(numerics, "fingerprint", lambda _: here | {"blas": "another"})
        run = stopped(tmp_path, monkeypatch, 21)
    train(tmp_path, resume=True)
    (warning,) = result(run)["warnings"]
    assert warning.startswith("the run goes on with other arithmetic than before (blas 'another' and here ")
    lines = [json.loads(line) for line in (run / "proof.jsonl").read_text().splitlines()]
    assert {line["step"]: line["numerics"]["blas"] for line in lines if "numerics" in line} == {
        0: "another",
        24: here["blas"],
    }
    undisturbed = [json.loads(line) for line in (trained / "run" / "proof.jsonl").read_text().splitlines()]
    assert [line["chain"] for line in lines] == [line["chain"] for line in undisturbed]
    report = verified(run)
    assert report.is_verified, report.lines()
    assert any(note.startswith("this machine computes otherwise than the recorded one: blas") for note in report.notes)


@pytest.mark.parametrize("recorded", [float("inf"), float("-inf"), float("nan"), 10**400, True, None, "0.5"])
def test_within_the_tolerance_of_other_arithmetic_is_nothing_that_is_no_finite_number(recorded):
    assert not figures_agree("train/loss", recorded, 1.0)
    assert not figures_agree("train/loss", 1.0, recorded)
    assert figures_agree("train/loss", 1, 1.001)


def test_a_model_without_its_columns_is_found(run):
    change_model(run, inputs=None)
    assert set(verified(run).differences) == {"model"}


@pytest.mark.parametrize("segments", [0, 1])
def test_other_weights_in_model_and_result_are_found_without_training_from_the_start(run, segments):
    assert verified(run, segments=segments).is_verified
    change_model(run, flat=a_little_other_weights(run))
    report = verified(run, segments=segments)
    (words,) = report.differences["model"]
    assert words == "the weights of model.npz are not those of the checkpoint of step 40"


def test_what_a_run_directory_holds_does_not_control_the_terminal(run):
    path = run / "metrics.jsonl"
    first, *rest = path.read_text().splitlines(keepends=True)
    record = json.loads(first) | {"\x1b[2J\x1b]0;VERIFIED\x07": 1.0}
    path.write_text("".join([json.dumps(record) + "\n", *rest]))
    report = verified(run)
    assert any(r"\x1b[2J" in line for line in report.lines())
    assert all(line.isprintable() for line in report.lines())
