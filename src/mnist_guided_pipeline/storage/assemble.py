"""Three training outputs to one pipeline, once they are known to fit together."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import ModelMixin, SchedulerMixin

from ..models.probe import check_label_effect
from ..sampling.noise import training_levels
from ..sampling.pipeline import ClassifierGuidedLatentPipeline
from ..sampling.schedulers import SUPPORTED, describe_noise
from .atomic import write_listed
from .loading import load_network
from .places import public_name

__all__ = ["assemble_pipeline", "keep_recipes"]

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
        ValueError: the networks do not fit together, or the denoiser ignores its labels; the message says which and
            how.
    """
    scheduler = _training_scheduler(denoiser)
    if classifier is not None:
        _check_same_noise(scheduler, _training_scheduler(classifier), denoiser, classifier)
    networks: dict[str, Any] = {
        name: None if folder is None else _loaded(folder)
        for name, folder in (("vae", vae), ("denoiser", denoiser), ("classifier", classifier))
    }
    _check_shapes(**networks)
    check_label_effect(networks["denoiser"], scheduler.config.num_train_timesteps / 2)
    if classifier is not None and class_names is not None:
        num_classes = networks["classifier"].config.num_classes
        if len(class_names) != num_classes:
            raise ValueError(
                f"class_names has {len(class_names)} names for the classifier's {num_classes} classes; name each one."
            )
    if half:
        for network in filter(None, networks.values()):
            network.half()
    id2label = None if class_names is None else dict(enumerate(class_names))
    return ClassifierGuidedLatentPipeline(**networks, scheduler=scheduler, id2label=id2label)


def _loaded(folder: Folder) -> ModelMixin:
    network = load_network(folder)
    network.register_to_config(_name_or_path=os.path.basename(os.path.abspath(folder)))  # not the path of a machine
    return network


def keep_recipes(pipeline_folder: Folder, steps: Mapping[str, Folder | None]) -> None:
    """Put the settings that each network was trained with beside it, for the model card; no path of a machine is kept.

    Args:
        pipeline_folder: what ``save_pretrained`` wrote.
        steps: by component, the folder that the training script wrote, or None; a step without a
            ``train_config.json`` is left out. ``vae_train_config.json`` of a sharpened decoder goes along.

    Raises:
        IntegrityError: a file of the pipeline's folder is damaged.
    """
    texts = {}
    for name, step in steps.items():
        for file in () if step is None else Path(step).glob("*train_config.json"):
            settings = json.loads(file.read_text())
            public = {key: public_name(value) if isinstance(value, str) else value for key, value in settings.items()}
            texts[f"{name}/{file.name}"] = json.dumps(public, indent=2, sort_keys=True) + "\n"
    write_listed(pipeline_folder, texts)


def _training_scheduler(folder: Folder) -> SchedulerMixin:
    file = os.path.join(folder, "scheduler", "scheduler_config.json")
    if not os.path.isfile(file):
        raise FileNotFoundError(
            f"{os.fspath(folder)!r} has no scheduler/scheduler_config.json, the noise its network was trained on; give "
            "the output_dir of a finished training run."
        )
    with open(file) as text:
        name = json.load(text).get("_class_name")
    if name not in SUPPORTED:
        raise ValueError(f"{file!r} names the scheduler {name!r}; known are {', '.join(SUPPORTED)}.")
    return getattr(diffusers, name).from_pretrained(folder, subfolder="scheduler")


def _check_same_noise(ours: SchedulerMixin, theirs: SchedulerMixin, denoiser: Folder, classifier: Folder) -> None:
    """The classifier must have seen the noise that the denoiser removes."""
    first, second = describe_noise(ours), describe_noise(theirs)
    alphas = training_levels(ours).alpha, training_levels(theirs).alpha
    same_law = first["law"] == second["law"] and alphas[0].shape == alphas[1].shape
    if not (same_law and torch.allclose(*alphas, rtol=5e-4, atol=1e-3)):
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


def _check_shapes(vae: ModelMixin | None, denoiser: ModelMixin, classifier: ModelMixin | None) -> None:
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
