"""A million images on many machines, planned from what was measured on one.

Image i of a set depends on its index and the seed alone (``evaluation/sampling.py``), so machines share nothing but the
folder that they write to. Processes share out whole files, so time falls as cores are added until there are as many as
files, or until starting a process counts.
"""

from __future__ import annotations

import math
from io import BytesIO
from typing import Any

from PIL import Image

__all__ = ["plan_images", "png_bytes"]

_CORES = (1, 16, 64, 256, 1024)
_UINT8_BYTES = 28 * 28


def plan_images(
    images_per_second_a_core: float,
    seconds_to_start: float,
    bytes_a_png: float,
    num_images: int = 1_000_000,
    cores: tuple[int, ...] = _CORES,
    images_a_file: int = 500,
) -> dict[str, Any]:
    """Time, cost and storage of many images.

    Args:
        images_per_second_a_core: of a process of one thread, all cores of the machine at work.
        seconds_to_start: of every process, from its command to its first image.
        bytes_a_png: mean size of an image as a PNG file.
        num_images: in all.
        cores: numbers of cores to plan for, a process each.
        images_a_file: ``chunk_size`` of ``draw_images``.

    Returns:
        A figure's record: ``rows``, one a number of cores, with the images of the busiest process, wall-clock minutes,
        core hours, the share of starting, and the size of all images as arrays and as PNG files.
    """
    rows = {}
    files = math.ceil(num_images / images_a_file)
    for count in cores:
        busiest = min(num_images, math.ceil(files / count) * images_a_file)
        seconds = seconds_to_start + busiest / images_per_second_a_core
        rows[f"{count:,} core{'s' if count > 1 else ''}"] = {
            "images_a_process": busiest,
            "minutes": seconds / 60,
            "core_hours": seconds * count / 3600,
            "share_spent_starting": f"{100 * seconds_to_start / seconds:.1f} %",
            "GB_as_uint8": num_images * _UINT8_BYTES / 1e9,
            "GB_as_PNG": num_images * bytes_a_png / 1e9,
        }
    return {"rows": rows, "num_images": num_images}


def png_bytes(images: list[Image.Image]) -> float:
    """Mean size of PIL images as PNG files, in bytes."""
    sizes = []
    for image in images:
        encoded = BytesIO()
        image.save(encoded, format="PNG", optimize=True)
        sizes.append(encoded.tell())
    return sum(sizes) / len(sizes)
