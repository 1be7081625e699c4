"""One answer of `train.arithmetic=portable`: for any BLAS kernel, threads, cut, workers, shards, death and resume."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import Outcome, invoke

from distsgd.core import numerics
from portable.child import KERNELS, digests
from portable.configurations import spec_of
from portable.links import over_links
from portable.ways import in_this_process, serial

NUMBERS = range(6)
"""Runs that have every rule, activation and loss between them."""

FEW = (0, 1, 3)

PORTABLE = {"train.arithmetic": "portable", "train.epochs": 3, "model.hidden": 16, "tracking.enabled": False}


@pytest.mark.parametrize("number", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in NUMBERS if n != 1)])
def test_no_cut_order_or_thread_changes_a_bit(number):
    assert len(set(dict(in_this_process(spec_of(number), number)).values())) == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_kernel_of_blas_changes_a_bit():
    answers = [digests(kernel, threads, FEW) for kernel, threads in zip(KERNELS, (1, 2, 1, 2, 1), strict=True)]
    known = [answer for answer in answers if answer is not None]
    assert len({blas for blas, _ in known}) > 1, "one kernel shows nothing"
    for number in FEW:
        assert len({digest for _, ways in known for digest in ways[number].values()}) == 1, number


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 3])
def test_no_link_death_or_resume_changes_a_bit(number):
    # Only a product shows that the processor lacks the instructions of a kernel.
    kernels = [kernel for kernel in KERNELS if digests(kernel, 1, [number]) is not None]
    spec = spec_of(number, train__log_every=1)
    assert {digest for _, digest in over_links(spec, number, kernels)} == {serial(spec)}


FIGURES = ("weights_sha256", "train/loss", "val/loss", "val/accuracy", "val/roc_auc", "macro_f1")


def figures(result: dict) -> dict:
    return {key: result[key] for key in FIGURES}


def trained(run_dir: Path, **values: object) -> tuple[Outcome, dict]:
    """Train in this process; return what was said, and the result."""
    settings = [f"--set={key}={value}" for key, value in (PORTABLE | values).items()]
    outcome = invoke("train", f"--run-dir={run_dir}", *settings)
    assert outcome.code == 0, outcome.err
    return outcome, json.loads((run_dir / "result.json").read_text())


def test_the_number_of_shards_is_no_part_of_the_result(tmp_path):
    found = [
        trained(tmp_path / f"{shards}", **{"train.num_shards": shards, "run.workers": 0})[1] for shards in (1, 4, 64)
    ]
    assert {result["arithmetic"] for result in found} == {"portable"}
    assert figures(found[0]) == figures(found[1]) == figures(found[2])


def test_fast_arithmetic_is_another_result(tmp_path):
    results = [trained(tmp_path / a, **{"train.arithmetic": a, "run.workers": 0})[1] for a in ("fast", "portable")]
    assert results[0]["weights_sha256"] != results[1]["weights_sha256"]
    assert abs(results[0]["val/loss"] - results[1]["val/loss"]) < 0.2  # the initial weights are others, too


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_run_goes_on_with_another_kernel_and_other_shards_without_a_warning(tmp_path):
    def command(kernel: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | numerics.environment(1, kernel)
        words = [sys.executable, "-m", "distsgd.cli", *arguments]
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=90, check=False)

    settings = [f"--set={key}={value}" for key, value in PORTABLE.items()]
    whole = command("Prescott", "train", "--workers=0", f"--run-dir={tmp_path / 'whole'}", *settings)
    assert whole.returncode == 0, whole.stderr
    begun = ["--workers=0", f"--run-dir={tmp_path / 'cut'}"]
    first = command("Prescott", "train", *begun, *settings, "--set=train.epochs=1", "--set=train.num_shards=2")
    assert first.returncode == 0, first.stderr
    more = command("Nehalem", "train", *begun, *settings, "--resume", "--set=train.num_shards=7")
    assert more.returncode == 0, more.stderr
    assert "warning" not in more.stderr
    hashes = {json.loads((tmp_path / name / "result.json").read_text())["weights_sha256"] for name in ("whole", "cut")}
    assert len(hashes) == 1
    verified = command("Sandybridge", "verify", str(tmp_path / "cut"))
    assert verified.returncode == 0, verified.stderr
    assert "VERIFIED" in verified.stdout
    assert "tolerance" not in verified.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("joined")
@pytest.mark.timeout(180)
def test_workers_of_ray_have_the_bits_of_none(tmp_path):
    alone = trained(tmp_path / "alone", **{"run.workers": 0})[1]
    for workers, link in ((3, "auto"), (2, "ray")):
        found = trained(tmp_path / link, **{"run.workers": workers, "run.link": link, "optim.clip_norm": 1e9})[1]
        assert figures(found) == figures(alone)
