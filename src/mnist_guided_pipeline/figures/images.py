"""Pictures of pictures: labelled rows of images, and the plane of a two-dimensional latent space."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from numpy.typing import NDArray

from .style import INK, new_figure

__all__ = ["image_rows", "manifold", "manifold_coordinates"]

_GAP = 2  # pixels between two images
_INCHES = 0.55  # side of an image


def image_rows(
    rows: Sequence[NDArray[np.uint8]],
    row_labels: Sequence[str],
    column_labels: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Rows of images, each with its name at the left: originals over reconstructions, samples, interpolations.

    Args:
        rows: uint8 (N, H, W) each, of one shape, 0 is black.
        row_labels: a name a row; an empty one leaves its place blank.
        column_labels: a name a column, above the first row.
        title: above everything.

    Returns:
        A figure with one axes a row.

    Raises:
        ValueError: no rows, rows of different shapes, or as many labels as there are not rows or columns.
    """
    shapes = sorted({np.shape(row) for row in rows})
    if len(shapes) != 1 or len(shapes[0]) != 3:
        raise ValueError(f"rows must be one or more arrays (N, H, W) of one shape, got {shapes}.")
    count, height, width = shapes[0]
    if len(row_labels) != len(rows):
        raise ValueError(f"row_labels must be {len(rows)} names, a name a row, got {len(row_labels)}.")
    if column_labels is not None and len(column_labels) != count:
        raise ValueError(f"column_labels must be {count} names, a name a column, got {len(column_labels)}.")

    # places in inches: a layout engine does not foresee that the strips keep their proportions
    longest = max(TextPath((0, 0), label, size=9).get_extents().width if label.strip() else 0.0 for label in row_labels)
    left, right, gap = longest / 72 + 0.2, 0.08, 0.04
    top = 0.08 + 0.25 * bool(column_labels) + 0.3 * bool(title)
    strip_width, strip_height = _INCHES * (count + (count - 1) * _GAP / width), _INCHES * height / width
    total_width, total_height = left + strip_width + right, top + len(rows) * (strip_height + gap) + right
    figure = new_figure(total_width, total_height)
    figure.set_layout_engine("none")
    for index, (row, label) in enumerate(zip(rows, row_labels, strict=True)):
        bottom = total_height - top - (index + 1) * strip_height - index * gap
        axes = figure.add_axes(
            (
                left / total_width,
                bottom / total_height,
                strip_width / total_width,
                strip_height / total_height,
            )
        )
        strip = np.full((height, count * (width + _GAP) - _GAP), 255, dtype=np.uint8)
        for column, image in enumerate(row):
            strip[:, column * (width + _GAP) : column * (width + _GAP) + width] = image
        axes.imshow(strip, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="equal")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9, color=INK)
    if column_labels is not None:
        first = figure.axes[0]
        first.set_xticks([column * (width + _GAP) + width / 2 for column in range(count)], column_labels, fontsize=8)
        first.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0, labelcolor=INK)
    if title:
        figure.suptitle(title, fontsize=10, color=INK, x=0.08 / total_width, y=1 - 0.06 / total_height, ha="left")
    return figure


def manifold_coordinates(count: int) -> NDArray[np.float64]:
    """Places that cut the standard Gaussian into ``count`` parts of equal probability, at the middle of each.

    The inverse of its distribution function at ``(i + 1/2) / count``, so that a grid of images shows every part of the
    latent space as often as the prior draws it (Kingma and Welling 2014, https://arxiv.org/abs/1312.6114, figure 4).

    Args:
        count: at least 1.

    Returns:
        Ascending (count,).
    """
    return np.array([NormalDist().inv_cdf((index + 0.5) / count) for index in range(count)])


def manifold(images: NDArray[np.uint8], coordinates: NDArray[np.float64]) -> Figure:
    """What the decoder makes of a square of latents.

    Args:
        images: uint8 (n, n, H, W): the row is the second latent dimension, upwards; the column the first.
        coordinates: latents of rows and columns (n,), ascending.

    Returns:
        A figure with one axes, its ticks in units of the latent.

    Raises:
        ValueError: the images are not n rows of n.
    """
    count = len(coordinates)
    if images.shape[:2] != (count, count):
        raise ValueError(f"images must be {count} rows of {count}, as there are coordinates, got {images.shape[:2]}.")
    _, _, height, width = images.shape
    picture = images[::-1].transpose(0, 2, 1, 3).reshape(count * height, count * width)
    side = max(3.0, 0.33 * count)
    figure = new_figure(side + 0.5, side + 0.5)
    axes = figure.subplots()
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    shown = np.unique(np.linspace(0, count - 1, min(count, 7)).round().astype(int))
    names = [f"{coordinates[index]:.2f}" for index in shown]
    axes.set_xticks((shown + 0.5) * width, names)
    axes.set_yticks((count - shown - 0.5) * height, names)
    axes.tick_params(colors=INK, labelsize=8, length=2)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("$z_1$, at equal steps of probability", fontsize=9, color=INK)
    axes.set_ylabel("$z_2$", fontsize=9, color=INK)
    return figure
