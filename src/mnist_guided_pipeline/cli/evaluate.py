"""``mnist-guided evaluate``: many images, measured by a judge that never guides."""

from __future__ import annotations

from typing import Annotated, Any

import tyro

from .options import GuidanceOptions, MeasuringOptions, load_pipeline, scheduler_settings


def evaluate(
    model: str | None = None,
    name: str = "default",
    scheduler: tuple[str, ...] = (),
    scheduler_options: tuple[str, ...] = (),
    num_inference_steps: tuple[int, ...] = (),
    guidance_scale: tuple[float, ...] = (),
    cfg_scale: tuple[float, ...] = (),
    eta: tuple[float, ...] = (),
    num_particles: tuple[int, ...] = (),
    classification_accuracy_score: bool = False,
    guidance: Annotated[GuidanceOptions, tyro.conf.arg(name="")] = GuidanceOptions(),  # noqa: B008 - it is frozen
    options: Annotated[MeasuringOptions, tyro.conf.arg(name="")] = MeasuringOptions(num_images=10_000),  # noqa: B008
) -> None:
    """Draw many images and measure them with a judge that never guides.

    Several schedulers, scheduler options, numbers of steps, scales or etas make a sweep over all combinations. Finished
    runs are kept, so the same command continues an interrupted one. Under torchrun, the processes share the drawing.

    Example: mnist-guided evaluate --model runs/pipeline --guidance_scale 1 2 4 --num_images 2000 --output sweep.json

    Args:
        model: Folder or Hub id of a pipeline; the one shipped with the package if left out.
        name: Name of the run in the output; of a sweep, the part before the slash.
        scheduler: Name of one or several diffusers schedulers; the pipeline's own if left out.
        scheduler_options: Further settings of the scheduler as JSON, such as '{"use_karras_sigmas": true}'; one or
            several.
        num_inference_steps: One or several; the pipeline's own if left out.
        guidance_scale: One or several; the pipeline's own if left out.
        cfg_scale: Classifier-free weight, for a class-conditional denoiser; 1 is off. One or several.
        eta: Stochasticity of DDIM, from 0 to 1; one or several.
        num_particles: Weighted particles of which each image is one; 1 is off. One or several.
        classification_accuracy_score: Also train a classifier on the images alone and test it on real ones.
        guidance: Shared by the commands that draw guided images.
        options: Shared by the commands that measure images.
    """
    options.check(model)

    from ..evaluation.samples import SamplingSettings, start_processes
    from ..evaluation.studies import grid, measure_runs
    from ..evaluation.tables import render_view

    base = SamplingSettings(options.num_images, options.seed, **guidance.call_arguments())
    axes: dict[str, tuple[Any, ...]] = {
        "scheduler": scheduler,
        "scheduler_options": tuple(map(scheduler_settings, scheduler_options)),
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "cfg_scale": cfg_scale,
        "eta": eta,
        "num_particles": num_particles,
    }
    runs = grid(base, axes, name)
    reference = options.reference()
    pipe = load_pipeline(model, options.own_device(), guidance.dtype)
    records = measure_runs(pipe, runs, reference, options.output, classification_accuracy_score, options.force)
    state = start_processes()
    if state.is_main_process:
        print(render_view(records, name))
    state.wait_for_everyone()
    state.destroy_process_group()
