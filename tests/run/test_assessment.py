"""What a run says about itself: beside which figure its accuracy stands, which classes it misses, when it was best."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from distsgd.cli.summary import summary
from distsgd.engine.confusion import Confusion, pairs_of
from distsgd.run.assessment import assess, confusion_table, per_class_table, useless_remark
from distsgd.rundir.result import Result

NAMES = [f"c{i:02}" for i in range(12)]


def confusion(y, predicted, classes: int) -> Confusion:
    return Confusion.of([pairs_of(np.array(y), np.array(predicted), classes)], classes)


def record(epoch: float, val_loss: float, train_loss: float | None = None) -> dict[str, float]:
    found = {"step": int(10 * epoch), "epoch": epoch, "val/loss": val_loss, "val/accuracy": 0.5}
    return found if train_loss is None else found | {"train/epoch_loss": train_loss}


@pytest.mark.parametrize(
    ("right", "missed", "remark"),
    [
        (0, 0, "no better than guessing: 0.8000 of the held-out rows are of class 'c01', and 0.8000 are predicted"),
        (10, 12, "no better than guessing"),
        (10, 5, "not clearly better than guessing"),
        (12, 2, None),
        (20, 0, None),
    ],
)
def test_a_model_that_is_no_better_than_guessing_is_called_so(right, missed, remark):
    """80 rows of one class, of which some are missed, and 20 of others, of which some are right."""
    y = [1] * 80 + [0] * 20
    predicted = [0] * missed + [1] * (80 - missed) + [0] * right + [1] * (20 - right)
    found = assess([], confusion(y, predicted, 2), NAMES[:2])
    assert found.majority_share == 0.8
    remarks = [text for text in found.remarks if "guessing" in text]
    assert [text[: len(remark)] for text in remarks] == [remark] if remark else remarks == []


@pytest.mark.parametrize("class_weight", [None, {"c01": 2.0}, "balanced"])
def test_a_class_that_is_never_predicted_is_named(class_weight):
    y = [1] * 80 + [0] * 20 + [2]
    found = assess([], confusion(y, [1] * 80 + [0] * 21, 4), NAMES[:4], class_weight=class_weight)
    (remark,) = found.remarks
    assert remark.startswith("no held-out row is predicted as class 'c02' (1 row), although there are such rows; ")
    assert ('train.class_weight = "balanced"' in remark) == (class_weight != "balanced")
    found = assess([], confusion(y, [1] * 80 + [1] * 21, 4), NAMES[:4], class_weight=class_weight)
    assert "no held-out row is predicted as classes 'c00' (20 rows), 'c02' (1 row), although" in found.remarks[1]


def test_classes_that_all_are_predicted_or_have_no_rows_are_no_matter():
    assert assess([], confusion([1] * 80 + [0] * 20, [1] * 80 + [0] * 20, 3), NAMES[:3]).remarks == []


def test_up_to_ten_classes_all_have_their_recall():
    found = assess([], confusion([0, 1, 1, 9], [0, 0, 1, 9], 10), NAMES[:10])
    assert found.recall == {"c00": 1.0, "c01": 0.5, "c09": 1.0}
    assert found.held_out_classes == 3


def test_of_more_than_ten_classes_the_worst_are_named_worst_first():
    y = np.repeat(np.arange(12), 10)
    predicted = np.where(np.arange(120) % 10 < (y * 5) % 11, y, (y + 1) % 12)
    found = assess([], confusion(y, predicted, 12), NAMES)
    assert len(found.recall) == 10
    assert list(found.recall.values()) == sorted(found.recall.values())
    assert found.held_out_classes == 12
    assert list(found.recall)[:2] == ["c00", "c11"]


@pytest.mark.parametrize(
    ("records", "best", "remark"),
    [
        ([], (None, None), None),
        ([record(1, 0.9, 1.0), record(2, 0.5, 0.8)], (2, 0.5), None),
        (
            [record(e, 0.5 + 0.02 * abs(e - 7), 1 / e) for e in range(1, 31)],
            (7, 0.5),
            "overfitting: the validation loss",
        ),
        ([record(e, 0.5 + 0.02 * abs(e - 7)) for e in range(1, 31)], (7, 0.5), "overfitting: the validation loss"),
        (
            [record(e, 0.5 + 0.02 * abs(e - 7), 0.1 * e) for e in range(1, 31)],
            (7, 0.5),
            "the validation loss was lowest",
        ),
        ([record(e, 0.5 + 0.02 * abs(e - 25), 1 / e) for e in range(1, 31)], (25, 0.5), None),
        ([record(e, 0.5 + 0.001 * abs(e - 7), 1 / e) for e in range(1, 31)], (7, 0.5), None),
    ],
    ids=["none", "still falling", "overfitting", "of version 0.1.0", "unstable", "shortly before", "hardly"],
)
def test_the_best_epoch_and_a_word_where_it_was_long_before_the_end(records, best, remark):
    found = assess(records, None, NAMES)
    assert (found.best_epoch, found.best_val_loss) == best
    assert [text[: len(remark)] for text in found.remarks] == [remark] if remark else found.remarks == []
    if remark and remark.startswith("overfitting"):
        assert (
            "lowest after epoch 7, 0.5000, and is 0.9600 now; train for fewer epochs (train.epochs=7)"
            in found.remarks[0]
        )


def test_tables_hold_all_classes_and_any_name():
    names = ["a,b", 'say "x"', "=1+1"]
    counted = confusion([0, 0, 1], [0, 1, 1], 3)
    table = list(csv.DictReader(io.StringIO(per_class_table(counted, names))))
    assert [row["class"] for row in table] == names
    assert [row["recall"] for row in table] == ["0.500000", "1.000000", ""]
    assert [row["rows"] for row in table] == ["2", "1", "0"]
    matrix = list(csv.reader(io.StringIO(confusion_table(counted, names))))
    assert matrix[0][1:] == names
    assert [row[1:] for row in matrix[1:]] == [["1", "1", "0"], ["0", "1", "0"], ["0", "0", "0"]]
    assert confusion_table(confusion([0], [0], 1001), range(1001)) is None


def shown(tmp_path, **values) -> dict[str, str]:
    return dict(summary(Result(**_result(tmp_path) | values)))


def test_the_summary_shows_the_accuracy_beside_a_guess(tmp_path):
    assert shown(tmp_path)["val accuracy"] == "0.7500"
    better = shown(tmp_path, majority_share=0.5)
    assert better["val accuracy"] == "0.7500 (guessing the most frequent class: 0.5000)"
    worse = shown(tmp_path, majority_share=0.75)
    assert worse["val accuracy"] == "0.7500, no better than guessing the most frequent class: 0.7500"
    early = shown(tmp_path, best_val_loss=0.25, best_epoch=1.0, remarks=["overfitting"])
    assert early["val loss"] == "0.5000 (lowest: 0.2500, after epoch 1)"
    assert early["note"] == "overfitting"


def test_the_summary_fits_eighty_columns_with_long_names(tmp_path):
    recall = {f"{'a long name of a class' * 3} {i}": i / 10 for i in range(10)}
    lines = summary(Result(**_result(tmp_path) | {"recall": recall, "held_out_classes": 40}))
    assert all(len(f"{name:<12}  {value}") <= 80 for name, value in lines if name != "model")
    assert "worst recall" in dict(lines)


def _result(tmp_path) -> dict:
    numbers = dict.fromkeys(("samples_per_s", "step_ms_p50", "step_ms_p95", "mlflow_run_id"))
    values = {"status": "FINISHED", "weights_sha256": "", "steps": 30, "epochs": 3.0, "wall_s": 1.0, "numerics": {}}
    return values | numbers | {"train_loss": 0.1, "val_loss": 0.5, "val_accuracy": 0.75, "run_dir": tmp_path}


def test_numbers_worse_than_their_mean_lead_to_the_scale_of_the_labels():
    assert useless_remark({"val/r2": 0.1}) is None
    assert "labels are not normalised" in str(useless_remark({"val/r2": -5.0}))
