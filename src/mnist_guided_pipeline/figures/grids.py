"""Many small images in one picture: a row a label, its name at the left."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

__all__ = ["labelled_grid"]

_WHITE, _INK = 255, 40


def labelled_grid(images: Sequence[Image.Image], row_labels: Sequence[str], scale: int = 2) -> Image.Image:
    """Lay out images in equal rows, each with its label at the left, on white.

    Args:
        images: grey images of one size, row by row; as many as labels, or a multiple of that.
        row_labels: the name of each row.
        scale: whole-number magnification; pixels stay sharp squares.

    Returns:
        A new picture of mode L.

    Raises:
        ValueError: no labels, images that do not fill the rows or differ in size, or a scale below 1.
    """
    if not row_labels or not images or len(images) % len(row_labels):
        raise ValueError(f"{len(images)} images do not fill {len(row_labels)} rows; give as many for each row.")
    if scale < 1:
        raise ValueError(f"scale must be a whole number of at least 1, got {scale}.")
    sizes = sorted({image.size for image in images})
    if len(sizes) > 1:
        raise ValueError(f"images must have one size, got {', '.join(f'{w}x{h}' for w, h in sizes)}.")

    columns = len(images) // len(row_labels)
    width, height = (scale * side for side in sizes[0])
    gap, margin = 2 * scale, 8 * scale
    font = ImageFont.load_default(size=max(10, round(0.45 * height)))
    label_width = round(max(font.getlength(label) for label in row_labels))
    left = margin + label_width + margin
    grid = Image.new(
        "L",
        (left + columns * (width + gap) - gap + margin, 2 * margin + len(row_labels) * (height + gap) - gap),
        _WHITE,
    )
    draw = ImageDraw.Draw(grid)
    for row, label in enumerate(row_labels):
        top = margin + row * (height + gap)
        draw.text((margin + label_width, top + height // 2), label, fill=_INK, font=font, anchor="rm")
        for column in range(columns):
            image = images[row * columns + column].convert("L").resize((width, height), Image.Resampling.NEAREST)
            grid.paste(image, (left + column * (width + gap), top))
    return grid
