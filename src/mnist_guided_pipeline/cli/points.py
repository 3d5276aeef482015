"""``mnist-guided figure points``: what a pipeline of points in the plane draws, and how far that is from its data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from .options import (
    Device,
    Force,
    Seed,
    check_model,
    check_new_file,
    check_packages,
    check_range,
    load_pipeline,
    save_figure,
    training_settings,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from ..data.points import PointSet

__all__ = ["agreement", "draw_points", "load_points_pipeline", "points", "real_points"]

_DIRECTIONS = 256  # of the sliced Wasserstein distance
_FORMS = {"sliced_Wasserstein": "{:.4f}", "in_the_wanted_class": "{:.2%}"}
_HOLD_SECONDS = 1.5  # that a film rests on its last frame


def points(
    model: Annotated[str, arg(help="Folder or Hub id of a pipeline that was trained on points.", metavar="ID")],
    output: Annotated[Path, arg(help="Picture to write; of show=animation a film, .gif or .mp4.")],
    show: Literal["samples", "trajectory", "animation"] = "samples",
    dataset_name: str | None = None,
    guidance_scale: tuple[float, ...] = (),
    num_points: int = 2_000,
    num_inference_steps: int | None = None,
    num_frames: int | None = None,
    fps: int = 20,
    seed: Seed = 0,
    device: Device = None,
    force: Force = False,
) -> None:
    """Draw points over the data: samples and their distance from it, or their way there from noise.

    samples: one panel per guidance scale, and a table of the sliced Wasserstein distance from real points of each
    class, in standard deviations, a mean over classes; its floor is that of other real points. trajectory: panels from
    noise to data. animation: the same as a film; an .mp4 needs the extra animation.

    Example: mnist-guided figure points --model runs/moons --guidance_scale 0 1 4 --output moons.png

    Args:
        show: Samples, their trajectory, or an animation of it.
        dataset_name: What it was trained on, such as points:dino; the folder of train_pipeline.py says, if left out.
        guidance_scale: One panel each; a trajectory takes one. The pipeline's own if left out.
        num_points: Points in a panel, the classes in equal parts.
        num_inference_steps: Steps of the scheduler; the pipeline's own number, for a film 200, if left out.
        num_frames: Panels of a trajectory (6 if left out) or frames of a film (60); points move equally far between.
        fps: Frames per second of a film, at most 50.
    """
    film = show == "animation"
    check_new_file(output, force, (".gif", ".mp4")) if film else check_new_file(output, force)
    check_packages(("matplotlib",), "plots")
    if output.suffix.lower() == ".mp4":
        check_packages(("imageio", "imageio_ffmpeg"), "animation")
    frames = num_frames or (60 if film else 6)
    check_range("num_frames", frames, 2)
    check_range("fps", fps, 1, 50)
    if show != "samples" and len(guidance_scale) > 1:
        raise ValueError(f"--guidance_scale of a {show} is one number, got {len(guidance_scale)}.")
    pipe, data = load_points_pipeline(model, dataset_name, num_points, device)
    if guidance_scale and pipe.classifier is None:
        raise ValueError(f"--guidance_scale was given, but the pipeline {model!r} has no classifier; leave it out.")
    scales = guidance_scale or (None,)
    steps = num_inference_steps or (200 if film else None)  # the last of them move samples furthest
    drawn = [draw_points(pipe, data, num_points, steps, seed, scale) for scale in scales]

    from ..figures.points import point_frames, point_panels

    labels, trajectory = drawn[0]
    real = data.to_data_units(real_points(data, labels, seed=0)).numpy()
    if show == "samples":
        titles = [f"guidance_scale {scale:g}" if scale is not None else "" for scale in scales]
        panels = [
            (title, data.to_data_units(steps[-1]).numpy()) for title, (_, steps) in zip(titles, drawn, strict=True)
        ]
        save_figure(point_panels(panels, labels.numpy(), data.class_names, real), output)
        print(_table(data, labels, {scale: path[-1] for scale, (_, path) in zip(scales, drawn, strict=True)}))
    else:
        shown = evenly_moved(trajectory, frames)
        places = data.to_data_units(trajectory[shown]).numpy()
        if film:
            _save_film(list(point_frames(places, labels.numpy(), real, _view(data))), output, fps)
        else:
            panels = [(f"step {step}" if step else "noise", place) for step, place in zip(shown, places, strict=True)]
            save_figure(point_panels(panels, labels.numpy(), data.class_names, real, _view(data)), output)
        print(f"{output}: {len(shown)} {'frames' if film else 'panels'} of {len(labels)} points.")
    print(f"{output}: {type(pipe.scheduler).__name__} in {len(trajectory) - 1} steps.")


def load_points_pipeline(
    model: str, dataset_name: str | None, num_points: int, device: str | None
) -> tuple[Any, PointSet]:
    """The pipeline and the points that it was trained on; ``num_points`` must be at least one per class."""
    check_model(model)
    dataset_name = dataset_name or training_settings(model).get("dataset_name")
    if dataset_name is None:
        raise ValueError(
            f"--dataset_name is needed: {model!r} does not say what it was trained on. Name it, as points:dino."
        )

    from ..data.points import is_point_set, load_points

    if not is_point_set(dataset_name):
        raise ValueError(f"--dataset_name {dataset_name!r} is not one of points in the plane, such as points:dino.")
    data = load_points(dataset_name)
    check_range("num_points", num_points, len(data.class_names))
    pipe = load_pipeline(model, device)
    shape, names = tuple(pipe.denoiser.config.sample_shape), tuple(pipe.id2label.values())
    if shape != (2,):
        raise ValueError(f"--model {model!r} makes samples of shape {shape}, not points in the plane.")
    if pipe.classifier is not None and names != data.class_names:
        raise ValueError(
            f"--dataset_name {dataset_name!r} has the classes {', '.join(data.class_names)}, but the pipeline "
            f"{model!r} has {', '.join(names)}; name the data that it was trained on."
        )
    return pipe, data


def draw_points(
    pipe: Any,
    data: PointSet,
    num_points: int,
    num_inference_steps: int | None,
    seed: int,
    guidance_scale: float | None,
) -> tuple[Tensor, Tensor]:
    """The class of each sample (N,), and normalised samples before the first step and after each (T + 1, N, 2)."""
    import torch

    from ..seeding import keyed_generator

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
    import torch

    return torch.cat([data.draw(label, int((labels == label).sum()), seed) for label in range(len(data.class_names))])


def agreement(data: PointSet, samples: Tensor, labels: Tensor) -> dict[str, float]:
    """How well samples (N, 2) of classes (N,) agree with the data.

    Returns:
        ``sliced_Wasserstein``: the distance from real points of each class, a mean over classes, in standard
        deviations. ``in_the_wanted_class``: the part whose nearest real point is of their class, in [0, 1]; only
        where there are several.
    """
    from ..evaluation.metrics import sliced_wasserstein

    distances = []
    for label in range(len(data.class_names)):
        chosen = samples[labels == label]
        real = data.draw(label, len(chosen), seed=0)
        distances.append(sliced_wasserstein(chosen.numpy(), real.numpy(), _DIRECTIONS))
    found = {"sliced_Wasserstein": sum(distances) / len(distances)}
    if len(data.class_names) > 1:
        found["in_the_wanted_class"] = (data.nearest_class(samples) == labels).double().mean().item()
    return found


def evenly_moved(trajectory: Tensor, count: int) -> list[int]:
    """Steps between which samples move equally far, ``count`` or fewer, from the first to the last.

    Steps themselves are no measure: where noise is high, hundreds of them move samples less than the last ten do.
    """
    import torch

    moved = trajectory.diff(dim=0).square().mean(dim=(1, 2)).sqrt().cumsum(dim=0)
    steps = torch.searchsorted(moved, torch.linspace(0, 1, count)[1:-1] * moved[-1]) + 1
    return torch.cat([torch.tensor([0]), steps, torch.tensor([len(moved)])]).unique().tolist()


def _table(data: PointSet, labels: Tensor, samples: dict[float | None, Tensor]) -> str:
    """One row per guidance scale: how well its samples agree with the data, and how well other real points do."""
    from ..evaluation.tables import markdown_table

    floor = agreement(data, real_points(data, labels, seed=1), labels)
    rows = [["guidance_scale", "points", *(title for name in floor for title in (name.replace("_", " "), "floor"))]]
    for scale, of_scale in samples.items():
        found = agreement(data, of_scale, labels)
        cells = [_FORMS[name].format(value) for name in floor for value in (found[name], floor[name])]
        rows.append(["" if scale is None else f"{scale:g}", f"{len(of_scale):,}", *cells])
    return markdown_table(rows)


def _view(data: PointSet) -> NDArray[np.floating]:
    """Limits [[x, y], [x, y]] in data units that hold nearly all of the noise too: three standard deviations."""
    import numpy as np

    return np.stack([(data.mean - 3 * data.std).numpy(), (data.mean + 3 * data.std).numpy()])


def _save_film(frames: list[Any], output: Path, fps: int) -> None:
    import tempfile

    from diffusers.utils import export_to_gif, export_to_video

    from ..storage.atomic import atomic_write

    frames = [*frames, *frames[-1:] * round(_HOLD_SECONDS * fps)]
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder, f"film{output.suffix.lower()}"))
        export_to_gif(frames, file, fps) if file.endswith(".gif") else export_to_video(frames, file, fps, quality=8)
        atomic_write(output, Path(file).read_bytes())
