"""The command ``mnist-guided``: each subcommand is a function, its arguments the options, its docstring the help.

Paths are checked before anything heavy is imported, and nothing is overwritten without ``--force``. What the user can
mend ends the program with status 2 and one line on standard error.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

__all__ = ["assemble", "generate", "main"]


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
        force: Overwrite the output.
    """
    started = time.perf_counter()
    _check_picture(output, force)
    if model is not None:
        _check_pipeline_folder(model)

    from .atomic import atomic_write
    from .grids import labelled_grid
    from .labels import resolve_labels
    from .streams import keyed_generator

    pipe = _load_pipeline(model, device)
    if scheduler is not None:
        pipe.scheduler = pipe.make_scheduler(_scheduler_class(scheduler))
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
    labelled_grid(images, [names[row] for row in rows]).save(encoded, format=_picture_format(output))
    atomic_write(output, encoded.getvalue())
    print(
        f"{output}: {len(images)} images by {type(pipe.scheduler).__name__} in {pipe.num_timesteps} steps; "
        f"sampling took {sampled - loaded:.1f} s, with loading and writing {time.perf_counter() - started:.1f} s."
    )


def assemble(
    denoiser: Path,
    output: Path,
    vae: Path | None = None,
    classifier: Path | None = None,
    class_names: tuple[str, ...] = (),
    dtype: Literal["float32", "float16"] = "float32",
    force: bool = False,
) -> None:
    """Make one pipeline folder of the networks that the training scripts wrote.

    Example: mnist-guided assemble --vae runs/vae --denoiser runs/denoiser --classifier runs/classifier
    --output runs/pipeline

    Args:
        denoiser: Output folder of train_denoiser.py; its scheduler becomes the pipeline's.
        output: Folder to write.
        vae: Output folder of train_vae.py; left out for networks trained on pixels.
        classifier: Output folder of train_classifier.py; left out for a pipeline without guidance.
        class_names: Name of each class, in label order; 0 1 2 ... if left out.
        dtype: Floating-point type of the saved weights.
        force: Replace the pipeline in the output folder.
    """
    started = time.perf_counter()
    for option, folder in (("vae", vae), ("denoiser", denoiser), ("classifier", classifier)):
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(f"--{option}: there is no folder {str(folder)!r}.")
    _check_output_folder(output, force)

    from .assembly import assemble_pipeline
    from .atomic import atomic_folder

    pipe = assemble_pipeline(vae, denoiser, classifier, class_names or None, half=dtype == "float16")
    with atomic_folder(output) as folder:
        pipe.save_pretrained(folder)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    print(f"{output}: a pipeline of {size / 1e6:.1f} MB in {dtype}, {time.perf_counter() - started:.1f} s.")


COMMANDS: dict[str, Callable[..., None]] = {"generate": generate, "assemble": assemble}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; what the user can mend ends with status 2 and one line."""
    import tyro

    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="mnist-guided",
            description="Guided latent diffusion of handwritten digits.",
            args=arguments,
            use_underscores=True,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except (ValueError, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(2) from None


def _picture_format(output: Path) -> str | None:
    """The name that Pillow gives the format of the suffix; None where it cannot write it."""
    from PIL import Image

    name = Image.registered_extensions().get(output.suffix.lower())
    return name if name in Image.SAVE else None


def _check_picture(output: Path, force: bool) -> None:
    if _picture_format(output) not in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        raise ValueError(f"--output {str(output)!r} must end in the suffix of an image format, such as .png or .webp.")
    if output.is_dir():
        raise IsADirectoryError(f"--output {str(output)!r} is a folder; name a file, such as {output / 'digits.png'}.")
    if output.exists() and not force:
        raise FileExistsError(f"--output {str(output)!r} exists; overwrite it with --force, or name another file.")
    _check_writable(output.parent)


def _check_output_folder(output: Path, force: bool) -> None:
    """A new folder, or with ``--force`` one that holds a pipeline: nothing else is ever removed."""
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        if not force:
            raise FileExistsError(f"--output {str(output)!r} exists; replace it with --force, or name another folder.")
        if not (output / "model_index.json").is_file():
            raise FileExistsError(
                f"--output {str(output)!r} exists and holds no pipeline, so --force does not replace it; name another "
                "folder."
            )
    _check_writable(next(parent for parent in output.absolute().parents if parent.exists()))


def _check_writable(folder: Path) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"--output: there is no folder {str(folder)!r}; make it first.")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"--output: the folder {str(folder)!r} cannot be written to.")


def _check_pipeline_folder(model: str) -> None:
    """A folder must hold a pipeline; anything that cannot be a folder is left to the Hub."""
    if os.path.isdir(model):
        if not os.path.isfile(os.path.join(model, "model_index.json")):
            raise FileNotFoundError(f"--model {model!r} has no model_index.json: it is not the folder of a pipeline.")
    elif model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise FileNotFoundError(f"--model {model!r} is neither a folder nor a Hub id such as 'user/name'.")


def _load_pipeline(model: str | None, device: str | None) -> Any:
    """The pipeline on its device, in float32; the progress of sampling shows at a terminal only."""
    import torch
    from diffusers.utils import logging

    from .pipeline import ClassifierGuidedLatentPipeline
    from .weights import load_default

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device!r} cannot be used here: {error}") from error
    logging.disable_progress_bar()  # of loading, which takes a moment
    if model is None:
        pipe = load_default()
    else:
        pipe = ClassifierGuidedLatentPipeline.from_pretrained(model, use_safetensors=True)
    pipe.set_progress_bar_config(disable=None)
    return pipe.to(device)


def _scheduler_class(name: str) -> type:
    import diffusers

    from .schedulers import SUPPORTED

    if name not in SUPPORTED:
        raise ValueError(f"--scheduler {name!r} is not supported; the supported ones are {', '.join(SUPPORTED)}.")
    return getattr(diffusers, name)


def _label(text: str, names: Any) -> str | int:
    """A class name where it is one, else an index where it is a number."""
    if text not in names:
        try:
            return int(text)
        except ValueError:
            pass
    return text
