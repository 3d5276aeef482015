"""What a training run logs: ``history.jsonl`` in its folder, one JSON line per log event, and any tracker that is on.

Every line holds ``step``, the updates made, and named scalars. A run that resumes cuts what was logged after its
checkpoint, so the file of a run that was killed and resumed reads as if it had never stopped.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, on_main_process
from torch import Tensor

from ..storage.atomic import atomic_write

HISTORY_FILE = "history.jsonl"


class HistoryTracker(GeneralTracker):
    """Writes scalars to ``history.jsonl`` in the folder of a run, beside whichever other trackers are on."""

    name = "history"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self, folder: str | os.PathLike[str]):
        super().__init__()
        self.file = Path(folder) / HISTORY_FILE

    @property
    def tracker(self) -> Path:
        """The file."""
        return self.file

    @on_main_process
    def rewind(self, step: int) -> None:
        """Start the file, or keep of it what was logged up to ``step``."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_history(self.file.parent) if line["step"] <= step] if step else []
        atomic_write(self.file, "".join(json.dumps(line) + "\n" for line in kept))

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Append one line; values that are no numbers are left to other trackers."""
        numbers = {name: value for name, value in values.items() if isinstance(value, (int, float))}
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step} | numbers) + "\n")


def start_trackers(accelerator: Accelerator, project: str, settings: dict[str, Any], step: int = 0) -> None:
    """Open the accelerator's trackers; settings that a tracker cannot hold become text.

    ``step`` is the number of updates that the run has made before; the history is cut there.
    """
    plain = {
        name: value if isinstance(value, (bool, int, float, str)) else str(value) for name, value in settings.items()
    }
    accelerator.init_trackers(project, config=plain)
    for tracker in accelerator.trackers:
        if isinstance(tracker, HistoryTracker):
            tracker.rewind(step)


def takes_images(accelerator: Accelerator) -> bool:
    """Whether a tracker of this process takes images."""
    return accelerator.is_main_process and any(hasattr(tracker, "log_images") for tracker in accelerator.trackers)


def log_images(accelerator: Accelerator, name: str, images: Tensor, step: int) -> None:
    """Log images uint8 (N, H, W) or (N, 3, H, W) to every tracker that takes images."""
    channels = images if images.ndim == 4 else images.unsqueeze(1)
    stacked = channels.cpu().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()  # grids in TensorBoard are of RGB only
    for tracker in accelerator.trackers:
        if hasattr(tracker, "log_images"):
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({name: stacked}, step=step, **layout)


def read_history(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The log events of a run in order, ``step`` and named scalars each; none where there is no history.

    A line that a killed run left unfinished is left out.
    """
    file = Path(folder) / HISTORY_FILE
    if not file.is_file():
        return []
    events = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events


def training_seconds(folder: str | os.PathLike[str]) -> float | None:
    """Seconds that the updates took of a training, or of all steps of a pipeline's, summed over ``history.jsonl``.

    None where there is no history, as beside shipped weights.
    """
    folder = Path(folder)
    if (folder / "steps").is_dir():
        parts = [training_seconds(step) for step in sorted((folder / "steps").iterdir())]
        known = [seconds for seconds in parts if seconds is not None]
        return sum(known) if parts and len(known) == len(parts) else None
    timed = [line for line in read_history(folder) if "seconds_per_update" in line]
    ends = [0, *(line["step"] for line in timed)]
    seconds = [(line["step"] - start) * line["seconds_per_update"] for line, start in zip(timed, ends, strict=False)]
    return sum(seconds) if timed else None
