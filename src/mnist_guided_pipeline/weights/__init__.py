"""The shipped weights: small safetensors inside the package, usable with no network."""

from pathlib import Path

DEFAULT_FOLDER = Path(__file__).parent / "default"
JUDGE_FOLDER = Path(__file__).parent / "judge"
METRICS_FILE = Path(__file__).parent / "metrics.json"
