"""Seconds from a cold command to its first image, and how much of them are imports."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .timing import time_rounds

__all__ = ["benchmark_cold_start"]


def benchmark_cold_start(rounds: int) -> dict[str, Any]:
    """Time new processes: imports alone, the help, and ``mnist-guided generate`` of one image.

    Args:
        rounds: timed rounds, after one that fills the system's file cache.

    Returns:
        A figure's record: a row a command, each a process of its own.

    Raises:
        subprocess.CalledProcessError: a command failed.
    """
    command = ("-m", "mnist_guided_pipeline", "generate")
    with tempfile.TemporaryDirectory() as folder:
        picture = str(Path(folder) / "image.png")
        generate = (*command, "--class_labels", "3", "--num_images_per_label", "1", "--output", picture, "--force")
        commands: dict[str, Sequence[str]] = {
            "import torch": ("-c", "import torch"),
            "import DiffusionPipeline from diffusers": ("-c", "from diffusers import DiffusionPipeline"),
            "import load_default": ("-c", "from mnist_guided_pipeline import load_default"),
            "mnist-guided generate --help": (*command, "--help"),
            "mnist-guided generate, one image": generate,
        }
        timings = time_rounds({name: partial(_run, words) for name, words in commands.items()}, rounds)
    rows = {
        name: {"seconds": timing.median, "fastest_round": timing.low, "slowest_round": timing.high}
        for name, timing in timings.items()
    }
    return {"rows": rows, "seconds_to_first_image": timings["mnist-guided generate, one image"].median}


def _run(words: Sequence[str]) -> None:
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
