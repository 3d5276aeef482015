"""``mnist-guided figure NAME``: what a pipeline for points in the plane draws, and how points get there from noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .figures import check_figure, check_packages, save_figure
from .options import check_new_file
from .point_options import agreement, draw_points, evenly_moved, load_points_pipeline, real_points, view_of

__all__ = ["points", "points_animation", "points_trajectory"]


def points(
    model: str,
    output: Path,
    dataset_name: str | None = None,
    guidance_scale: tuple[float, ...] = (),
    num_points: int = 2_000,
    num_inference_steps: int | None = None,
    seed: int = 0,
    device: str | None = None,
    force: bool = False,
) -> None:
    """Draw samples over the data, a panel a guidance scale, and print how far they are from it.

    The distance is the sliced Wasserstein distance of the samples of a class from real points of it, in standard
    deviations of the data, a mean over classes; its floor is that of other real points.

    Example: mnist-guided figure points --model runs/moons --guidance_scale 0 1 4 --output moons.png

    Args:
        model: Folder or Hub id of a pipeline that was trained on points.
        output: Picture to write.
        dataset_name: What it was trained on, such as points:dino; the folder of train_pipeline.py tells, if left out.
        guidance_scale: A panel each; the pipeline's own if left out.
        num_points: Points in a panel, the classes in equal parts.
        num_inference_steps: Steps of the scheduler; the pipeline's own number if left out.
        seed: Of the samples.
        device: Where to compute; a CUDA device where there is one, else the CPU, if left out.
        force: Overwrite the output.
    """
    check_figure(output, force)
    pipe, data = load_points_pipeline(model, dataset_name, num_points, device)
    if guidance_scale and pipe.classifier is None:
        raise ValueError(f"--guidance_scale was given, but the pipeline {model!r} has no classifier; leave it out.")

    from ..evaluation.tables import markdown_table
    from ..figures.points import point_panels

    forms = {"sliced_Wasserstein": "{:.4f}", "in_the_wanted_class": "{:.2%}"}
    panels: list[tuple[str, Any]] = []
    table: list[list[str]] = []
    for scale in guidance_scale or (None,):
        labels, trajectory = draw_points(pipe, data, num_points, num_inference_steps, seed, scale)
        samples = trajectory[-1]
        found, floor = (agreement(data, points, labels) for points in (samples, real_points(data, labels, seed=1)))
        if not table:
            table.append(["guidance_scale", "points"])
            table[0] += [title for name in found for title in (name.replace("_", " "), "floor")]
        row = ["" if pipe.classifier is None else f"{pipe.guidance_scale:g}", f"{len(samples):,}"]
        table.append(row + [forms[name].format(of[name]) for name in found for of in (found, floor)])
        title = "" if pipe.classifier is None else f"guidance_scale {pipe.guidance_scale:g}"
        panels.append((title, data.to_data_units(samples).numpy()))
    real = data.to_data_units(real_points(data, labels, seed=0)).numpy()
    save_figure(point_panels(panels, labels.numpy(), data.class_names, real), output)
    print(markdown_table(table))
    print(f"{output}: {type(pipe.scheduler).__name__} in {pipe.num_timesteps} steps.")


def points_trajectory(
    model: str,
    output: Path,
    dataset_name: str | None = None,
    guidance_scale: float | None = None,
    num_panels: int = 6,
    num_points: int = 1_000,
    num_inference_steps: int | None = None,
    seed: int = 0,
    device: str | None = None,
    force: bool = False,
) -> None:
    """Draw samples on their way from noise to data, a panel a step.

    Example: mnist-guided figure points-trajectory --model runs/dino --output steps.png

    Args:
        model: Folder or Hub id of a pipeline that was trained on points.
        output: Picture to write.
        dataset_name: What it was trained on, such as points:dino; the folder of train_pipeline.py tells, if left out.
        guidance_scale: The pipeline's own if left out.
        num_panels: Steps to show, from the noise to the last; samples move equally far from one to the next.
        num_points: Points in a panel, the classes in equal parts.
        num_inference_steps: Steps of the scheduler; the pipeline's own number if left out.
        seed: Of the samples.
        device: Where to compute; a CUDA device where there is one, else the CPU, if left out.
        force: Overwrite the output.
    """
    check_figure(output, force)
    if num_panels < 2:
        raise ValueError(f"--num_panels must be at least 2, got {num_panels}.")
    pipe, data = load_points_pipeline(model, dataset_name, num_points, device)

    from ..figures.points import point_panels

    labels, trajectory = draw_points(pipe, data, num_points, num_inference_steps, seed, guidance_scale)
    panels = [
        (f"step {step}" if step else "noise", data.to_data_units(trajectory[step]).numpy())
        for step in evenly_moved(trajectory, num_panels)
    ]
    real = data.to_data_units(real_points(data, labels, seed=0)).numpy()
    figure = point_panels(panels, labels.numpy(), data.class_names, real, limits=view_of(data))
    save_figure(figure, output)
    print(f"{output}: {len(labels)} points by {type(pipe.scheduler).__name__} in {len(trajectory) - 1} steps.")


def points_animation(
    model: str,
    output: Path,
    dataset_name: str | None = None,
    guidance_scale: float | None = None,
    num_frames: int = 60,
    num_points: int = 1_000,
    num_inference_steps: int = 200,
    fps: int = 20,
    seed: int = 0,
    device: str | None = None,
    force: bool = False,
) -> None:
    """Film samples on their way from noise to data: a GIF, or an MP4 with the extra animation.

    Example: mnist-guided figure points-animation --model runs/dino --output dino.gif

    Args:
        model: Folder or Hub id of a pipeline that was trained on points.
        output: Film to write, .gif or .mp4.
        dataset_name: What it was trained on, such as points:dino; the folder of train_pipeline.py tells, if left out.
        guidance_scale: The pipeline's own if left out.
        num_frames: Steps to show, from the noise to the last; samples move equally far from one to the next.
        num_points: Points, the classes in equal parts.
        num_inference_steps: Steps of the scheduler; many, as the last of them move samples furthest.
        fps: Frames a second, at most 50.
        seed: Of the samples.
        device: Where to compute; a CUDA device where there is one, else the CPU, if left out.
        force: Overwrite the output.
    """
    from ..figures.animation import check_animation_format, encode_animation

    check_animation_format(output)
    check_new_file(output, force)
    check_packages(("matplotlib",), "plots")
    if num_frames < 2:
        raise ValueError(f"--num_frames must be at least 2, got {num_frames}.")
    if not 1 <= fps <= 50:
        raise ValueError(f"--fps must be from 1 to 50, got {fps}.")
    pipe, data = load_points_pipeline(model, dataset_name, num_points, device)

    from ..figures.points import point_frames
    from ..storage.atomic import atomic_write

    labels, trajectory = draw_points(pipe, data, num_points, num_inference_steps, seed, guidance_scale)
    real = data.to_data_units(real_points(data, labels, seed=0)).numpy()
    frames = list(
        point_frames(
            data.to_data_units(trajectory[evenly_moved(trajectory, num_frames)]).numpy(),
            labels.numpy(),
            real,
            limits=view_of(data),
        )
    )
    atomic_write(output, encode_animation(frames, output.suffix.lower(), fps))
    print(f"{output}: {len(frames)} frames of {len(labels)} points by {type(pipe.scheduler).__name__}.")
