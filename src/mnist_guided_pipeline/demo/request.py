"""What a visitor of the demo asks for: checked, drawn, and shown as a command. Nothing here knows Gradio."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from PIL.Image import Image

from ..sampling.arguments import resolve_labels
from ..sampling.networks import sample_shape
from ..sampling.schedulers import check_steps
from ..seeding import keyed_generator
from .trace import Trace, Tracer, fresh_pipeline

LIMITS = {
    "images of each": (1, 16),
    "steps": (1, 100),
    "seed": (0, 2**31 - 1),
    "guidance scale": (0, 10),
    "classifier-free weight": (0, 5),
}
_WHOLE = ("images of each", "steps", "seed")
_MOST_IMAGES = 64  # in all: an answer within seconds on two cores


@dataclass(frozen=True)
class DemoSettings:
    """One row of images for each class, as ``mnist-guided generate`` draws them.

    Attributes:
        class_labels: class names, at least one.
        num_images: images of each class.
        scheduler: name of one of the pipeline's compatible schedulers.
        num_inference_steps: its steps.
        guidance_scale: how strongly the classifier guides.
        cfg_scale: classifier-free weight, 1 is off, 0 does not tell the denoiser the label.
        seed: of the random generators, one per image.

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
        values = self.num_images, self.num_inference_steps, self.seed, self.guidance_scale, self.cfg_scale
        for name, value in zip(LIMITS, values, strict=True):
            _check(name, value)
        if len(self.class_labels) * self.num_images > _MOST_IMAGES:
            raise ValueError(
                f"{len(self.class_labels)} digits with {self.num_images} images of each are more than {_MOST_IMAGES} "
                "images; choose fewer."
            )


def draw(pipe: Any, settings: DemoSettings, on_step: Callable[[int, int], None] | None = None) -> Trace:
    """Draw images and keep how they came about; the pipeline is only read, and several threads may call at once.

    ``on_step`` is called as ``on_step(steps done, steps in all)``.

    Raises:
        ValueError: settings that this pipeline or scheduler cannot follow.
    """
    rows = resolve_labels(settings.class_labels, pipe.id2label).tolist()
    steps, count, seed = int(settings.num_inference_steps), int(settings.num_images), int(settings.seed)
    own = settings.scheduler == type(pipe.scheduler).__name__
    fresh = fresh_pipeline(pipe, None if own else pipe.make_scheduler(settings.scheduler))
    check_steps(fresh.scheduler, steps)
    generators = [keyed_generator(seed, row, i) for row in range(len(rows)) for i in range(count)]
    shape = (len(generators), *sample_shape(pipe.denoiser))
    noise = randn_tensor(shape, generator=generators, device=pipe.device, dtype=torch.float32)
    with torch.no_grad():
        tracer = Tracer(fresh, noise, steps, on_step)
        latents = fresh(
            rows,
            num_images_per_label=count,
            guidance_scale=float(settings.guidance_scale),
            cfg_scale=float(settings.cfg_scale),
            num_inference_steps=steps,
            generator=generators,
            latents=noise,
            output_type="latent",
            callback_on_step_end=tracer,
            callback_on_step_end_tensor_inputs=["latents", "prediction"],
        ).images
        images = fresh.decode_latents(latents, "pil")
    return tracer.trace(images, [row for row in rows for _ in range(count)], latents)


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
        "" if settings.cfg_scale == pipe.sampling_defaults["cfg_scale"] else f"--cfg_scale {settings.cfg_scale:g}",
        f"--seed {int(settings.seed)}",
        "--output digits.png",
    ]
    return " ".join(["mnist-guided generate", *filter(None, options)])


def to_bytes(images: list[Image]) -> torch.Tensor:
    """Images of one size as uint8 (N, H, W) or, in colour, (N, 3, H, W), what the judge takes."""
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    return pixels if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()


def _check(name: str, value: Any) -> None:
    """A number within its limits."""
    low, high = LIMITS[name]
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
    if not fits or (name in _WHOLE and value != int(value)):
        got = "nothing" if value is None else f"{value:g}" if isinstance(value, float) else repr(value)
        kind = "a whole number" if name in _WHOLE else "a number"
        raise ValueError(f"{name.capitalize()} must be {kind} from {low} to {high}, got {got}.")
