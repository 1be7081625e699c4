"""Growth is told from noise; and a short soak runs as a long one does."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import Cli

from tests.soak.folders import FolderSample, report_folders, sample_folder
from tests.soak.watching import Sample, growth_per_hour, report


def samples(pid: int, *, pss: float = 0.0, descriptors: float = 0.0, until: float = 3600.0) -> list[Sample]:
    """Return samples of a process that grows by so much an hour, with noise that does not."""
    times = [5.0 * number for number in range(int(until // 5) + 1)]
    return [
        Sample(t, pid, "worker", 300.0, 100.0 + pss * t / 3600 + (n % 3), 40 + round(descriptors * t / 3600) + n % 2, 9)
        for n, t in enumerate(times)
    ]


def test_noise_is_no_growth():
    table, grown = report(samples(1), after_s=300)
    assert grown == []
    assert len(table) == 2


@pytest.mark.parametrize(("kind", "growth"), [("pss", 40.0), ("descriptors", 12.0)])
def test_growth_is_named(kind, growth):
    every = samples(1) + samples(2, **{kind: growth})
    table, grown = report(every, after_s=300)
    assert len(table) == 3
    (sentence,) = grown
    assert sentence.startswith("worker (2): ")
    assert kind in sentence
    measure = {"pss": "pss_mib"}.get(kind, kind)
    assert growth_per_hour(samples(2, **{kind: growth}), measure) == pytest.approx(growth, rel=0.05)


def test_what_grows_in_the_first_minutes_alone_does_not_count():
    early = [one for one in samples(1) if one.seconds >= 300]
    start = [Sample(t, 1, "worker", 10.0, t, int(t), 1) for t in range(0, 300, 5)]
    assert report(start + early, after_s=300)[1] == []


def test_a_process_that_ended_before_is_left_out():
    table, grown = report(samples(1) + samples(2, pss=500.0, until=900), after_s=300)
    assert (len(table), grown) == (2, [])


@pytest.mark.parametrize(("kind", "growth"), [("files", 30.0), ("mib", 100.0)])
def test_a_folder_that_grows_is_named(kind, growth):
    rates = {"files": 0.0, "mib": 0.0} | {kind: growth}
    times = range(0, 3600, 5)
    held = [
        FolderSample(t, name, 10 + round(rate["files"] * t / 3600) + t % 2, 1.0 + rate["mib"] * t / 3600)
        for name, rate in (("run", rates), ("scratch", {"files": 0.0, "mib": 0.0}))
        for t in times
    ]
    table, grown = report_folders(held, after_s=300)
    assert len(table) == 3
    (sentence,) = grown
    assert sentence.startswith(f"run: {kind} grows")


def test_a_folder_is_sampled_without_the_files_that_hold_the_history(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "one").write_bytes(bytes(2**20))
    (tmp_path / "metrics.jsonl").write_bytes(bytes(2**20))
    assert sample_folder("run", tmp_path, 1.0) == FolderSample(1.0, "run", 2, pytest.approx(1.0, abs=0.1))


@pytest.mark.slow
@pytest.mark.timeout(110)
def test_a_soak_of_half_a_minute(tmp_path):
    repository, kept = Path(__file__).resolve().parents[2], tmp_path / "kept"
    cli = Cli(tmp_path, {"PYTHONPATH": str(repository)})
    done = cli.run_python("-m", "tests.soak", "--minutes", "0.4", "--keep", str(kept))
    # Half a minute is all start-up, in which processes do grow; but it has to be a run, and a judgement.
    assert done.code in (0, 1), done.err
    assert "steps" in done.out, done.err
    assert "growth per hour" in done.out
    assert (kept / "samples.csv").read_text().count("\n") > 20
    assert (kept / "folders.csv").read_text().count("/dev/shm") > 2
    assert (kept / "metrics.jsonl").is_file()
