"""The summary table that is printed when a run has finished."""

from __future__ import annotations

import os
from pathlib import Path

import click

from distsgd.errors import counted
from distsgd.rundir.result import Result
from distsgd.tracking import run_id
from distsgd.tracking.uri import view_command

LINE_WIDTH = 64
"""Columns beside the names for the recall of several classes."""

MAX_NAME = 20
"""Characters of a class's name."""


def summary(result: Result) -> list[tuple[str, str]]:
    """Return names and values; values that were not measured are omitted."""
    path = result.run_dir
    stored = run_id.read(path) if result.mlflow_run_id else None
    lines: list[tuple[str, str | None]] = [
        ("status", result.status),
        ("trained", f"{counted(result.steps, 'step')}, {_epochs(result)}, in {result.wall_s:.1f} s"),
        ("ended", result.ended),
        ("train loss", _number("{:.4f} (mean of the last epoch)", result.train_loss)),
        ("val loss", _val_loss(result)),
        ("val accuracy", _accuracy(result)),
        ("label acc.", _number("{:.4f} (of single labels)", result.val_label_accuracy)),
        ("val macro-F1", _number("{:.4f}", result.val_macro_f1)),
        ("val ROC-AUC", _number("{:.4f}", result.val_roc_auc)),
        ("val R²", _number("{:.4f}", result.val_r2)),
        ("val MSE", _number("{:.6g}", result.val_mse)),
        ("val MAE", _number("{:.6g}", result.val_mae)),
        ("mean recall", _number("{:.4f} (balanced accuracy)", result.balanced_accuracy)),
        *_recall(result),
        ("samples/s", _number("{:,.0f}", result.samples_per_s)),
        ("model", os.path.relpath(path / "model.npz") if path.is_relative_to(Path.cwd()) else str(path / "model.npz")),
        ("MLflow run", result.mlflow_run_id),
        ("view", view_command(stored, path) if stored else None),
    ]
    lines += [("note", remark) for remark in result.remarks]
    return [(name, value) for name, value in lines if value is not None]


def _epochs(result: Result) -> str:
    return counted(result.epochs, "epoch")


def _val_loss(result: Result) -> str | None:
    """Return the final validation loss, with the lowest one if that was another."""
    best = ""
    if result.best_val_loss is not None and result.best_val_loss != result.val_loss:
        best = f" (lowest: {result.best_val_loss:.4f}, after epoch {result.best_epoch:g})"
    return _number("{:.4f}" + best, result.val_loss)


def _accuracy(result: Result) -> str | None:
    """Return the accuracy beside that of a guess."""
    share = result.majority_share
    if result.val_accuracy is None or share is None:
        return _number("{:.4f}", result.val_accuracy)
    if result.val_accuracy <= share:
        return f"{result.val_accuracy:.4f}, no better than guessing the most frequent class: {share:.4f}"
    return f"{result.val_accuracy:.4f} (guessing the most frequent class: {share:.4f})"


def _recall(result: Result) -> list[tuple[str, str]]:
    """Return lines with the recall of the classes, several on each."""
    recall = result.recall or {}
    parts = [f"{_short(name)} {value:.2f}" for name, value in recall.items()]
    width = max(map(len, parts), default=1) + 3
    per_line = max(1, LINE_WIDTH // width)
    lines = ["".join(part.ljust(width) for part in parts[i : i + per_line]) for i in range(0, len(parts), per_line)]
    title = "recall" if result.held_out_classes == len(recall) else "worst recall"
    return [("" if number else title, line.rstrip()) for number, line in enumerate(lines)]


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


def print_summary(result: Result) -> None:
    """Print the table to standard output."""
    for name, value in summary(result):
        click.echo(f"{name:<12}  {value}")


def _number(form: str, value: float | None) -> str | None:
    return None if value is None else form.format(value)
