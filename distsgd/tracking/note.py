"""A run's description in MLflow, in Markdown: what is trained, and in the end how good it is."""

from __future__ import annotations

import hashlib

from distsgd.engine.spec import RunSpec
from distsgd.errors import counted
from distsgd.rundir.result import Result

TAG = "mlflow.note.content"
"""The tag that MLflow shows as a run's description."""


DIGEST_TAG = "distsgd.note_digest"
"""Tag by which a description that somebody has edited is recognised: it is kept."""


LONGEST = 5_000
"""Characters of a description; MLflow cuts longer ones, which would look like an edit then."""


def digest(text: str) -> str:
    """Return a short digest of a description."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def tags(text: str) -> dict[str, str]:
    """Return the tags of a description that is written here, cut if it is too long."""
    text = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return {TAG: text, DIGEST_TAG: digest(text)}


def opening(spec: RunSpec) -> str:
    """Return what is trained, and on how many rows, a line each; which ones, MLflow shows as data sets."""
    net, data = spec.net, spec.data
    held_out = f" and {len(data.val):,} held-out" if data.val is not None else ""
    return f"{net.widths} net ({counted(net.size, 'parameter')})\non {len(data.train):,}{held_out} rows"


def ending(result: Result, opening: str, picture: str | None) -> str:
    """Return the summary of a run that has ended, followed by what was written when it began.

    With a picture, given by its address, they stand beside it in a table, in five short lines: MLflow's page fades a
    description that is higher than 100 pixels, picture included, and this fits into 515 by 90.
    """
    trained = f"{counted(result.steps, 'step')}, {counted(result.epochs, 'epoch')}, in {result.wall_s:.1f} s"
    if result.status != "FINISHED":
        trained = f"{result.status} after {trained}"
    lines = [*_figures(result), trained, opening]
    if picture is None:
        return "\n\n".join(lines)
    beside = "<br>".join(line.replace("|", "&#124;").replace("\n", "<br>") for line in lines)
    return f"| | |\n|---|---|\n| {beside} | ![Validation loss and accuracy by epoch]({picture}) |\n"


def _figures(result: Result) -> list[str]:
    """Return the accuracy or R² on the held-out rows, and what it is to be compared with."""
    if result.val_r2 is not None:
        return [f"**Validation R² {result.val_r2:.4f}**", f"mean squared error {result.val_mse:.6g}"]
    if result.val_accuracy is None:
        return []
    share = "" if result.majority_share is None else f"guessing: {result.majority_share:.4f}"
    loss = "" if result.val_loss is None else f"val loss {result.val_loss:.4f}"
    return [f"**Validation accuracy {result.val_accuracy:.4f}**", ", ".join(filter(None, (share, loss)))]
