"""Three training outputs to one pipeline, once they are known to fit together."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from diffusers import DDPMScheduler

from .loading import load_network
from .pipeline import ClassifierGuidedLatentPipeline
from .schedulers import describe_noise, preserving_table

__all__ = ["assemble_pipeline"]

Folder = str | os.PathLike[str]


def assemble_pipeline(
    vae: Folder | None,
    denoiser: Folder,
    classifier: Folder | None,
    class_names: Sequence[str] | None = None,
    half: bool = False,
) -> ClassifierGuidedLatentPipeline:
    """Build a pipeline from what the training scripts wrote.

    Args:
        vae: folder of ``train_vae.py``; None for networks that were trained on pixels.
        denoiser: folder of ``train_denoiser.py``; its ``scheduler/`` becomes the pipeline's.
        classifier: folder of ``train_classifier.py``; None for a pipeline without guidance.
        class_names: the name of each class, in label order; ``"0"``, ``"1"``, ... if None.
        half: narrow the networks to float16.

    Raises:
        OSError: a folder is missing or cannot be read.
        ValueError: the networks do not fit together; the message says which and how they differ.
    """
    scheduler = _training_scheduler(denoiser)
    if classifier is not None:
        _check_same_noise(scheduler, _training_scheduler(classifier), denoiser, classifier)
    networks = {
        name: None if folder is None else _loaded(folder, half)
        for name, folder in (("vae", vae), ("denoiser", denoiser), ("classifier", classifier))
    }
    _check_shapes(**networks)
    if classifier is not None and class_names is not None:
        num_classes = networks["classifier"].config.num_classes
        if len(class_names) != num_classes:
            raise ValueError(
                f"class_names has {len(class_names)} names for the classifier's {num_classes} classes; name each one."
            )
    id2label = None if class_names is None else dict(enumerate(class_names))
    return ClassifierGuidedLatentPipeline(**networks, scheduler=scheduler, id2label=id2label)


def _loaded(folder: Folder, half: bool) -> torch.nn.Module:
    network = load_network(folder)
    network.register_to_config(_name_or_path=os.path.basename(os.path.abspath(folder)))  # not the path of a machine
    return network.half() if half else network


def _training_scheduler(folder: Folder) -> DDPMScheduler:
    if not os.path.isfile(os.path.join(folder, "scheduler", "scheduler_config.json")):
        raise FileNotFoundError(
            f"{os.fspath(folder)!r} has no scheduler/scheduler_config.json, the noise its network was trained on; give "
            "the output_dir of a finished training run."
        )
    return DDPMScheduler.from_pretrained(folder, subfolder="scheduler")


def _check_same_noise(ours: DDPMScheduler, theirs: DDPMScheduler, denoiser: Folder, classifier: Folder) -> None:
    """The classifier must have seen the noise that the denoiser removes."""
    first, second = describe_noise(ours), describe_noise(theirs)
    tables = preserving_table(first), preserving_table(second)
    if tables[0].shape != tables[1].shape or not torch.allclose(*tables, rtol=1e-3, atol=1e-6):
        names = sorted((first.keys() | second.keys()) - {"prediction_type"})
        differences = "; ".join(
            f"{name} {first.get(name)!r} and {second.get(name)!r}"
            for name in names
            if first.get(name) != second.get(name)
        )
        raise ValueError(
            f"The denoiser {os.fspath(denoiser)!r} and the classifier {os.fspath(classifier)!r} were trained on "
            f"different noise ({differences}). Train both with the same settings."
        )


def _check_shapes(vae: torch.nn.Module | None, denoiser: torch.nn.Module, classifier: torch.nn.Module | None) -> None:
    """All networks must work on samples of one shape."""
    expected = tuple(denoiser.config.sample_shape)
    shapes = {}
    if vae is not None:
        shapes["VAE"] = tuple(vae.latent_shape)
    if classifier is not None:
        shapes["classifier"] = tuple(classifier.config.sample_shape)
    for name, shape in shapes.items():
        if shape != expected:
            raise ValueError(
                f"The denoiser works on samples of shape {expected}, the {name} on {shape}. Train the denoiser and the "
                "classifier with the same vae_path, and assemble them with that VAE."
            )
