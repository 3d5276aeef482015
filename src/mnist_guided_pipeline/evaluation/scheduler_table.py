"""Every supported scheduler on one page: how exact it is, and what it makes of a trained pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tqdm.auto import tqdm

from ..sampling.schedulers import SUPPORTED, SchedulerSupport
from .judge import Judge
from .metrics import judge_fid
from .oracle import PLANE, even_noise, exact_pipeline, moment_errors
from .samples import SamplingSettings, draw_images

__all__ = ["measure_schedulers", "oracle_error"]

ORACLE_STEPS = (10, 25, 50)
PIPELINE_STEPS = (10, 25)
_ORACLE_SAMPLES = 4096


def oracle_error(name: str, steps: int, seed: int = 0, callback: Callable[..., Any] | None = None) -> float:
    """Error of guided sampling with exact networks.

    Args:
        name: of a supported scheduler; it is run with the first prediction type of its row.
        steps: of the scheduler.
        seed: of the noise.
        callback: ``callback_on_step_end`` of the pipeline, to see what a change of the rule does.

    Returns:
        The larger of the mean's error in standard deviations and the covariance's relative error, scale 1, against the
        exact p(x | y) of a two-dimensional mixture.
    """
    pipe = exact_pipeline(PLANE, name, SUPPORTED[name].prediction_types[0])
    samples = pipe(
        [1],
        _ORACLE_SAMPLES,
        guidance_scale=1.0,
        num_inference_steps=steps,
        latents=even_noise(_ORACLE_SAMPLES, PLANE.dim, seed),
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
        callback_on_step_end=callback,
    ).images
    return max(moment_errors(samples.numpy(), *PLANE.moments(1)))


def measure_schedulers(
    pipe: Any, judge: Judge, real_features: torch.Tensor, num_images: int = 1000, seed: int = 0, progress: bool = True
) -> dict[str, dict[str, Any]]:
    """Measure every supported scheduler.

    Args:
        pipe: a trained pipeline; schedulers of another noise law than its own get no figures of images.
        judge: scores the images.
        real_features: the judge's features (N, D) of real test images.
        num_images: images a setting, in equal parts of every class.
        seed: of the images.
        progress: show a progress bar.

    Returns:
        By scheduler: ``prediction_types``, ``stochastic``, ``oracle_error`` by steps, and where the pipeline can be run
        ``accuracy`` and ``judge_fid`` by steps.
    """
    possible = {found.__name__ for found in pipe.compatible_schedulers}
    table = {}
    for name, support in tqdm(SUPPORTED.items(), desc="schedulers", disable=not progress):
        row = _describe(support)
        row["oracle_error"] = {str(steps): oracle_error(name, steps, seed) for steps in ORACLE_STEPS}
        if name in possible:
            row |= {"accuracy": {}, "judge_fid": {}}
            for steps in PIPELINE_STEPS:
                settings = SamplingSettings(
                    num_images=num_images, seed=seed, scheduler=name, num_inference_steps=steps
                ).resolved(pipe)
                drawn = draw_images(pipe, settings, progress=False)
                judgement = judge(drawn.images())
                if drawn.labels is None:
                    raise ValueError("pipe draws no class, so its accuracy cannot be measured; give it a classifier.")
                right = judgement.probabilities.argmax(dim=1) == drawn.labels
                row["accuracy"][str(steps)] = right.float().mean().item()
                row["judge_fid"][str(steps)] = judge_fid(real_features, judgement.features)
        table[name.removesuffix("Scheduler")] = row
    return table


def _describe(support: SchedulerSupport) -> dict[str, Any]:
    predictions = [kind.removesuffix("_prediction") for kind in support.prediction_types]
    return {"prediction_types": predictions, "stochastic": support.stochastic}
