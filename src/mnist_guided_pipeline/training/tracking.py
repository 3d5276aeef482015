"""Scalars and images to whichever tracker is on, through Accelerate."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from torch import Tensor

from .history import HistoryTracker

__all__ = ["log_images", "start_trackers", "takes_images"]


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
    """Log images uint8 (N, 28, 28) to every tracker that takes images."""
    stacked = images.cpu()[..., None].expand(-1, -1, -1, 3).numpy()  # TensorBoard draws grids of RGB images only
    for tracker in accelerator.trackers:
        if hasattr(tracker, "log_images"):
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({name: stacked}, step=step, **layout)
