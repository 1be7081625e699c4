"""Single bits that are changed are found, all of them; runs of any number of workers are verified, all of them.

`DISTSGD_FLIPS=100 DISTSGD_CLEAN_RUNS=20 pytest -m slow tests/verify/test_verify_bits.py` is the whole campaign.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from proven import ROWS, copied, flip, train, verified
from runs import Cli, result

FLIPS = int(os.environ.get("DISTSGD_FLIPS", "24"))
CLEAN_RUNS = int(os.environ.get("DISTSGD_CLEAN_RUNS", "2"))

PATIENCE_S = 300
"""Seconds that workers may take to start: the machine may be busy."""

PARTS = {
    "checkpoint": ("checkpoints/*",),
    "configuration": ("config.json",),
    "journal": ("metrics.jsonl",),
    "proof": ("proof.jsonl",),
    "rows": ("../rows.parquet",),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(folder)
    return folder


def bits_of(part: str, path: Path) -> range:
    """Return the bits of a file that stand for something; of rows those of their values."""
    if part != "rows":
        return range(8 * path.stat().st_size)
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    begin = column.data_page_offset + column.total_compressed_size - 4 * ROWS
    return range(8 * begin, 8 * (begin + 4 * ROWS))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", PARTS)
def test_every_changed_bit_is_found_and_its_place_is_named(trained, tmp_path, part):
    draws, missed = random.Random(part), []
    for number in range(-(-FLIPS // len(PARTS))):
        run = copied(trained, tmp_path / str(number))
        path = draws.choice(sorted(path for pattern in PARTS[part] for path in run.glob(pattern)))
        bit = draws.choice(bits_of(part, path))
        flip(path, bit)
        report = verified(run)
        named = set(report.differences) == {part} or (part == "rows" and "rows" in report.differences)
        if report.is_verified or not named:
            missed.append((path.name, bit, report.differences))
        shutil.rmtree(run.parent)
    assert not missed, missed


@pytest.mark.slow
@pytest.mark.timeout(200 + 60 * CLEAN_RUNS)
def test_clean_runs_of_any_number_of_workers_are_verified_by_any_other(joined, tmp_path):
    """Of workers on Ray, or of threads in this process, by either."""
    draws = random.Random(CLEAN_RUNS)
    numbers = [0, 1, 2, 3]
    pairs = [(2, 1), (0, 2), (1, 0)] + [(draws.choice(numbers), draws.choice(numbers)) for _ in range(CLEAN_RUNS)]
    digests = set()
    for number, (workers, other) in enumerate(pairs[:CLEAN_RUNS]):
        keys = {"run__workers": workers, "run__threads": draws.choice([1, 2, 3]), "run__timeout_s": PATIENCE_S}
        run = train(tmp_path, f"run{number}", **keys)
        report = verified(run, overrides={"run.workers": other, "run.threads": draws.choice([1, 2, 4])})
        assert report.is_verified, report.lines()
        assert report.tolerated is None
        digests.add((result(run)["weights_sha256"], report.notes[-1]))
        shutil.rmtree(run)
    assert len(digests) == 1, "the digest of the whole proof depends on the number of workers"


@pytest.mark.slow
@pytest.mark.timeout(110)
def test_other_arithmetic_is_told_and_compared_within_a_tolerance(tmp_path):
    run = train(tmp_path, "run")
    here = result(run)["numerics"]["blas"]
    if "openblas" not in here.lower():
        pytest.skip(f"OpenBLAS's kernels can be chosen, those of {here} cannot")
    cli = Cli(tmp_path, {"OPENBLAS_CORETYPE": "Prescott"})
    found = cli.run("verify", "run", f"--data={tmp_path / 'rows.parquet'}")
    assert found.code == 0, found.out + found.err
    assert found.out.startswith("VERIFIED within a tolerance")
    assert "this machine computes otherwise than the recorded one: blas" in found.out
    flip_a_loss(run / "metrics.jsonl")
    found = cli.run("verify", "run", f"--data={tmp_path / 'rows.parquet'}")
    assert found.code == 1
    assert "journal: " in found.out


def flip_a_loss(path: Path) -> None:
    """Make a loss of the journal ten times as large as it was."""
    import json

    content = path.read_text().splitlines(keepends=True)
    record = json.loads(content[3])
    record["train/loss"] = 10 * record["train/loss"] + 1
    content[3] = json.dumps(record) + "\n"
    path.write_text("".join(content))
