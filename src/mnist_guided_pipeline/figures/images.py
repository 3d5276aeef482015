"""Pictures of many images: rows with a name each, and the plane of a two-dimensional latent space."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..storage.atomic import atomic_write

_INK = 40
_HOLD = 1.5  # seconds that a film rests on its last frame


def image_rows(
    rows: Sequence[Any] | NDArray[np.uint8],
    row_labels: Sequence[str],
    column_labels: Sequence[str] | None = None,
    gap: int = 2,
) -> Image.Image:
    """Lay out images in rows on white, the name of each row at its left, and names of the columns above the first row.

    The images of all rows are of one size and kind, as many in each: grey or RGB ``PIL`` images or uint8 arrays (H, W),
    (H, W, 3) or (3, H, W), 0 is black. They are shown at twice their size, ``gap`` of their pixels apart.
    """
    tiles = [[_channels_last(np.asarray(image)) for image in row] for row in rows]
    shapes = {image.shape for row in tiles for image in row}
    if len(shapes) != 1 or len({len(row) for row in tiles}) != 1:
        raise ValueError(
            f"rows must hold equally many images of one size, got {[len(row) for row in tiles]} images of the sizes "
            f"{sorted(shapes)}."
        )
    columns = len(tiles[0])
    height, width = (2 * side for side in tiles[0][0].shape[:2])
    across, down, margin = width + 2 * gap, height + 2 * gap, 16
    size = max(10, round(0.45 * height))
    font = ImageFont.load_default(size)
    label_width = round(max(font.getlength(label) for label in row_labels))
    left, top = margin + label_width + margin, margin
    if column_labels is not None:
        widest = max(1, *(font.getlength(label) for label in column_labels))
        small_size = min(size, max(6, 0.9 * size * width / widest))
        small = ImageFont.load_default(small_size)
        top += round(1.5 * small_size)

    first = Image.fromarray(tiles[0][0])
    sheet = Image.new(
        first.mode,
        (left + columns * across - 2 * gap + margin, top + len(tiles) * down - 2 * gap + margin),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    ink = (_INK,) * len(first.getbands())
    for row, (images, label) in enumerate(zip(tiles, row_labels, strict=True)):
        draw.text((margin + label_width, top + row * down + height // 2), label, fill=ink, font=font, anchor="rm")
        for column, image in enumerate(images):
            enlarged = Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (left + column * across, top + row * down))
    for column, label in enumerate(column_labels or ()):
        draw.text((left + column * across + width // 2, top - 4), label, fill=ink, font=small, anchor="ms")
    return sheet


def _channels_last(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image.transpose(1, 2, 0) if image.ndim == 3 and image.shape[0] == 3 else image


def manifold_coordinates(count: int) -> NDArray[np.float64]:
    """Ascending places (count,) that are the middles of parts of equal probability of the standard Gaussian.

    The inverse of its distribution function at ``(i + 1/2) / count``, so that a grid of images shows every part of the
    latent space as often as the prior draws it (Kingma and Welling 2014, https://arxiv.org/abs/1312.6114, figure 4).
    """
    return np.array([NormalDist().inv_cdf((index + 0.5) / count) for index in range(count)])


def manifold(images: NDArray[np.uint8], coordinates: NDArray[np.float64]) -> Image.Image:
    """What the decoder makes of a square of latents, its rows and columns named by their ``coordinates`` (n,).

    ``images`` are uint8 (n, n, H, W) or (n, n, 3, H, W): the row is the second latent dimension, upwards; the column
    the first.
    """
    names = [f"{coordinate:.2f}" for coordinate in coordinates]
    return image_rows(images[::-1], names[::-1], names, gap=0)


def save_figure(figure: Any, output: Path) -> None:
    """Write a figure of matplotlib, which needs no display, or a picture of Pillow; whole, in the suffix's format."""
    if not isinstance(figure, Image.Image):
        figure.savefig(drawn := BytesIO(), format="png")
        figure = Image.open(drawn).convert("RGB")
    encoded = BytesIO()
    figure.save(encoded, format=Image.registered_extensions()[output.suffix.lower()])
    atomic_write(output, encoded.getvalue())


def save_film(frames: Sequence[Image.Image], output: Path, fps: int) -> None:
    """Write frames as a GIF whose last one stays a moment longer; whole."""
    durations = [1000 // fps] * (len(frames) - 1) + [round(1000 * (1 / fps + _HOLD))]
    frames[0].save(encoded := BytesIO(), "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    atomic_write(output, encoded.getvalue())
