"""The shipped weights: small safetensors inside the package, usable with no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

__all__ = ["DEFAULT_FOLDER", "JUDGE_FOLDER", "load_default"]

DEFAULT_FOLDER = Path(__file__).parent / "default"
JUDGE_FOLDER = Path(__file__).parent / "judge"


def load_default(torch_dtype: torch.dtype = torch.float32) -> Any:
    """The pipeline that the package ships, trained on all of MNIST.

    The weights are stored in half precision and widened to ``torch_dtype``.

    Returns:
        A ``ClassifierGuidedLatentPipeline`` on the CPU.
    """
    from ..pipeline import ClassifierGuidedLatentPipeline

    return ClassifierGuidedLatentPipeline.from_pretrained(DEFAULT_FOLDER, torch_dtype=torch_dtype)
