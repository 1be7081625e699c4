"""Pictures of an evaluation: confusion matrix, reliability diagram, first-layer weights. It imports matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from distsgd.system.files import write_atomically

NUMBERED = 20
"""Maximum number of classes for which the matrix has numbers and names."""

UNITS = 64
"""Hidden units whose weights are shown: those of largest norm."""

Image = NDArray[np.float32]


def draw_confusion_matrix(matrix: Sequence[Sequence[float]], classes: Sequence[Any], path: Path) -> None:
    """Write the share of each true class (rows) that is predicted as each class (columns), with counts if few."""
    counts = np.array(matrix, np.float64)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-300)
    few = len(classes) <= NUMBERED
    side = 2.2 + 0.42 * len(classes) if few else 7.0
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot(xlabel="predicted class", ylabel="true class")
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axes, label="share of the true class's rows", shrink=0.8)
    if few:
        names = [_literal(str(label)[:20]) for label in classes]
        axes.set_xticks(range(len(classes)), names, rotation=90 if max(map(len, names)) > 3 else 0)
        axes.set_yticks(range(len(classes)), names)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, f"{count:g}", ha="center", va="center", color=colour, fontsize=8)
    _save(figure, path)


def draw_reliability(bins: Sequence[Mapping[str, Any]], ece: float, path: Path) -> None:
    """Write accuracy against confidence, which lie on the diagonal if probabilities are calibrated, and the rows."""
    figure = Figure(figsize=(5, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    width = bins[0]["to"] - bins[0]["from"]
    left = [b["from"] for b in bins]
    upper.bar(left, [b["accuracy"] or 0 for b in bins], width, align="edge", color="#8ab4d8", edgecolor="white")
    filled = [b for b in bins if b["weight"]]
    points = ([b["confidence"] for b in filled], [b["accuracy"] for b in filled])
    upper.plot(*points, "o-", color="#c44e52", markersize=4, linewidth=1, label="this model")
    upper.plot([0, 1], [0, 1], "--", color="#888888", linewidth=1, label="calibrated")
    upper.set(ylabel="accuracy", ylim=(0, 1), xlim=(0, 1), title=f"expected calibration error {ece:.4f}")
    upper.legend(loc="upper left")
    lower.bar(left, [b["rows"] for b in bins], width, align="edge", color="#b0b0b0", edgecolor="white")
    lower.set(ylabel="rows", xlabel="confidence: the largest probability of a row")
    _save(figure, path)


def image_shape(features: int) -> tuple[int, int, int] | None:
    """Return height, width and colours (1 or 3) of square images with so many values; None if there are none such."""
    for colours in (1, 3):
        side = math.isqrt(features // colours)
        if side >= 5 and side * side * colours == features:
            return side, side, colours
    return None


def draw_first_layer(W: NDArray[np.float32], shape: tuple[int, int, int], titles: Sequence[str], path: Path) -> None:
    """Write the weights of units, the columns of W (D, K), as images; `titles` (K,) are shown if there are few.

    Weights of grey images are red above 0 and blue below, each unit on a scale of its own. Of colour images, planes of
    one colour after another and pixels of three colours are told apart by which gives smoother images.
    """
    shown = np.sort(np.argsort(-np.linalg.norm(W, axis=0), kind="stable")[:UNITS])
    images = [_image(W[:, unit], shape, planar=_is_planar(W, shape)) for unit in shown.tolist()]
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(1.1 * columns, 1.2 * rows), layout="constrained")
    grid: NDArray[Any] = figure.subplots(rows, columns, squeeze=False)
    for number, axes in enumerate(grid.ravel()):
        axes.set_axis_off()
        if number < len(images):
            _show(axes, images[number], _literal(titles[shown[number]][:12]) if len(images) <= NUMBERED else "")
    omitted = f", the {len(images)} of largest norm of {W.shape[1]}" if len(images) < W.shape[1] else ""
    figure.suptitle(f"weights of the first layer{omitted}", fontsize=9)
    _save(figure, path)


def _show(axes: Axes, image: Image, title: str) -> None:
    if image.ndim == 2:
        largest = float(np.abs(image).max()) or 1.0
        axes.imshow(image, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
    else:
        low, high = float(image.min()), float(image.max())
        axes.imshow((image - low) / ((high - low) or 1.0), interpolation="nearest")
    axes.set_title(title, fontsize=7, pad=2)


def _image(weights: Image, shape: tuple[int, int, int], *, planar: bool) -> Image:
    height, width, colours = shape
    if colours == 1:
        return weights.reshape(height, width)
    if planar:
        return weights.reshape(colours, height, width).transpose(1, 2, 0)
    return weights.reshape(height, width, colours)


def _is_planar(W: NDArray[np.float32], shape: tuple[int, int, int]) -> bool:
    """Return whether neighbours differ less if features are planes of one colour after another."""
    if shape[2] == 1:
        return False
    roughness = []
    for planar in (True, False):
        images = [_image(W[:, unit], shape, planar=planar) for unit in range(W.shape[1])]
        roughness.append(sum(float(np.abs(np.diff(image, axis=1)).mean()) for image in images))
    return roughness[0] <= roughness[1]


def _literal(text: str) -> str:
    """Return a text that matplotlib does not take for mathematics."""
    return text.replace("$", r"\$")


def _save(figure: Figure, path: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    write_atomically(path, content.getvalue(), private=True)
