"""Frames to a moving picture: GIF by Pillow, MP4 by imageio with the ffmpeg that imageio-ffmpeg brings."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["check_animation_format", "encode_animation"]


def check_animation_format(file: Path) -> None:
    """Refuse what :func:`encode_animation` cannot make.

    Raises:
        ValueError: the suffix is neither .gif nor .mp4, or a package that makes MP4 is missing.
    """
    suffix = file.suffix.lower()
    if suffix not in (".gif", ".mp4"):
        raise ValueError(f"--output {str(file)!r} must end in .gif or .mp4.")
    missing = [package for package in ("imageio", "imageio_ffmpeg") if find_spec(package) is None]
    if suffix == ".mp4" and missing:
        raise ValueError(
            f"an .mp4 needs {' and '.join(missing)}: pip install 'mnist-guided-pipeline[animation]', or write a .gif."
        )


def encode_animation(frames: Sequence[NDArray[np.uint8]], suffix: str, fps: int, hold: float = 1.5) -> bytes:
    """The bytes of a moving picture.

    Args:
        frames: uint8 (height, width, 3), of one size; for MP4 its sides must be multiples of 16.
        suffix: ``".gif"`` or ``".mp4"``.
        fps: frames a second; a GIF counts in hundredths of a second.
        hold: seconds that the last frame stays: a GIF shows it longer, an MP4 repeats it.
    """
    if suffix == ".gif":
        images = [Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE) for frame in frames]
        durations = [round(100 / fps) * 10] * (len(images) - 1) + [round(hold * 1000)]
        encoded = BytesIO()
        images[0].save(encoded, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)
        return encoded.getvalue()
    import imageio.v2

    with tempfile.TemporaryDirectory() as folder:  # ffmpeg writes to a file that it can seek in
        file = Path(folder) / "animation.mp4"
        writer: Any  # imageio types it as its base class, which has no append_data
        with imageio.v2.get_writer(file, format="FFMPEG", fps=fps, codec="libx264", quality=8) as writer:
            for frame in [*frames, *[frames[-1]] * round(hold * fps)]:
                writer.append_data(frame)
        return file.read_bytes()
