"""The shipped weights: small safetensors inside the package, usable with no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["DEFAULT_FOLDER", "JUDGE_FOLDER", "METRICS_FILE", "load_default"]

DEFAULT_FOLDER = Path(__file__).parent / "default"
JUDGE_FOLDER = Path(__file__).parent / "judge"
METRICS_FILE = Path(__file__).parent / "metrics.json"


def load_default() -> Any:
    """The pipeline that the package ships, trained on all of MNIST; the weights, stored in half precision, are widened.

    Returns:
        A ``ClassifierGuidedLatentPipeline`` in float32 on the CPU.
    """
    from ..pipeline import ClassifierGuidedLatentPipeline

    return ClassifierGuidedLatentPipeline.from_pretrained(str(DEFAULT_FOLDER))
