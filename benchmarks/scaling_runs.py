"""The runs to which the cost model is fitted, and with which it is checked."""

from __future__ import annotations

from pathlib import Path

from benchmarks.cost_model import Point
from benchmarks.peers import distsgd_run
from benchmarks.peers.common import Task
from benchmarks.shapes import Shape, make_data

NETS = ((784, 3), (784, 78), (784, 1024), (784, 4096))
"""Features and hidden units: 2,395 parameters, 62,018, 814,090 and 3,256,330."""

BATCHES = (64, 1024)

CLASSES = 10


def shapes() -> list[Shape]:
    """Return the shapes that are timed."""
    return [Shape(features, hidden, CLASSES, batch) for features, hidden in NETS for batch in BATCHES]


def run(shape: Shape, workers: int, folder: Path, seconds: float) -> Point:
    """Return the median step of a real run; its data are stored in `folder`."""
    task = Task(
        shape=shape,
        data=make_data(shape, "float32", folder),
        workers=workers,
        threads=1,
        num_shards=max(workers, 1),
        warm_up_s=1.0,
        seconds=seconds,
    )
    return Point(
        parameters=shape.parameters,
        features=shape.features,
        batch=shape.batch,
        workers=workers,
        seconds=1e-3 * float(distsgd_run.measure(task)["step_ms_p50"]),
    )
