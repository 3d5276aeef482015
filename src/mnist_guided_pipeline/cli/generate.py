"""``mnist-guided generate``: guided images as one picture."""

from __future__ import annotations

import time
from collections.abc import Collection
from io import BytesIO
from pathlib import Path

from .options import DataType, check_picture, check_pipeline_folder, load_pipeline, picture_format, scheduler_class
from .quick_start import hidden_packages

__all__ = ["generate"]


def generate(
    output: Path,
    class_labels: tuple[str, ...] = (),
    num_images_per_label: int = 8,
    model: str | None = None,
    scheduler: str | None = None,
    guidance_scale: tuple[float, ...] = (),
    cfg_scale: float = 1.0,
    num_inference_steps: int | None = None,
    seed: int = 0,
    device: str | None = None,
    dtype: DataType = "float32",
    force: bool = False,
) -> None:
    """Draw guided images and write them as one picture, a row a label.

    Example: mnist-guided generate --class_labels 3 7 --output digits.png

    Args:
        output: Picture to write, such as digits.png.
        class_labels: Class names or indices, a row each; one row of every class if left out.
        num_images_per_label: Images in a row.
        model: Folder or Hub id of a pipeline; the one shipped with the package if left out.
        scheduler: Name of a diffusers scheduler, such as DDIMScheduler or EulerDiscreteScheduler; the pipeline's own
            if left out. No retraining is needed.
        guidance_scale: How strongly the classifier guides: 0 is off, 1 is Bayes' rule. One number, or one a label;
            the pipeline's own if left out.
        cfg_scale: Classifier-free weight, for a class-conditional denoiser; 1 is off.
        num_inference_steps: Steps of the scheduler; the pipeline's own number if left out.
        seed: Every image has a random generator of its own, made from the seed, its row and its column, so more rows
            or columns leave the others as they are.
        device: Where to compute, such as cpu or cuda; a CUDA device where there is one, else the CPU, if left out.
        dtype: Floating-point type to compute in.
        force: Overwrite the output.
    """
    started = time.perf_counter()
    check_picture(output, force)
    if model is not None:
        check_pipeline_folder(model)

    from ..figures.grids import labelled_grid
    from ..sampling.arguments import resolve_labels
    from ..seeding import keyed_generator
    from ..storage.atomic import atomic_write

    with hidden_packages("transformers", "torchvision"):
        from ..storage.pipelines import ClassifierGuidedLatentPipeline  # noqa: F401 - imports what drawing needs of diffusers
    pipe = load_pipeline(model, device, dtype)
    if scheduler is not None:
        pipe.scheduler = pipe.make_scheduler(scheduler_class(scheduler))
    names = pipe.id2label
    given = [_label(text, names.values()) for text in class_labels] or list(names)
    rows = resolve_labels(given, names).tolist()
    loaded = time.perf_counter()
    images = pipe(
        rows,
        num_images_per_label=num_images_per_label,
        guidance_scale=guidance_scale[0] if len(guidance_scale) == 1 else guidance_scale or None,
        cfg_scale=cfg_scale,
        num_inference_steps=num_inference_steps,
        generator=[keyed_generator(seed, row, i) for row in range(len(rows)) for i in range(num_images_per_label)],
    ).images
    sampled = time.perf_counter()
    encoded = BytesIO()
    labelled_grid(images, [names[row] for row in rows]).save(encoded, format=picture_format(output))
    atomic_write(output, encoded.getvalue())
    print(
        f"{output}: {len(images)} images by {type(pipe.scheduler).__name__} in {pipe.num_timesteps} steps; "
        f"sampling took {sampled - loaded:.1f} s, with loading and writing {time.perf_counter() - started:.1f} s."
    )


def _label(text: str, names: Collection[str]) -> str | int:
    """A class name where it is one, else an index where it is a number."""
    if text not in names:
        try:
            return int(text)
        except ValueError:
            pass
    return text
