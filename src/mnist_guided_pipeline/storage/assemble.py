"""Training outputs to one pipeline, once they are known to fit together."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers import ModelMixin, SchedulerMixin

from ..sampling.schedulers import describe_noise
from .atomic import write_listed
from .lineage import check_latents
from .pipelines import ClassifierGuidedLatentPipeline, load_network
from .places import public_name
from .probe import check_label_effect
from .strict import check_fit, known_class, read_json

Folder = str | os.PathLike[str]


def assemble_pipeline(
    vae: Folder | None,
    denoiser: Folder,
    classifier: Folder | None,
    class_names: Sequence[str] | None = None,
    half: bool = False,
    weak_denoiser: Folder | None = None,
) -> ClassifierGuidedLatentPipeline:
    """Build a pipeline from what the training scripts wrote.

    Args:
        vae: folder of ``train_vae.py`` or ``train_decoder.py``; None for networks that were trained on pixels.
        denoiser: folder of ``train_denoiser.py``, or of ``train_pair.py``, which has it in ``denoiser/``; the folder's
            ``scheduler/`` becomes the pipeline's.
        classifier: folder of ``train_classifier.py`` or ``train_pair.py``; None for a pipeline without guidance.
        class_names: the name of each class, in label order; ``"0"``, ``"1"``, ... if None.
        half: narrow the networks to float16.
        weak_denoiser: folder of ``train_denoiser.py``, for autoguidance; it predicts what the denoiser predicts.

    Raises:
        OSError: a folder is missing or cannot be read.
        ValueError: a folder holds a network of another role, the networks do not fit together, or the denoiser
            ignores its labels; the message says which and how.
    """
    folders = {"vae": vae, "denoiser": denoiser, "classifier": classifier, "weak_denoiser": weak_denoiser}
    networks: dict[str, Any] = {
        name: None if folder is None else _loaded(name, folder) for name, folder in folders.items()
    }
    scheduler = training_scheduler(denoiser)
    names = {name: f"the {name} {os.fspath(folder)!r}" for name, folder in folders.items() if folder is not None}
    for name, folder in (("classifier", classifier), ("weak_denoiser", weak_denoiser)):
        if folder is not None:
            both, weak = (names["denoiser"], names[name]), name == "weak_denoiser"
            check_same_noise(scheduler, training_scheduler(folder), *both, predicting=weak)
    for name in [name for name in names if name != "vae"]:
        check_latents(networks[name], networks["vae"], names[name])
    id2label = None if class_names is None else dict(enumerate(class_names))
    pipe = ClassifierGuidedLatentPipeline(**networks, scheduler=scheduler, id2label=id2label)
    check_fit(pipe.components, pipe.config.training_noise, pipe.id2label)
    check_label_effect(pipe.denoiser, scheduler.config.num_train_timesteps / 2)
    if half:
        for network in filter(None, networks.values()):
            network.half()
    return pipe


def _loaded(name: str, folder: Folder) -> ModelMixin:
    network = load_network(folder, name)
    network.register_to_config(_name_or_path=public_name(os.path.abspath(folder)))
    return network


def keep_recipes(pipeline_folder: Folder, steps: Mapping[str, Folder | None]) -> None:
    """Put the settings that each network was trained with beside it, for the model card; no path of a machine is kept.

    ``steps`` are the folders of the training scripts by component. Those without a ``train_config.json`` are left out;
    that of an earlier training goes along, such as ``vae_train_config.json`` of a sharpened decoder.
    """
    texts = {}
    for name, step in steps.items():
        place = None if step is None else Path(step, name) if Path(step, name).is_dir() else Path(step)
        for file in () if place is None else place.glob("*train_config.json"):
            settings = json.loads(file.read_text(encoding="utf-8"))
            public = {key: public_name(value) if isinstance(value, str) else value for key, value in settings.items()}
            texts[f"{name}/{file.name}"] = json.dumps(public, indent=2, sort_keys=True) + "\n"
    write_listed(pipeline_folder, texts)


def training_scheduler(folder: Folder) -> SchedulerMixin:
    """The scheduler that a training script wrote beside its network: the noise that this was trained on."""
    file = Path(folder, "scheduler", "scheduler_config.json")
    if not file.is_file():
        raise FileNotFoundError(
            f"{os.fspath(folder)!r} has no scheduler/scheduler_config.json, the noise its network was trained on; give "
            "the output_dir of a finished training run."
        )
    scheduler_class = known_class(file, "scheduler", ["diffusers", str(read_json(file).get("_class_name"))])
    return scheduler_class.from_pretrained(file.parent)


def check_same_noise(first: SchedulerMixin, second: SchedulerMixin, *names: str, predicting: bool = False) -> None:
    """Refuse two networks, ``names`` in the error, of different noise; or of different predictions, if asked."""
    ours, theirs = describe_noise(first), describe_noise(second)
    compared = (ours.keys() | theirs.keys()) - (set() if predicting else {"prediction_type"})
    differences = [
        f"{name} {ours.get(name)!r} and {theirs.get(name)!r}"
        for name in sorted(compared)
        if ours.get(name) != theirs.get(name)
    ]
    if differences:
        raise ValueError(
            f"{' and '.join(names)} are of different noise ({'; '.join(differences)}). Train both with the same "
            "settings."
        )
