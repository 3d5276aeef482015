"""Studies: what is varied, what stays, and how it is measured and filed.

A study of sampling is a grid of settings (:func:`grid`): all else, the noise of every image included, is the same.
Every run is filed when it is finished (:func:`measure_runs`), and runs that are in the file already are not repeated,
so an interrupted study goes on. A study of different models is a table of named rows (:func:`file_tables`).
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from diffusers import DiffusionPipeline
from torch import Tensor
from tqdm.auto import tqdm

from ..data.points import PointSet
from ..data.posteriors import decode_images
from ..models.gan import GANGenerator
from ..training.history import training_seconds
from .accuracy_score import classification_accuracy_score
from .autoencoders import fitted_draws, prior_draws
from .points import draw_points, measure_points
from .records import (
    check_name,
    fingerprint,
    identity,
    make_record,
    pipeline_parts,
    public_config,
    read_runs,
    shown_name,
    versions,
    write_run,
)
from .samples import SamplingSettings, draw_gan_images, draw_images, start_processes
from .scores import Reference, floors, measured, score_images
from .tables import render_view

_COLUMNS = ("accuracy", "judge_fid", "judge_precision", "judge_recall", "judge_coverage", "near_copies")


def grid(
    base: SamplingSettings, axes: Mapping[str, Sequence[Any]], name: str = "default"
) -> dict[str, SamplingSettings]:
    """Settings by run name: the cartesian product of the values by setting, which without values is that of ``base``.

    ``name`` is the run's where it is one, else the group's before the slash, as in ``default/guidance_scale=2``; the
    settings that have several values are named.
    """
    axes = {axis: values for axis, values in axes.items() if values}
    runs = {}
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        parts = [f"{axis}={_text(value)}" for axis, value in chosen.items() if len(axes[axis]) > 1]
        run = "/".join([name, ",".join(parts)]) if parts else name
        check_name(run)
        runs[run] = replace(base, **chosen)
    return runs


def measure_runs(
    pipe: Any,
    runs: Mapping[str, SamplingSettings],
    reference: Reference,
    output: str | os.PathLike[str],
    with_cas: bool = False,
    again: bool = False,
) -> dict[str, dict[str, Any]]:
    """Draw, score, compare with the floors, and file every run; the pipeline is on its device.

    Classes are wanted in the mix of the reference. ``with_cas`` computes the classification accuracy score too,
    ``again`` measures also what is in the file already.

    Returns:
        The records by name; in processes other than the first, those that were filed before.

    Raises:
        ValueError: pipeline, data set and judge differ, settings do not fit, or the file is another.
    """
    reference.check_fits(pipe)
    state = start_processes()
    filed, records = read_runs(output), {}
    identities = {"model": identity(shown_name(pipe), *pipeline_parts(pipe)), **reference.identities}
    hashes = {kind: found["fingerprint"] for kind, found in identities.items()}
    floor_of: dict[int, dict[str, Any]] = {}
    hidden = None if state.is_main_process and len(runs) > 1 else True
    for name, settings in tqdm(runs.items(), desc="runs", unit="run", disable=hidden):
        settings = replace(settings, class_weights=reference.class_weights)
        resolved, scheduler_config = settings.resolved(pipe), public_config(settings.make_scheduler(pipe))
        key = fingerprint(hashes, resolved.to_dict(), scheduler_config, with_cas, versions())
        if not again and filed.get(name, {}).get("key") == key:
            records[name] = filed[name]
            if state.is_main_process:
                tqdm.write(f"{name}: in {output} already, kept.")
            continue
        started, count = time.perf_counter(), settings.num_images
        drawn = draw_images(pipe, settings)
        if not state.is_main_process:
            continue
        figures = score_images(drawn.images, drawn.labels, reference)
        figures["images_per_second"] = measured(count / drawn.seconds, count)
        figures |= {name: measured(minutes, count) for name, minutes in _training_minutes(pipe).items()}
        if with_cas and drawn.labels is not None:
            figures["classification_accuracy_score"] = classification_accuracy_score(
                drawn.images, drawn.labels, reference.test
            )
        if count not in floor_of:
            floor_of[count] = floors(reference, pipe.vae, count)
            if with_cas:
                real = reference.real_images(reference.train, count)
                floor_of[count]["real_training_images"]["classification_accuracy_score"] = (
                    classification_accuracy_score(real.images, real.labels, reference.test)
                )
        records[name] = {
            **make_record(identities, resolved.to_dict(), figures, pipe.device, state.num_processes),
            "key": key,
            "class_names": list(reference.test.class_names),
            "scheduler_config": scheduler_config,
            "floors": floor_of[count],
        }
        write_run(output, name, records[name])
        tqdm.write(f"{name}: measured in {time.perf_counter() - started:.0f} s.")
    return records


def file_tables(
    output: str | os.PathLike[str],
    name: str,
    figures: Mapping[str, Any],
    settings: Mapping[str, Any],
    model: Any = None,
    reference: Reference | None = None,
    device: Any = None,
) -> None:
    """File tables of named rows and single values as one record, and print each; see :mod:`.records` for the parts.

    ``settings`` are what they depend on; ``model`` is the pipeline, or the networks, images and pipelines that were
    measured, on whose device if no other is given; ``reference`` is what images were measured against.
    """
    identities = {} if reference is None else dict(reference.identities)
    if model is not None:
        is_pipeline = isinstance(model, DiffusionPipeline)
        called, parts = (shown_name(model), pipeline_parts(model)) if is_pipeline else (name, model)
        identities["model"] = identity(called, *parts)
    record = make_record(identities, settings, figures, device or getattr(model, "device", "cpu"))
    write_run(output, name, record)
    for view, found in figures.items():
        rendered = render_view({name: record}, name, view)
        print(rendered if isinstance(found, (dict, list)) else f"{view}: {rendered}")


def measure_system(model: Any, settings: SamplingSettings, reference: Reference) -> tuple[str, Tensor, dict[str, Any]]:
    """Draw by a diffusion pipeline, a GAN's generator or an autoencoder, and score what it made.

    An autoencoder's images are of its prior where it is variational, else of a Gaussian fitted afterwards.

    Returns:
        The kind of the model, its images uint8 (N, H, W) or (N, 3, H, W), and a row of a table: how they were
        ``drawn``, ``accuracy`` where classes were wanted, values of quality and variety, ``images_per_second`` without
        loading and fitting, ``parameters`` of the networks that draw, and ``training_minutes`` where they are known.
    """
    reference.check_fits(model)
    count, seed, labels = settings.num_images, settings.seed, None
    if isinstance(model, DiffusionPipeline):
        images, labels, seconds = draw_images(model, settings)
        kind = "pixel diffusion" if model.vae is None else "latent diffusion"
        networks = [model.denoiser, model.classifier, None if model.vae is None else model.vae.decoder]
        resolved = settings.resolved(model)
        how = f"{str(resolved.scheduler).removesuffix('Scheduler')}, {resolved.num_inference_steps} steps"
    elif isinstance(model, GANGenerator):
        kind, how, networks = "GAN", "one pass", [model]
        started = time.perf_counter()
        images, labels = draw_gan_images(model, count, seed, settings.class_weights)
        seconds = time.perf_counter() - started
    else:
        variational, networks = model.config.variational, [model.decoder]
        kind, how = ("VAE", "N(0, I)") if variational else ("autoencoder", "fitted Gaussian")
        fitted = None if variational else fitted_draws(model, reference.train.images, count, seed)
        started = time.perf_counter()
        images = decode_images(model, prior_draws(model, count, seed) if fitted is None else fitted)
        seconds = time.perf_counter() - started
    parameters = sum(parameter.numel() for network in filter(None, networks) for parameter in network.parameters())
    scores = score_images(images, labels, reference)
    row = {
        "drawn": how,
        **{column: scores[column] for column in _COLUMNS if column in scores},
        "images_per_second": measured(count / seconds, count),
        "parameters": parameters,
        **_training_minutes(model),
    }
    return kind, images, row


def real_images_row(reference: Reference, num_images: int) -> dict[str, Any]:
    """The same values of as many real training images."""
    real = floors(reference, None, num_images)["real_training_images"]
    return {column: real[column] for column in _COLUMNS if column in real}


def compare_points(pipes: Mapping[str, tuple[Any, PointSet]], num_points: int, seed: int = 0) -> dict[str, Any]:
    """Rows by name for pipelines of points and their data: :func:`measure_points`, and the time to draw and to train.

    Seconds are those of a second drawing.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name, (pipe, data) in pipes.items():
        draw_points(pipe, data, len(data.class_names), None, seed, None)  # to warm up
        started = time.perf_counter()
        labels, trajectory = draw_points(pipe, data, num_points, None, seed, None)
        seconds = time.perf_counter() - started
        rows[name] = {
            **measure_points(data, trajectory[-1], labels),
            "steps": len(trajectory) - 1,
            "seconds": seconds,
            **_training_minutes(pipe),
        }
    return rows


def _training_minutes(component: Any) -> dict[str, float]:
    """Of the folder that a pipeline or a network was loaded from, where it has a history."""
    folder = getattr(component.config, "_name_or_path", None)
    seconds = training_seconds(folder) if folder else None
    return {} if seconds is None else {"training_minutes": seconds / 60.0}


def _text(value: Any) -> str:
    """A value of a setting in the name of a run."""
    if isinstance(value, Mapping):
        return ",".join(name if on is True else f"{name}={on}" for name, on in value.items()) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
