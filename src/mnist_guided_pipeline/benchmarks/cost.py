"""What an image costs: time against the number of images, the steps, the size of the latent and the batch size.

Time should be a line in images, steps and latent size: a fixed cost and a cost a unit. Small batches cost more,
since each call of a network has a cost of its own; the *knee* is the smallest batch at which an image costs at most a
quarter more than at the best batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

from ..models.residual_mlp import ResidualMLPClassifier, ResidualMLPDenoiser
from ..storage.pipelines import ClassifierGuidedLatentPipeline
from .timing import Timing, time_rounds
from .workers import draw

__all__ = ["CostGrid", "LineFit", "benchmark_cost", "fit_line", "knee"]

_TOLERANCE = 1.25


@dataclass(frozen=True)
class CostGrid:
    """Where cost is measured.

    Attributes:
        images: numbers of images, drawn ``batch_size`` at a time.
        batch_size: of those.
        steps: numbers of steps.
        latents: shapes of the latent.
        batch_sizes: images of one call, from few to many.
        num_images: images of a call where steps or latents vary.
    """

    images: tuple[int, ...] = (500, 1000, 2000, 4000)
    batch_size: int = 500
    steps: tuple[int, ...] = (5, 10, 20, 40, 80)
    latents: tuple[tuple[int, ...], ...] = ((1, 7, 7), (4, 7, 7), (8, 7, 7), (16, 7, 7), (32, 7, 7))
    batch_sizes: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
    num_images: int = 200


@dataclass(frozen=True)
class LineFit:
    """Seconds as a line in what was varied.

    Attributes:
        fixed: seconds at zero.
        each: seconds a unit.
        residual: the largest distance of a point from the line, as a share of the line.
    """

    fixed: float
    each: float
    residual: float


def benchmark_cost(pipe: ClassifierGuidedLatentPipeline, rounds: int, grid: CostGrid = CostGrid()) -> dict[str, Any]:
    """Time a pipeline over images, steps and batch sizes, and networks of its kind over sizes of the latent.

    Args:
        pipe: on its device, at its own defaults.
        rounds: timed rounds of everything, all of it in turn.
        grid: where to measure.

    Returns:
        A figure's record: ``rows``, one for each thing that is varied, with the line that fits or the knee; and
        ``points``, what was measured: x, and the median, fastest and slowest seconds, of ``images`` images each.
    """
    pipe.set_progress_bar_config(disable=True)
    sizes = {math.prod(shape): _of_latent(shape).to(pipe.device) for shape in grid.latents}
    count = grid.num_images
    tasks = {
        "images": {n: partial(draw, pipe, n, grid.batch_size) for n in grid.images},
        "steps": {steps: partial(draw, pipe, count, count, steps) for steps in grid.steps},
        "numbers in a latent": {size: partial(draw, network, count, count) for size, network in sizes.items()},
        "images at a time": {size: partial(draw, pipe, size, size) for size in grid.batch_sizes},
    }
    timings = time_rounds({(name, x): task for name, axis in tasks.items() for x, task in axis.items()}, rounds)
    points = {name: _points([(x, timings[name, x]) for x in axis]) for name, axis in tasks.items()}
    rows: dict[str, dict[str, Any]] = {}
    for name, axis in points.items():
        rows[name] = {"from": min(axis["x"]), "to": max(axis["x"])}
        if name == "images at a time":
            best = min(time / size for size, time in zip(axis["x"], axis["seconds"], strict=True))
            rows[name] |= {"milliseconds_each": 1e3 * best, "knee": knee(axis["x"], axis["seconds"])}
        else:
            fit = fit_line(axis["x"], axis["seconds"])
            rows[name] |= {"fixed_milliseconds": 1e3 * fit.fixed, "milliseconds_each": 1e3 * fit.each}
            rows[name]["farthest_from_the_line"] = f"{100 * fit.residual:.1f} %"
    return {"rows": rows, "points": points}


def fit_line(x: Sequence[float], seconds: Sequence[float]) -> LineFit:
    """The line with the least squared relative error, so that small values count as much as large ones.

    Args:
        x: at least two different values.
        seconds: positive, one each.
    """
    values, times = np.asarray(x, dtype=float), np.asarray(seconds, dtype=float)
    each, fixed = np.polyfit(values, times, 1, w=1 / times)
    line = fixed + each * values
    return LineFit(float(fixed), float(each), float(np.max(np.abs(times / line - 1))))


def knee(batch_sizes: Sequence[int], seconds: Sequence[float]) -> int:
    """The smallest batch at which an image costs at most 1.25 times what it costs at the best batch."""
    cost = [time / size for size, time in zip(batch_sizes, seconds, strict=True)]
    return next(size for size, each in zip(batch_sizes, cost, strict=True) if each <= _TOLERANCE * min(cost))


def _points(measured: list[tuple[int, Timing]]) -> dict[str, list[Any]]:
    return {
        "x": [x for x, _ in measured],
        "seconds": [timing.median for _, timing in measured],
        "fastest_round": [timing.low for _, timing in measured],
        "slowest_round": [timing.high for _, timing in measured],
    }


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
