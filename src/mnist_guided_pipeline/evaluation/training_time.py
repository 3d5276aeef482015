"""Quality against the time of training: the denoiser as it was at its checkpoints, in the finished pipeline."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..training.checkpoints import checkpoint_folders, read_averaged_weights, update_of
from ..training.history import training_seconds
from .records import write_run
from .run import Bench, measure_runs
from .samples import SamplingSettings
from .scores import figure

__all__ = ["TRAINING_TIME", "Stage", "measure_stages", "training_stages"]

TRAINING_TIME = "study-training-time"


class Stage(NamedTuple):
    """A moment of the denoiser's training.

    Attributes:
        update: of the denoiser.
        minutes: of updates, of the denoiser so far and of every other network in full.
        checkpoint: its folder.
    """

    update: int
    minutes: float
    checkpoint: Path


def training_stages(folder: str | os.PathLike[str], count: int) -> list[Stage]:
    """Moments of a training, from the first checkpoint of the denoiser to the last, evenly spread by ratio.

    Args:
        folder: that ``train_pipeline.py`` wrote, with all of its checkpoints.
        count: how many at most.

    Raises:
        ValueError: there are fewer than two checkpoints, or no history.
    """
    steps = Path(folder) / "steps"
    found = checkpoint_folders(steps / "denoiser")
    if len(found) < 2:
        raise ValueError(
            f"{str(steps / 'denoiser')!r} has {len(found)} checkpoints, a curve takes two or more: train by "
            "train_pipeline.py with --checkpoints_total_limit None."
        )
    whole, of_denoiser = training_seconds(folder), training_seconds(steps / "denoiser")
    if whole is None or of_denoiser is None:
        raise ValueError(f"{str(steps)!r} has a step without a history.jsonl, which says how long it took.")
    updates = np.array([update_of(checkpoint) for checkpoint in found])
    wanted = np.geomspace(updates[0], updates[-1], count)
    chosen = sorted({int(np.abs(np.log(updates / update)).argmin()) for update in wanted})
    stages = []
    for index in chosen:
        so_far = training_seconds(steps / "denoiser", until=int(updates[index]))
        assert so_far is not None
        stages.append(Stage(int(updates[index]), (whole - of_denoiser + so_far) / 60.0, found[index]))
    return stages


def measure_stages(
    pipe: Any,
    stages: Sequence[Stage],
    base: SamplingSettings,
    bench: Bench,
    output: str | os.PathLike[str],
    command: str,
    **options: Any,
) -> dict[str, dict[str, Any]]:
    """Measure the pipeline with the denoiser of every stage, and file the runs with the minutes that they took.

    Args:
        pipe: the finished pipeline; its denoiser is put back at the end.
        stages: of :func:`training_stages`.
        base: settings of all runs.
        bench: judge and data.
        output: file of measurements.
        command: line that makes the study.
        options: of :func:`~mnist_guided_pipeline.evaluation.run.measure_runs`.

    Returns:
        The records by name, ``study-training-time/update=...``.
    """
    trained = [parameter.detach().clone() for parameter in pipe.denoiser.parameters()]
    records: dict[str, dict[str, Any]] = {}
    try:
        for stage in stages:
            read_averaged_weights(stage.checkpoint, "denoiser", pipe.denoiser)
            name = f"{TRAINING_TIME}/update={stage.update}"
            records |= measure_runs(pipe, {name: base}, bench, output, **options)
            records[name]["command"] = command
            records[name]["figures"]["training_minutes"] = figure(stage.minutes, base.num_images)
            write_run(output, name, records[name])
    finally:
        for parameter, tensor in zip(pipe.denoiser.parameters(), trained, strict=True):
            parameter.data = tensor
    return records
