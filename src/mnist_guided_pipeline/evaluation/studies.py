r"""Studies: what is varied, what stays, and the table that is filed.

The studies of sampling vary one setting of a pipeline that is there; all else, the noise of every image included, is
the same. ``mean-only`` leaves out the stochastic part of DDPM. Its step draws (Ho et al. 2020,
https://arxiv.org/abs/2006.11239, equation 7)

    z_{t-1} = mu + sigma_t eps,
    mu = (sqrt(abar_{t-1}) beta_t x0 + sqrt(alpha_t) (1 - abar_{t-1}) z_t) / (1 - abar_t),

and without ``sigma_t eps`` every step goes to the mean of a distribution instead of into it: variance is lost at each
of them and never put back. It is no deterministic sampler. That is DDIM with eta 0, whose step keeps the variance by
another coefficient of the predicted noise (Song et al. 2021, https://arxiv.org/abs/2010.02502, equation 12).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from ..data.images import LabelledImages
from ..storage.places import public_name
from ..weights import JUDGE_FOLDER
from .fingerprints import fingerprint
from .judge import Judge
from .records import machine, versions, write_run
from .run import Bench, measure_runs
from .samples import SamplingSettings

__all__ = [
    "check_judge",
    "eta_runs",
    "file_table",
    "mean_only_scheduler",
    "measure_mean_only",
    "measure_spacings",
    "scale_runs",
]

MEAN_ONLY = "study-mean-only"
SPACING = "study-spacing"

SPACINGS: dict[str, dict[str, Any]] = {
    "trailing": {},
    "linspace": {"timestep_spacing": "linspace"},
    "leading": {"timestep_spacing": "leading"},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "lu": {"use_lu_lambdas": True},
}
"""Where the steps of DPM-Solver++ lie, as options of its scheduler; ``trailing`` is what ``make_scheduler`` gives."""


def check_judge(judge: Judge, class_names: Sequence[str]) -> None:
    """Refuse a judge of other classes, before the work.

    Raises:
        ValueError: naming both sets of classes.
    """
    if judge.class_names != tuple(class_names):
        raise ValueError(
            f"The judge names the classes {', '.join(judge.class_names)}, the data set {', '.join(class_names)}: give "
            "a judge that was trained on this data set."
        )


def eta_runs(
    base: SamplingSettings, etas: Sequence[float], steps: Sequence[int], name: str = "study-eta"
) -> dict[str, SamplingSettings]:
    """DDIM with more and more noise, in few steps and in many: eta 0 is deterministic, 1 has the variance of DDPM."""
    return {
        f"{name}/num_inference_steps={count},eta={eta:g}": replace(
            base, scheduler="DDIMScheduler", num_inference_steps=count, eta=eta
        )
        for count in steps
        for eta in etas
    }


def scale_runs(
    base: SamplingSettings, scales: Sequence[float], cfg_scales: Sequence[float], name: str = "study-scale"
) -> dict[str, SamplingSettings]:
    """Guidance scales by classifier-free weight: 0 leaves the labels to the classifier, 1 tells the denoiser too."""
    return {
        f"{name}/cfg_scale={cfg:g},guidance_scale={scale:g}": replace(base, guidance_scale=scale, cfg_scale=cfg)
        for cfg in cfg_scales
        for scale in scales
    }


def mean_only_scheduler(pipe: Any) -> DDPMScheduler:
    """DDPM whose steps go to the mean of their distribution; ``adds_noise`` in its config tells it from DDPM."""
    scheduler = pipe.make_scheduler(DDPMScheduler)
    scheduler._get_variance = _no_variance
    scheduler.register_to_config(adds_noise=False)
    return scheduler


def _no_variance(t: int, predicted_variance: Tensor | None = None, variance_type: str | None = None) -> Tensor:
    return torch.zeros(())


def measure_mean_only(
    pipe: Any, base: SamplingSettings, bench: Bench, output: str | os.PathLike[str], command: str, **options: Any
) -> dict[str, dict[str, Any]]:
    """DDPM, DDPM without its noise, and DDIM with the same number of steps, measured and filed.

    Args:
        pipe: its scheduler is put back at the end.
        base: ``num_inference_steps`` and everything else that stays.
        bench: judge and data.
        output: file of measurements.
        command: line that makes the study, for the run that no line of ``evaluate`` makes.
        options: of :func:`~mnist_guided_pipeline.evaluation.run.measure_runs`.

    Returns:
        The records by name, ``study-mean-only/...``.
    """
    named = {"ddpm": "DDPMScheduler", "ddim": "DDIMScheduler"}
    runs = {f"{MEAN_ONLY}/{name}": replace(base, scheduler=scheduler) for name, scheduler in named.items()}
    records = measure_runs(pipe, runs, bench, output, **options)
    own, pipe.scheduler = pipe.scheduler, mean_only_scheduler(pipe)
    try:
        name = f"{MEAN_ONLY}/ddpm-mean-only"
        record = measure_runs(pipe, {name: replace(base, scheduler=None)}, bench, output, **options)[name]
    finally:
        pipe.scheduler = own
    record["settings"]["scheduler"] = "DDPM without its noise"
    record["command"] = command
    write_run(output, name, record)
    return records | {name: record}


def measure_spacings(
    pipe: Any,
    base: SamplingSettings,
    steps: Sequence[int],
    bench: Bench,
    output: str | os.PathLike[str],
    command: str,
    **options: Any,
) -> dict[str, dict[str, Any]]:
    """DPM-Solver++ with its steps in other places, for every number of steps, measured and filed.

    Args:
        pipe: its scheduler is put back at the end.
        base: everything that stays.
        steps: numbers of steps.
        bench: judge and data.
        output: file of measurements.
        command: line that makes the study.
        options: of :func:`~mnist_guided_pipeline.evaluation.run.measure_runs`.

    Returns:
        The records by name, ``study-spacing/karras,10``.
    """
    own = pipe.scheduler
    records: dict[str, dict[str, Any]] = {}
    try:
        for spacing, settings in SPACINGS.items():
            pipe.scheduler = pipe.make_scheduler(DPMSolverMultistepScheduler, **settings)
            runs = {
                f"{SPACING}/{spacing},{count}": replace(base, scheduler=None, num_inference_steps=count)
                for count in steps
            }
            for name, record in measure_runs(pipe, runs, bench, output, **options).items():
                record["settings"]["scheduler"] = f"DPM-Solver++, {spacing}"
                record["command"] = command
                write_run(output, name, record)
                records[name] = record
    finally:
        pipe.scheduler = own
    return records


def file_table(
    output: str | os.PathLike[str],
    name: str,
    command: str,
    rows: Mapping[str, Mapping[str, Any]],
    judge: Judge,
    splits: tuple[LabelledImages, LabelledImages],
    dataset_name: str,
    networks: str,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """File a table of named rows, which the view ``rows`` renders.

    Args:
        output: file of measurements.
        name: of the record.
        command: line that makes it again.
        rows: figures by name, a row each.
        judge: that measured.
        splits: training and test images.
        dataset_name: as given.
        networks: hash of everything that was compared.
        settings: with ``num_images`` and ``seed``.

    Returns:
        The record.
    """
    train, test = splits
    folder = judge.model.name_or_path
    record = {
        "command": command,
        "model": {"name": name, "fingerprint": networks},
        "judge": {
            "name": "shipped" if folder == str(JUDGE_FOLDER) else public_name(folder),
            "fingerprint": fingerprint(judge.model),
        },
        "dataset": {
            "name": public_name(dataset_name),
            "fingerprint": fingerprint(train.images, train.labels, test.images, test.labels),
        },
        "settings": dict(settings),
        "versions": versions(),
        "machine": machine(judge.model.device, 1),
        "figures": {"rows": dict(rows)},
    }
    write_run(output, name, record)
    return record
