"""The shipped weights: small safetensors inside the package, usable with no network."""

from pathlib import Path

__all__ = ["DEFAULT_FOLDER", "JUDGE_FOLDER", "METRICS_FILE"]

DEFAULT_FOLDER = Path(__file__).parent / "default"
JUDGE_FOLDER = Path(__file__).parent / "judge"
METRICS_FILE = Path(__file__).parent / "metrics.json"
