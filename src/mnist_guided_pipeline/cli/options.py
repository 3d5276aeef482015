"""What the commands share: checks of paths and names before anything heavy is imported, and loading."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, Literal

from ..storage.places import find_folder

__all__ = [
    "DataType",
    "check_new_file",
    "check_output_folder",
    "check_picture",
    "check_pipeline_folder",
    "check_writable",
    "load_pipeline",
    "picture_format",
    "scheduler_class",
]

DataType = Literal["float32", "bfloat16", "float16"]


def picture_format(output: Path) -> str | None:
    """The name that Pillow gives the format of the suffix; None where it cannot write it."""
    from PIL import Image

    name = Image.registered_extensions().get(output.suffix.lower())
    return name if name in Image.SAVE else None


def check_picture(output: Path, force: bool) -> None:
    """A new file of an image format, or any such file with ``--force``."""
    if picture_format(output) not in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        raise ValueError(f"--output {str(output)!r} must end in the suffix of an image format, such as .png or .webp.")
    check_new_file(output, force)


def check_new_file(output: Path, force: bool) -> None:
    """A new file in a folder that can be written to, or any file with ``--force``."""
    if output.is_dir():
        raise IsADirectoryError(f"--output {str(output)!r} is a folder; name a file, such as {output / 'digits.png'}.")
    if output.exists() and not force:
        raise FileExistsError(f"--output {str(output)!r} exists; overwrite it with --force, or name another file.")
    check_writable(output.parent)


def check_output_folder(output: Path, force: bool) -> None:
    """A new folder, or with ``--force`` one that holds a pipeline: nothing else is ever removed."""
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        if not force:
            raise FileExistsError(f"--output {str(output)!r} exists; replace it with --force, or name another folder.")
        if not (output / "model_index.json").is_file():
            raise FileExistsError(
                f"--output {str(output)!r} exists and holds no pipeline, so --force does not replace it; name another "
                "folder."
            )
    check_writable(next(parent for parent in output.absolute().parents if parent.exists()))


def check_writable(folder: Path) -> None:
    """A folder that is there and can be written to."""
    if not folder.is_dir():
        raise FileNotFoundError(f"--output: there is no folder {str(folder)!r}; make it first.")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"--output: the folder {str(folder)!r} cannot be written to.")


def check_pipeline_folder(model: str) -> None:
    """A folder must hold a pipeline; anything that cannot be a folder is left to the Hub."""
    folder = find_folder(model, "--model")
    if folder and not (folder / "model_index.json").is_file():
        raise FileNotFoundError(f"--model {model!r} has no model_index.json: it is not the folder of a pipeline.")


def load_pipeline(model: str | None, device: str | None, dtype: DataType = "float32") -> Any:
    """The pipeline on its device and in its type; the progress of sampling shows at a terminal only."""
    import torch
    from diffusers.utils import logging

    from ..storage.pipelines import ClassifierGuidedLatentPipeline, load_default

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device!r} cannot be used here: {error}") from error
    if dtype == "float16" and torch.device(device).type == "cpu":
        raise ValueError(f"--dtype {dtype} is for GPUs, and this runs on --device {device}; give bfloat16 or float32.")
    logging.disable_progress_bar()  # of loading, which takes a moment
    given = {"torch_dtype": getattr(torch, dtype)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch_dtype` is deprecated")  # older versions know only this name
        if model is None:
            pipe = load_default(**given)
        else:
            pipe = ClassifierGuidedLatentPipeline.from_pretrained(model, use_safetensors=True, **given)
    pipe.set_progress_bar_config(disable=None)
    return pipe.to(device)


def scheduler_class(name: str) -> type:
    """The diffusers class of a supported scheduler's name."""
    import diffusers

    from ..sampling.schedulers import SUPPORTED

    if name not in SUPPORTED:
        raise ValueError(f"--scheduler {name!r} is not supported; the supported ones are {', '.join(SUPPORTED)}.")
    return getattr(diffusers, name)
