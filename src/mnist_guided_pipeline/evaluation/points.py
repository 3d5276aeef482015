"""Samples of pipelines of points in the plane, and how far they are from their data."""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from ..data.points import PointSet
from ..seeding import keyed_generator
from .metrics import sliced_wasserstein

_DIRECTIONS = 256  # of the sliced Wasserstein distance


def draw_points(
    pipe: Any,
    data: PointSet,
    num_points: int,
    num_inference_steps: int | None,
    seed: int,
    guidance_scale: float | None,
) -> tuple[Tensor, Tensor]:
    """The class of each sample (N,), and normalised samples before the first step and after each (T + 1, N, 2)."""
    classes = torch.arange(len(data.class_names)).repeat_interleave(num_points // len(data.class_names))
    noise = torch.randn(len(classes), 2, generator=keyed_generator(seed, "noise"))
    steps = [noise]

    def keep(pipe: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append(tensors["latents"].float().cpu())
        return tensors

    guided = pipe.classifier is not None or pipe.denoiser_is_conditional
    pipe(
        classes if guided else None,
        num_images_per_label=1 if guided else len(classes),
        guidance_scale=guidance_scale,
        num_inference_steps=num_inference_steps,
        generator=torch.Generator(pipe.device).manual_seed(seed),
        latents=noise,
        output_type="latent",
        callback_on_step_end=keep,
    )
    return classes, torch.stack(steps)


def real_points(data: PointSet, labels: Tensor, seed: int) -> Tensor:
    """Fresh real points (N, 2), normalised, of the classes (N,) that samples have."""
    return torch.cat([data.draw(label, int((labels == label).sum()), seed) for label in range(len(data.class_names))])


def measure_points(data: PointSet, samples: Tensor, labels: Tensor) -> dict[str, Any]:
    """A row of a table: how well samples (N, 2) of classes (N,) agree with the data, beside other real points.

    ``sliced_Wasserstein`` is the distance from real points of each class, a mean over classes, in standard deviations;
    ``in_the_wanted_class``, only where there are several, the part whose nearest real point is of their class.
    """

    def distance(points: Tensor) -> float:
        by_class = [points[labels == label].numpy() for label in range(len(data.class_names))]
        real = [data.draw(label, len(chosen), seed=0).numpy() for label, chosen in enumerate(by_class)]
        return sum(map(sliced_wasserstein, by_class, real, repeat(_DIRECTIONS))) / len(by_class)

    values: dict[str, Callable[[Tensor], float]] = {"sliced_Wasserstein": distance}
    if len(data.class_names) > 1:
        values["in_the_wanted_class"] = lambda points: (data.nearest_class(points) == labels).double().mean().item()
    row: dict[str, Any] = {"points": len(labels)}
    others = real_points(data, labels, seed=1)
    for name, value in values.items():
        row |= {name: value(samples), f"{name}, real points": value(others)}
    return row
