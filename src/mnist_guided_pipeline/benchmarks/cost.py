"""What an image costs: time against the number of images, the steps, the batch size and the size of the latent.

Time should be linear in images and steps. Small batches cost more an image, since each call of a network has a cost of
its own; the *knee* is the smallest batch at which an image costs at most a quarter more than at the best batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

from ..models.residual_mlp import ResidualMLPClassifier, ResidualMLPDenoiser
from ..pipeline import ClassifierGuidedLatentPipeline
from .timing import time_rounds

__all__ = ["IMAGES", "STEPS", "benchmark_cost", "knee"]

IMAGES = (1, 10, 100, 1000, 4000)
STEPS = (5, 10, 20, 40, 80)
_IMAGES = 200  # where images do not vary
_LATENTS = ((1, 7, 7), (2, 7, 7), (4, 7, 7), (8, 7, 7), (16, 7, 7))


def benchmark_cost(pipe: ClassifierGuidedLatentPipeline, rounds: int) -> dict[str, Any]:
    """Time a pipeline over images in one call, over steps, and over sizes of the latent.

    Args:
        pipe: on its device, at its own defaults.
        rounds: timed rounds of everything.

    Returns:
        A figure's record: a row a setting (images of one call are the batch size too), and the knee.
    """
    pipe.set_progress_bar_config(disable=True)
    rows: dict[str, dict[str, Any]] = {}
    timings = time_rounds({str(count): partial(_draw, pipe, count) for count in IMAGES}, rounds)
    for count in IMAGES:
        rows[f"images in one call: {count}"] = timings[str(count)].as_record(count)
    seconds = [timings[str(count)].median for count in IMAGES]
    timings = time_rounds({str(count): partial(_draw, pipe, _IMAGES, count) for count in STEPS}, rounds)
    for count in STEPS:
        rows[f"steps: {count}"] = timings[str(count)].as_record(_IMAGES)
    sizes = {str(math.prod(shape)): _of_latent(shape).to(pipe.device) for shape in _LATENTS}
    timings = time_rounds({size: partial(_draw, network, _IMAGES) for size, network in sizes.items()}, rounds)
    for size in sizes:
        rows[f"numbers in a latent, not decoded: {size}"] = timings[size].as_record(_IMAGES)
    return {"rows": rows, "knee_batch_size": knee(IMAGES, seconds)}


def knee(batch_sizes: Sequence[int], seconds: Sequence[float]) -> int:
    """The smallest batch at which an image costs at most 1.25 times what it costs at the best batch."""
    cost = [time / size for size, time in zip(batch_sizes, seconds, strict=True)]
    return next(size for size, each in zip(batch_sizes, cost, strict=True) if each <= 1.25 * min(cost))


def _draw(pipe: ClassifierGuidedLatentPipeline, count: int, steps: int | None = None) -> None:
    labels = [index % 10 for index in range(count)]
    output = "latent" if pipe.vae is None else "pt"
    pipe(labels, num_inference_steps=steps, generator=torch.Generator().manual_seed(0), output_type=output)


def _of_latent(shape: tuple[int, ...]) -> ClassifierGuidedLatentPipeline:
    """Untrained networks of the default's size on latents of another shape; time does not depend on training."""
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False)
    torch.manual_seed(0)
    pipe = ClassifierGuidedLatentPipeline(
        None,
        ResidualMLPDenoiser(shape, hidden_size=512, num_layers=4, condition_dim=64).eval(),
        ResidualMLPClassifier(shape, hidden_size=320, num_layers=3, condition_dim=64).eval(),
        scheduler,
        sampling_defaults={"num_inference_steps": 20},
    )
    pipe.scheduler = pipe.make_scheduler(DPMSolverMultistepScheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe
