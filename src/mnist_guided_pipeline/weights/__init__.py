"""The shipped weights: small safetensors inside the package, usable with no network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..evaluation.judge import Judge
    from ..pipeline import ClassifierGuidedLatentPipeline

__all__ = ["DEFAULT_FOLDER", "JUDGE_FOLDER", "METRICS_FILE", "load_default", "load_judge"]

DEFAULT_FOLDER = Path(__file__).parent / "default"
JUDGE_FOLDER = Path(__file__).parent / "judge"
METRICS_FILE = Path(__file__).parent / "metrics.json"


def load_default(**options: Any) -> ClassifierGuidedLatentPipeline:
    """The pipeline that the package ships, trained on all of MNIST; the weights, stored in half precision, are widened.

    Args:
        options: of ``from_pretrained``, such as ``torch_dtype``.

    Returns:
        A ``ClassifierGuidedLatentPipeline``, in float32 where no type is given, on the CPU.
    """
    from ..pipeline import ClassifierGuidedLatentPipeline

    return ClassifierGuidedLatentPipeline.from_pretrained(str(DEFAULT_FOLDER), **options)


def load_judge() -> Judge:
    """The classifier that measures generated images and never guides them.

    Returns:
        A ``mnist_guided_pipeline.evaluation.judge.Judge`` on the CPU.
    """
    from ..evaluation.judge import load_judge  # transformers, for those who judge

    return load_judge()
