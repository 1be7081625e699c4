"""Classes that the training rows or the held-out rows lack are pointed out."""

from __future__ import annotations

import numpy as np
import pytest

from distsgd.config import Config
from distsgd.data import load
from distsgd.data.labels import lacking


def notices(y: list[int], y_val: list[int], classes: int | None = None) -> list[str]:
    rng = np.random.default_rng(0)
    config = Config.build({"data.classes": classes, "train.class_weight": None})
    data, held_out = ((rng.random((len(part), 3)), np.array(part)) for part in (y, y_val))
    return [text for text in load(config.data, data=data, held_out_data=held_out).notices if "no row of" in text]


@pytest.mark.parametrize(
    ("y", "y_val", "classes", "told"),
    [
        ([0, 1, 2], [0, 1, 2], None, []),
        ([0, 1, 2], [0, 0, 2], None, ["the held-out rows have no row of class 1, which nothing measures"]),
        (
            [0, 1, 3],
            [0, 1, 3],
            4,
            [
                "warning: the training rows have no row of class 2, which the model will hardly predict",
                "the held-out rows have no row of class 2, which nothing measures",
            ],
        ),
    ],
)
def test_what_rows_lack_is_told(y, y_val, classes, told):
    assert notices(y, y_val, classes) == told


def test_of_many_classes_a_few_are_named():
    (line,) = lacking(np.arange(100), np.array([0, 50]), np.arange(100))
    assert line == "the held-out rows have no row of classes 1, 2, 3, 4, 5 and 93 more, which nothing measures"
