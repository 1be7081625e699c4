"""`python -m tests.soak --minutes 60 [--keep FOLDER]`: one run on local Ray, watched for growth.

It trains a small net with two workers, validates and checkpoints about once a second and sends its journal to SQLite;
every few seconds all of its processes are sampled into `samples.csv`, and its folders and /dev/shm into `folders.csv`.
At the end it is stopped by SIGTERM, as a scheduler does. Exit code 1 if memory, descriptors or threads of a process, or
the files of a folder, grew after the first minutes, or if anything was left behind.
"""

from __future__ import annotations

import csv
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests find each other by bare names

from runs import Cli, finished, journal, leaving_nothing, result

from tests.soak.folders import FolderSample, report_folders, sample_folder
from tests.soak.watching import Sample, report, sample

EVERY_S = 5.0
"""Seconds between two samples of all processes."""

WARM_UP = 5 / 60
"""Part of the time that is not judged: imports, first epochs, caches that fill."""

ROWS, FEATURES, CLASSES = 600_000, 16, 5
STOPPED = 143


def write_rows(path: Path) -> None:
    """Write rows whose epoch takes about a second."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
    np.savez(path, X=X, y=(X[:, :CLASSES] + 0.5 * rng.normal(size=(ROWS, CLASSES))).argmax(axis=1))


def watch(cli: Cli, minutes: float, folder: Path) -> tuple[list[Sample], list[FolderSample]]:
    """Train for some minutes and return all samples, of processes and of folders."""
    run = cli.start(
        *("train", "--quiet", "--workers", "2", "--run-dir", "run", "--data", "rows.npz"),
        *("--set", "train.epochs=1000000", "--set", "train.batch_size=256", "--set", "train.log_every=1000"),
        *("--set", "model.hidden=16", "--set", "optim.lr=0.01", "--set", "checkpoint.every_s=1"),
    )
    folders = {"run": folder / "run", "scratch": Path(cli.environment["TMPDIR"]), "/dev/shm": Path("/dev/shm")}
    began, samples, held = time.monotonic(), list[Sample](), list[FolderSample]()
    while (seconds := time.monotonic() - began) < 60 * minutes and run.poll() is None:
        samples += [one for pid in cli.processes() if (one := sample(pid, seconds)) is not None]
        held += [sample_folder(name, path, seconds) for name, path in folders.items()]
        time.sleep(EVERY_S)
    run.send_signal(signal.SIGTERM)
    ended = finished(run)
    if ended.code != STOPPED:
        raise click.ClickException(f"the run ended with exit code {ended.code}:\n{ended.out}{ended.err}")
    return samples, held


def write_csv(path: Path, samples: Iterable[Any], kind: type) -> None:
    """Write dataclasses of one kind as a table."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(kind)])
        writer.writeheader()
        writer.writerows(map(asdict, samples))


@click.command()
@click.option("--minutes", default=60.0, show_default=True)
@click.option("--keep", type=click.Path(path_type=Path), help="A folder for the samples and the journal.")
def main(minutes: float, keep: Path | None) -> None:
    """Watch a run for growth of memory, descriptors, threads and files."""
    with tempfile.TemporaryDirectory(prefix="soak") as temporary:
        folder = Path(temporary)
        write_rows(folder / "rows.npz")
        with leaving_nothing(folder) as cli:
            samples, held = watch(cli, minutes, folder)
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                write_csv(keep / "samples.csv", samples, Sample)
                write_csv(keep / "folders.csv", held, FolderSample)
                shutil.copy(folder / "run/metrics.jsonl", keep)
        lines, ended = journal(folder / "run"), result(folder / "run")
        validations = sum("val/loss" in line for line in lines)
        click.echo(f"{ended['steps']:,} steps, {validations} validations, {len(samples)} samples, {ended['status']}")
        after_s = 60 * minutes * WARM_UP
        table, grown = report(samples, after_s=after_s)
        folder_table, folders_grown = report_folders(held, after_s=after_s)
        click.echo("\n".join([*table, "", *folder_table]))
        grown += folders_grown
    if grown:
        raise click.ClickException("\n".join(grown))
    click.echo("nothing grew, nothing was left behind")


if __name__ == "__main__":
    main()
