"""A run's description in MLflow, in Markdown: what is trained, and in the end how good it is."""

from __future__ import annotations

import hashlib

from distsgd.engine.spec import RunSpec
from distsgd.rundir.result import Result
from distsgd.tracking import naming

TAG = "mlflow.note.content"
"""The tag that MLflow shows as a run's description."""


DIGEST_TAG = "distsgd.note_digest"
"""Tag by which a description that somebody has edited is recognised: it is kept."""


def digest(text: str) -> str:
    """Return a short digest of a description."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def tags(text: str) -> dict[str, str]:
    """Return the tags of a description that is written here."""
    return {TAG: text, DIGEST_TAG: digest(text)}


def opening(spec: RunSpec) -> str:
    """Return what is trained on which rows, and the command."""
    net, data = spec.net, spec.data
    held_out = f" and {len(data.val):,} held-out" if data.val is not None else ""
    return (
        f"{net.features}-{net.hidden}-{net.classes} net ({net.size:,} parameters) on {len(data.train):,}{held_out} "
        f"rows of {spec.config.data.train}\n\n    {naming.command(spec.config)}\n"
    )


def ending(result: Result, opening: str) -> str:
    """Return the summary of a run that has ended, followed by what was written when it began."""
    trained = f"{result.steps:,} steps, {result.epochs:g} epochs, in {result.wall_s:.1f} s"
    if result.status != "FINISHED":
        trained = f"{result.status} after {trained}"
    return f"{_accuracy(result)}{trained}\n\n{opening}"


def _accuracy(result: Result) -> str:
    if result.val_accuracy is None:
        return ""
    share = result.majority_share
    beside = "" if share is None else f" (guessing the most frequent class: {share:.4f})"
    loss = "" if result.val_loss is None else f", validation loss {result.val_loss:.4f}"
    return f"**Validation accuracy {result.val_accuracy:.4f}**{beside}{loss}\n\n"
