"""What a visitor of the demo asks for: checked, drawn, and told as a command. Nothing here knows Gradio."""

from __future__ import annotations

import inspect
import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from PIL.Image import Image

from ..sampling.schedulers import SUPPORTED
from ..seeding import keyed_generator
from .trace import Trace, fresh_pipeline, trace_sampling

__all__ = ["LIMITS", "DemoSettings", "command_line", "draw", "to_bytes"]

LIMITS = {
    "images of each": (1, 16),
    "steps": (1, 100),
    "seed": (0, 2**31 - 1),
    "guidance scale": (0.0, 10.0),
    "classifier-free weight": (0.0, 5.0),
}
_MOST_IMAGES = 64  # in all: an answer within seconds on two cores
_FEWEST_STEPS = {"PNDMScheduler": 4}


@dataclass(frozen=True)
class DemoSettings:
    """One row of images for each class, as ``mnist-guided generate`` draws them.

    Attributes:
        class_labels: class names, at least one.
        num_images: images of each class.
        scheduler: name of one of the pipeline's compatible schedulers.
        num_inference_steps: its steps.
        guidance_scale: how strongly the classifier guides.
        cfg_scale: classifier-free weight, 1 is off.
        seed: of the random generators, one an image.

    Raises:
        ValueError: a value that is missing or out of bounds; the message says what would do.
    """

    class_labels: tuple[str, ...]
    num_images: int
    scheduler: str
    num_inference_steps: int
    guidance_scale: float
    cfg_scale: float
    seed: int

    def __post_init__(self) -> None:
        if not self.class_labels:
            raise ValueError("Choose at least one digit.")
        value: float
        whole = {"images of each": self.num_images, "steps": self.num_inference_steps, "seed": self.seed}
        for name, value in whole.items():
            low, high = LIMITS[name]
            if not _is_number(value) or value != int(value) or not low <= value <= high:
                raise ValueError(
                    f"{name.capitalize()} must be a whole number from {low} to {high}, got {_told(value)}."
                )
        for name, value in (("guidance scale", self.guidance_scale), ("classifier-free weight", self.cfg_scale)):
            low, high = LIMITS[name]
            if not _is_number(value) or not low <= value <= high:
                raise ValueError(f"{name.capitalize()} must be a number from {low:g} to {high:g}, got {_told(value)}.")
        if len(self.class_labels) * self.num_images > _MOST_IMAGES:
            raise ValueError(
                f"{len(self.class_labels)} digits with {self.num_images} images of each are more than {_MOST_IMAGES} "
                "images; choose fewer."
            )


def draw(pipe: Any, settings: DemoSettings, on_step: Callable[[int, int], None] | None = None) -> Trace:
    """Draw images and keep how they came about; safe in several threads at once.

    Args:
        pipe: it is only read.
        settings: what to draw.
        on_step: called as ``on_step(steps done, steps in all)``.

    Raises:
        ValueError: settings that this pipeline or scheduler cannot follow.
    """
    names = {name: index for index, name in pipe.id2label.items()}
    unknown = [name for name in settings.class_labels if name not in names]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not a class of this model; its classes are {', '.join(names)}.")
    rows = [names[name] for name in settings.class_labels]
    steps, count, seed = int(settings.num_inference_steps), int(settings.num_images), int(settings.seed)
    fewest = _FEWEST_STEPS.get(settings.scheduler, 1)
    if steps < fewest:
        raise ValueError(f"{settings.scheduler} needs at least {fewest} steps, got {steps}.")
    fresh = fresh_pipeline(pipe, _scheduler(pipe, settings.scheduler, seed))
    try:
        return trace_sampling(
            fresh,
            rows,
            count,
            [keyed_generator(seed, row, i) for row in range(len(rows)) for i in range(count)],
            guidance_scale=float(settings.guidance_scale),
            cfg_scale=float(settings.cfg_scale),
            num_inference_steps=steps,
            on_step=on_step,
        )
    except (IndexError, RuntimeError) as error:  # some schedulers break on their own tables in very few steps
        raise ValueError(
            f"{settings.scheduler} failed in {steps} steps ({error}). Take more steps, or another scheduler."
        ) from error


def command_line(pipe: Any, settings: DemoSettings, model: str | None = None) -> str:
    """The line for a terminal that draws the same images with the pipeline from ``model``, the shipped one if None."""
    own = settings.scheduler == type(pipe.scheduler).__name__
    options = [
        f"--model {shlex.quote(model)}" if model else "",
        f"--class_labels {shlex.join(settings.class_labels)}",
        f"--num_images_per_label {int(settings.num_images)}",
        "" if own else f"--scheduler {settings.scheduler}",
        f"--num_inference_steps {int(settings.num_inference_steps)}",
        f"--guidance_scale {settings.guidance_scale:g}",
        "" if settings.cfg_scale == 1 else f"--cfg_scale {settings.cfg_scale:g}",
        f"--seed {int(settings.seed)}",
        "--output digits.png",
    ]
    return " ".join(["mnist-guided generate", *filter(None, options)])


def to_bytes(images: list[Image]) -> torch.Tensor:
    """Grey images of 28x28 as uint8 (N, 28, 28), what the judge takes."""
    pixels = [torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(28, 28) for image in images]
    return torch.stack(pixels)


def _scheduler(pipe: Any, name: str, seed: int) -> Any | None:
    """The named scheduler; None for the pipeline's own, whose options are kept."""
    if name == type(pipe.scheduler).__name__:
        return None
    if name not in SUPPORTED:
        raise ValueError(f"Scheduler {name!r} is not supported; choose one of the list.")
    scheduler_class = getattr(diffusers, name)
    if "noise_sampler_seed" in inspect.signature(scheduler_class).parameters:  # its noise ignores generators
        return pipe.make_scheduler(scheduler_class, noise_sampler_seed=seed)
    return pipe.make_scheduler(scheduler_class)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _told(value: Any) -> str:
    return "nothing" if value is None else f"{value:g}" if isinstance(value, float) else repr(value)
