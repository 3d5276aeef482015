"""What the commands that draw share: checks before the work, and saving a figure whole."""

from __future__ import annotations

from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

from .options import check_picture, picture_format

__all__ = ["check_figure", "check_packages", "save_figure"]


def check_figure(output: Path, force: bool, *, needs: tuple[str, ...] = ("matplotlib",), extra: str = "plots") -> None:
    """A new picture, or any with ``--force``, and the packages that draw it.

    Args:
        output: picture to write.
        force: overwrite it.
        needs: packages, by the name they are imported by.
        extra: extra of this package that brings them.
    """
    check_picture(output, force)
    check_packages(needs, extra)


def check_packages(needs: tuple[str, ...], extra: str) -> None:
    """All packages are there, by the name they are imported by; ``extra`` of this package brings them."""
    missing = [package for package in needs if find_spec(package) is None]
    if missing:
        raise ValueError(f"this figure needs {', '.join(missing)}: pip install 'mnist-guided-pipeline[{extra}]'.")


def save_figure(figure: Any, output: Path) -> None:
    """Draw a matplotlib figure without a display, and write it in one rename, in the format of the suffix."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    from ..storage.atomic import atomic_write

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    encoded = BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(encoded, format=picture_format(output))
    atomic_write(output, encoded.getvalue())
