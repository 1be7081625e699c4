"""`distsgd predict`: the predictions for all rows of a path, as Parquet or CSV; memory does not grow with the rows."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distsgd.cluster.connection import joined, started
from distsgd.cluster.resources import cores, default_workers
from distsgd.config import Config
from distsgd.core import numerics
from distsgd.core.predictor import BLOCK, Predictor
from distsgd.data.model_rows import Examples, ModelRows, open_rows
from distsgd.data.parts import parts_of
from distsgd.errors import DataError
from distsgd.run.model import TrainedRun
from distsgd.run.observer import Observer
from distsgd.run.trainer import environment
from distsgd.rundir.directory import check_not_own_file
from distsgd.system.files import read_file
from distsgd.system.signals import stop_signals_raise
from distsgd.version import __version__

PART_BYTES = 2**24
"""Bytes of the features, or of the probabilities, of a part."""

PART_ROWS = 2**16
"""Rows of a part at most."""

Output = tuple[np.ndarray, np.ndarray]
"""Classes (n,) and probabilities (n, C)."""


@dataclass(frozen=True)
class Predicted:
    """What a call of `predict` has done."""

    path: Path
    rows: int
    resumed_rows: int
    """Rows that an earlier call, which was stopped, had predicted."""


def predict(
    run_dir: Path,
    data: str,
    out: Path,
    *,
    keep: Sequence[str] = (),
    workers: int | None = None,
    address: str | None = None,
    observer: Observer | None = None,
) -> Predicted:
    """Write the columns `keep`, `prediction` and `probabilities` of all rows that `data` names to the file `out`.

    It is Parquet or, if its name ends in `.csv`, CSV, with a column for each probability in place of a list.

    In this process, or by tasks on Ray if `workers` or `address` is given. The bytes of the file are the same for any
    number of workers, and after any kill: the same call goes on where the last one was. DataError for rows that do not
    fit the model, or a file that cannot be written; ConfigError for one that belongs to a run.
    """
    from distsgd.data import csv_output, predictions

    observer = observer or Observer()
    with stop_signals_raise(), contextlib.ExitStack() as stack:
        run = TrainedRun.open(run_dir)
        observer.stage(f"opening {data}")
        rows = open_rows(data, run.config.data, run.inputs, keep=tuple(dict.fromkeys(keep)))
        schema = predictions.schema(rows.kept_schema, run.predictor)
        _check_target(out, rows)
        if out.suffix.lower() == csv_output.ENDING:
            csv_output.check_columns(schema)
        size = part_rows(rows.features, len(run.predictor.classes))
        parts = stack.enter_context(parts_of(out, schema, _identity(run, rows, size)))
        count = -(-len(rows) // size)
        resumed = min(parts.done * size, len(rows))
        if resumed:
            observer.note(f"continuing after row {resumed:,} of {len(rows):,}")
        examples = rows.parts(size, resumed)
        outputs = stack.enter_context(_computed(run.predictor, examples, workers, address, size * rows.features * 8))
        for number, ((predicted, probabilities), kept) in enumerate(outputs, start=parts.done):
            parts.write(number, predictions.table(kept, predicted, probabilities, schema))
            observer.stage(f"predicting: {min((number + 1) * size, len(rows)):,} of {len(rows):,} rows")
        observer.stage(f"writing {out}")
        parts.join(count)
    for notice in rows.notices:
        observer.note(notice)
    return Predicted(out, len(rows), resumed)


def part_rows(features: int, classes: int) -> int:
    """Return the rows of a part: a multiple of those that go through the net together, so that bits stay the same."""
    fit = PART_BYTES // (8 * max(features, classes))
    return max(1, min(fit, PART_ROWS) // BLOCK) * BLOCK


@contextlib.contextmanager
def _computed(
    predictor: Predictor, examples: Iterable[Examples], workers: int | None, address: str | None, part_bytes: int
) -> Iterator[Iterator[tuple[Output, Any]]]:
    """Yield the outputs for each part of the rows, in order, with its kept columns: here, or by tasks on Ray."""
    pairs = ((part.X, part.kept) for part in examples)
    if workers is None and address is None:
        with by_threads(predictor, pairs) as outputs:
            yield outputs
        return
    config = Config.build({"run.workers": "auto" if workers is None else workers, "run.address": address})
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(joined(config, environment(config)))
        if cluster is None:
            at_once = default_workers(config, cores())
            cluster = stack.enter_context(started(config, environment(config), data_bytes=3 * at_once * part_bytes))
        from distsgd.cluster.prediction import in_order

        at_once = workers or max(1, int(cluster.cpus))
        yield in_order(predictor, pairs, workers=at_once)


@contextlib.contextmanager
def by_threads(predictor: Predictor, pairs: Iterable[tuple[np.ndarray, Any]]) -> Iterator[Iterator[tuple[Output, Any]]]:
    """Yield the outputs for each X of pairs (X, rest), in order, with the rest: by threads with a BLAS thread each."""
    with numerics.pinned_blas(1, None), ThreadPoolExecutor(cores()) as pool:
        yield _in_order(predictor, pairs, pool)


def _in_order(
    predictor: Predictor, pairs: Iterable[tuple[np.ndarray, Any]], pool: ThreadPoolExecutor
) -> Iterator[tuple[Output, Any]]:
    waiting = deque[tuple[Any, Any]]()
    for X, rest in pairs:
        waiting.append((pool.submit(predictor.predict_both, X), rest))
        if len(waiting) > cores():
            done, rest = waiting.popleft()
            yield done.result(), rest
    while waiting:
        done, rest = waiting.popleft()
        yield done.result(), rest


def _check_target(out: Path, rows: ModelRows) -> None:
    """Refuse a file that cannot be written, or that the rows are read from."""
    from distsgd.data import csv_output

    if not out.name.lower().endswith((".parquet", ".pq", csv_output.ENDING)):
        raise DataError(f"--out is {str(out)!r}; expected a name that ends in .parquet, or in .csv")
    if out.is_dir():
        raise DataError(f"--out is {str(out)!r}, which is a folder; give the name of a file")
    if not out.parent.is_dir():
        raise DataError(f"--out is {str(out)!r}, and there is no folder {str(out.parent)!r}; create it")
    if out.exists() and any(os.path.exists(f.path) and os.path.samefile(out, f.path) for f in rows.source.files):
        raise DataError(f"--out is {str(out)!r}, which the rows are read from; give another name")
    check_not_own_file(out)


def _identity(run: TrainedRun, rows: ModelRows, size: int) -> dict[str, Any]:
    """Return what has to be the same for parts that were computed earlier to be used."""
    return {
        "distsgd": __version__,
        "numerics": numerics.fingerprint("cpu") | {"blas_threads": "1"},
        "model": hashlib.sha256(read_file(run.model_file, max_bytes=2**40)).hexdigest(),
        "files": [_file(file.path, file.num_rows) for file in rows.source.files],
        "keep": list(rows.keep),
        "rows": size,
    }


def _file(path: str, rows: int) -> list[Any]:
    found = os.stat(path) if os.path.exists(path) else None
    return [os.path.abspath(path), rows, *([] if found is None else [found.st_size, found.st_mtime_ns])]
