"""What the commands share: options, checks before the work, and loading.

Heavy packages are imported where they are used, so that ``--help`` and a refusal come at once.
"""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from ..data import DEFAULT_DATASET

if TYPE_CHECKING:
    from ..data.points import PointSet
    from ..evaluation.scores import Reference
    from ..storage.pipelines import ClassifierGuidedLatentPipeline

Model = Annotated[
    str | None, arg(help="Folder or Hub id of a pipeline; the one shipped with the package if left out.", metavar="ID")
]
Autoencoder = Annotated[
    str, arg(help="Folder or Hub id of an autoencoder, or of a pipeline that has one.", metavar="ID")
]
Picture = Annotated[Path, arg(help="Picture to write, such as digits.png.")]
DatasetName = Annotated[str, arg(help="Hub id or folder of the data set.", metavar="ID")]
Resolution = Annotated[int | None, arg(help="Resize the images of the data set to this height and width.")]
Seed = Annotated[int, arg(help="Seed of all that is random.")]
Device = Annotated[
    str | None,
    arg(help="Where to compute, such as cpu or cuda; a CUDA device where there is one if left out.", metavar="DEVICE"),
]
Force = Annotated[bool, arg(help="Overwrite the output.")]
DataType = Literal["float32", "bfloat16", "float16"]

MOST_IMAGES = 250
"""The most images on a side of a picture: of 28 pixels each, about as many as the widest WebP holds."""

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")


def check_new_file(output: Path, force: bool, suffixes: tuple[str, ...] = _PICTURES) -> None:
    """A new file with one of the suffixes in a folder that can be written to, or any such file with ``--force``."""
    if output.suffix.lower() not in suffixes:
        raise ValueError(f"--output {str(output)!r} must end in {', '.join(suffixes)}.")
    if output.is_dir():
        raise IsADirectoryError(f"--output {str(output)!r} is a folder; name a file.")
    if output.exists() and not force:
        raise FileExistsError(f"--output {str(output)!r} exists; overwrite it with --force, or name another file.")
    check_writable(output.parent)


def check_figure(output: Path, force: bool) -> None:
    """A new picture, or any with ``--force``, and the package that draws it."""
    check_new_file(output, force)
    check_packages(("matplotlib",), "plots")


def check_folder(output: Path, force: bool | None = None) -> None:
    """A new or empty folder, or with ``--force`` one that holds a pipeline; None where nothing is ever replaced."""
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        if not force:
            way_out = "name another folder" if force is None else "replace it with --force, or name another folder"
            raise FileExistsError(f"--output {str(output)!r} exists; {way_out}.")
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


def check_measurements(output: Path) -> None:
    """A file of measurements, or a new one, that can be added to; found out before the work."""
    check_writable(output.parent)

    from ..evaluation.records import read_runs

    read_runs(output)


def check_packages(needs: tuple[str, ...], extra: str) -> None:
    """All packages are there, by the name they are imported by; ``extra`` of this package brings them."""
    missing = [package for package in needs if find_spec(package) is None]
    if missing:
        raise ValueError(f"this needs {' and '.join(missing)}: pip install 'mnist-guided-pipeline[{extra}]'.")


def check_range(name: str, value: int, low: int, high: float = float("inf")) -> None:
    """A whole number within bounds, before the work."""
    if not low <= value <= high:
        bounds = f"at least {low}" if high == float("inf") else f"from {low} to {high}"
        raise ValueError(f"--{name} must be {bounds}, got {value}.")


def check_model(model: str | None, *holds: str, what: str = "pipeline", option: str = "--model") -> None:
    """A folder must hold one of these files; anything that cannot be a folder is left to the Hub."""
    from ..storage.places import find_folder

    folder = None if model is None else find_folder(model, option)
    holds = holds or ("model_index.json",)
    if folder is not None and not any((folder / name).is_file() for name in holds):
        raise FileNotFoundError(f"{option} {model!r} has no {holds[0]}: it is not the folder of a {what}.")


def load_pipeline(model: str | None, device: str | None, dtype: DataType = "float32") -> ClassifierGuidedLatentPipeline:
    """The pipeline on its device and in its type; the progress of sampling shows at a terminal only."""
    check_model(model)
    device = usable_device(device)
    if dtype == "float16" and device.startswith("cpu"):
        raise ValueError(f"--dtype {dtype} is for GPUs, and this runs on --device {device}; give bfloat16 or float32.")

    import torch
    from diffusers.utils import logging

    from ..storage.pipelines import ClassifierGuidedLatentPipeline, load_default

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


def scheduler_settings(text: str) -> dict[str, Any]:
    """The settings of a scheduler that ``--scheduler_options`` gives as JSON."""
    try:
        settings = json.loads(text)
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise ValueError(f"""--scheduler_options must be JSON such as '{{"use_karras_sigmas": true}}', got {text!r}.""")
    return settings


def load_autoencoder(model: str, device: str | None = None) -> Any:
    """An autoencoder of this package in float32, from its own folder or a pipeline's, or from the Hub."""
    check_model(model, "config.json", "vae/config.json", what="autoencoder")

    from diffusers.utils import logging

    from ..storage.pipelines import load_network

    logging.disable_progress_bar()
    return load_network(model, "vae").to(usable_device(device))


def load_image_maker(model: str, device: str | None = None) -> Any:
    """What makes images of latents: an autoencoder, also that of a pipeline's folder, or the generator of a GAN."""
    check_model(model, "config.json", "vae/config.json", what="network or pipeline with an autoencoder")
    if Path(model, "model_index.json").is_file():
        return load_autoencoder(model, device)

    from ..models.gan import GANGenerator
    from ..storage.pipelines import load_network

    network = load_network(model).to(usable_device(device))
    if not (isinstance(network, GANGenerator) or hasattr(network, "decode")):
        raise ValueError(f"--model {model!r} holds a {type(network).__name__}, which draws no images by itself.")
    return network


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
    from ..sampling.networks import sample_shape

    shape, names = sample_shape(pipe.denoiser), tuple(pipe.id2label.values())
    if shape != (2,):
        raise ValueError(f"--model {model!r} makes samples of shape {shape}, not points in the plane.")
    if pipe.classifier is not None and names != data.class_names:
        raise ValueError(
            f"--dataset_name {dataset_name!r} has the classes {', '.join(data.class_names)}, but the pipeline "
            f"{model!r} has {', '.join(names)}; name the data that it was trained on."
        )
    return pipe, data


def training_settings(model: str) -> dict[str, Any]:
    """What ``train_config.json`` beside the weights says; empty where there is none."""
    for folder in ("", "vae", "steps/denoiser"):
        file = Path(model, folder, "train_config.json")
        if file.is_file():
            return json.loads(file.read_text(encoding="utf-8"))
    return {}


def usable_device(device: str | None) -> str:
    """The device asked for, if it can be used here; a CUDA device where there is one, else the CPU."""
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device!r} cannot be used here: {error}") from error
    return device


@dataclass(frozen=True)
class GuidanceOptions:
    """What the commands that draw guided images share."""

    guidance_interval: tuple[float, float] | None = None
    """Guide between these two values of sigma / alpha; the pipeline's own if left out."""
    guidance_rescale: float = 0.0
    """How far the spread of guided predictions is brought back, from 0 to 1."""
    classifier_temperature: float = 1.0
    """Divides the classifier's logits."""
    autoguidance_scale: float = 1.0
    """Weight of the denoiser against the pipeline's weak one (assemble --weak_denoiser); 1 is off."""
    dtype: DataType = "float32"
    """Floating-point type to compute in."""

    def call_arguments(self) -> dict[str, Any]:
        """What the pipeline is called with."""
        return {name: value for name, value in vars(self).items() if name != "dtype"}


@dataclass(frozen=True)
class MeasuringOptions:
    """What the commands that measure images share."""

    output: Path = Path("metrics.json")
    """File of measurements to add to, .json. All other runs in it stay."""
    num_images: int = 1_000
    """Images of each set."""
    labels: Literal["reference", "uniform"] = "reference"
    """Mix of the wanted classes, and of the real images beside them: that of the test set, or uniform. The distances
    (FID, KID) of images with uniform labels also count how far the test set is from uniform: on MNIST that is several
    times what real images in its proportions have."""
    seed: int = 0
    """Every image has a random generator of its own, made from the seed, its class and its number."""
    dataset_name: str = DEFAULT_DATASET
    """Hub id or folder of the data set that the model was trained on."""
    image_column: str = "image"
    """Column of the images."""
    label_column: str = "label"
    """Column of the classes."""
    resolution: int | None = None
    """Resize the images of the data set to this height and width, those that the model makes."""
    judge: str | None = None
    """Folder or Hub id of a judge: from train_judge.py, or any image classifier of transformers; the one shipped with
    the package, for grey images of 28x28, if left out. Its classes are those of the data set by name, or in order."""
    device: str | None = None
    """Where to compute, such as cpu or cuda; a CUDA device where there is one, else the CPU, if left out."""
    force: bool = False
    """Measure again what is in the output already, and overwrite the figure."""

    def check(self, model: str | None = None, figure: Path | None = None) -> None:
        """Refuse what cannot work before anything heavy is imported."""
        check_model(model)
        if figure is not None:
            check_figure(figure, self.force)
        check_model(self.judge, "config.json", what="judge", option="--judge")
        check_packages(("scipy",), "evaluation")
        check_measurements(self.output)

    def reference(self) -> Reference:
        """Real images and the judge on its device; under a launcher one process reads the data first."""
        from ..data.images import load_image_splits
        from ..evaluation.judge import Judge, load_judge
        from ..evaluation.samples import start_processes
        from ..evaluation.scores import Reference, check_enough

        with start_processes().main_process_first():
            train, test = load_image_splits(
                self.dataset_name,
                image_column=self.image_column,
                label_column=self.label_column,
                resolution=self.resolution,
            )
        check_enough(self.num_images, len(test.class_names))
        judge = load_judge() if self.judge is None else Judge.from_pretrained(self.judge).of_classes(test.class_names)
        if judge.image_shape not in (None, test.image_shape):
            raise ValueError(
                f"--dataset_name {self.dataset_name!r} has images of shape {test.image_shape}, and the judge "
                f"{self.judge or 'that is shipped'} reads those of shape {judge.image_shape}: give --judge a folder or "
                "Hub id of an image classifier with an image processor, or one that train_judge.py made for this data."
            )
        return Reference(train, test, judge.to(self.own_device()), self.dataset_name, self.labels)

    def own_device(self) -> str:
        """The device asked for; else that of this process."""
        from ..evaluation.samples import start_processes

        state = start_processes()
        return usable_device(str(state.device) if self.device is None and state.num_processes > 1 else self.device)
