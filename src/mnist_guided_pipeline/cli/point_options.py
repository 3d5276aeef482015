"""What the figures of points in the plane share: the pipeline and its data, drawing, and the distance from the data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import check_pipeline_folder, load_pipeline

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from ..data.points import PointSet

__all__ = ["agreement", "draw_points", "evenly_moved", "load_points_pipeline", "real_points", "view_of"]

_DIRECTIONS = 256


def load_points_pipeline(
    model: str, dataset_name: str | None, num_points: int, device: str | None
) -> tuple[Any, PointSet]:
    """The pipeline and the points that it was trained on.

    Raises:
        ValueError: the name of the data is needed, or they do not fit the pipeline, or there are too few points.
    """
    check_pipeline_folder(model)
    settings = Path(model) / "steps" / "denoiser" / "train_config.json"
    if dataset_name is None:
        if not settings.is_file():
            raise ValueError(
                f"--dataset_name is needed: {model!r} does not tell what it was trained on. Name it, as points:dino."
            )
        dataset_name = json.loads(settings.read_text())["dataset_name"]

    from ..data.points import is_point_set, load_points

    if not is_point_set(dataset_name):
        raise ValueError(f"--dataset_name {dataset_name!r} is not one of points in the plane, such as points:dino.")
    data = load_points(dataset_name)
    if num_points < len(data.class_names):
        raise ValueError(f"--num_points must be at least {len(data.class_names)}, a point a class, got {num_points}.")
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


def evenly_moved(trajectory: Tensor, count: int) -> list[int]:
    """Steps between which samples move equally far, ``count`` or fewer, from the first to the last.

    Steps themselves are no measure: where noise is high, hundreds of them move samples less than the last ten do.
    """
    import torch

    moved = trajectory.diff(dim=0).square().mean(dim=(1, 2)).sqrt().cumsum(dim=0)
    steps = torch.searchsorted(moved, torch.linspace(0, 1, count)[1:-1] * moved[-1]) + 1
    return torch.cat([torch.tensor([0]), steps, torch.tensor([len(moved)])]).unique().tolist()


def real_points(data: PointSet, labels: Tensor, seed: int) -> Tensor:
    """Fresh real points (N, 2), normalised, of the classes (N,) that samples have."""
    import torch

    return torch.cat([data.draw(label, int((labels == label).sum()), seed) for label in range(len(data.class_names))])


def agreement(data: PointSet, samples: Tensor, labels: Tensor) -> dict[str, float]:
    """How well samples (N, 2) of classes (N,) agree with the data.

    Returns:
        ``sliced_Wasserstein``: the distance from real points of each class, a mean over classes, in standard
        deviations. ``in_the_wanted_class``: the share whose nearest real point is of their class, in [0, 1]; only
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


def view_of(data: PointSet) -> NDArray[np.floating]:
    """Limits [[x, y], [x, y]] in data units that hold nearly all of the noise too: three standard deviations."""
    import numpy as np

    return np.stack([(data.mean - 3 * data.std).numpy(), (data.mean + 3 * data.std).numpy()])
