"""Strict loading: what is damaged, incomplete or does not fit is an error before anything is built or sampled.

``from_pretrained`` of diffusers accepts flipped bits, NaN, missing and surplus weights and unknown settings in silence
or with a warning. The checks here run first, on the folder: the SHA-256 manifest that ``save_pretrained`` wrote, each
network's weights against its config, and the components against each other. Classes come from this package, from
diffusers, or from a module that is imported already; no code of a folder runs and no pickle is opened. Every failure is
an :class:`~.atomic.IntegrityError` that names the file and the reason.
"""

from __future__ import annotations

import inspect
import json
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from diffusers.utils import logging
from safetensors import SafetensorError, safe_open
from torch import nn

from ..sampling.arguments import check_class_names
from ..sampling.networks import check_space, num_classes
from ..sampling.schedulers import check_scheduler, preserving_table, same_table
from .atomic import IntegrityError, verify_manifest

logger = logging.get_logger(__name__)

PACKAGE = "mnist_guided_pipeline"
REMOTE_CODE = "modeling_mnist_"
"""How the files of exported networks begin; the classes are this package's own."""

_NETWORKS = ("vae", "denoiser", "classifier", "weak_denoiser")
_CONTRACT = ("sample_shape", "num_classes")  # what a pipeline asks of any network's config, one of diffusers too
_NEVER_LEFT_OUT = (*_CONTRACT, "latents_mean", "latents_std", "noise_schedule")  # defaults would change what is drawn
_LARGEST = 65_536  # of an integer in a config: far above what 28x28 images need, and soon allocated
_WEIGHTS = "diffusion_pytorch_model"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_FLOATING = {"F16", "BF16", "F32", "F64"}


def check_pipeline(
    folder: Path, pipeline_class: type[DiffusionPipeline], passed: Mapping[str, Any], variant: str | None = None
) -> None:
    """Refuse a pipeline's folder that ``pipeline_class`` cannot load, by an IntegrityError that names the file.

    ``passed`` are components and settings that the caller gives in place of the folder's, ``variant`` is as for
    ``from_pretrained``.
    """
    file = folder / "model_index.json"
    index = installed_names(read_json(file))
    _check_sizes(file, index)
    _check_index(file, index, pipeline_class, passed)
    classes = {
        name: known_class(file, name, index[name])
        for name in (*_NETWORKS, "scheduler")
        if name not in passed and index.get(name) not in (None, [None, None])
    }
    read = [file]
    for name in classes:
        if name == "scheduler":
            read.append(folder / name / "scheduler_config.json")
        else:
            read += [folder / name / "config.json", *weight_files(folder / name, variant)]
    check_listed(folder, read)
    components = {name: passed[name] for name in _NETWORKS if name in passed}  # a scheduler may yet be changed
    for name, found in classes.items():
        components[name] = (
            _built_scheduler(folder / name, found)
            if name == "scheduler"
            else check_network(folder / name, found, variant)
        )
    settings = {**index, **passed}
    try:
        id2label = {int(index): name for index, name in settings["id2label"].items()}
        check_fit(components, settings["training_noise"], id2label)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise IntegrityError(f"{file}: {error}", file) from error


def check_network(folder: Path, network_class: type[ModelMixin], variant: str | None = None) -> ModelMixin:
    """Refuse a damaged folder of one network, manifest apart, by an IntegrityError that names the file.

    Returns:
        The network on the meta device: its config and shapes, no weights.
    """
    file = folder / "config.json"
    config = _config_of(file, network_class)
    parameters = list(inspect.signature(network_class.__init__).parameters)[1:]
    left_out = [name for name in _NEVER_LEFT_OUT if name in parameters and name not in config]
    if left_out and network_class.__module__.partition(".")[0] == PACKAGE:
        raise IntegrityError(f"{file} lacks {', '.join(left_out)}.", file)
    try:
        with torch.device("meta"):
            network = network_class(**{name: config[name] for name in parameters if name in config})
        _check_statistics(network)
    except Exception as error:  # whatever a constructor makes of a wrong value
        raise IntegrityError(f"{file} does not describe a {network_class.__name__}: {error}", file) from error
    network.register_to_config(**{name: config[name] for name in _CONTRACT if name in config})
    known = {*network.config, *getattr(network_class, "retired_settings", ())}
    unknown = sorted(name for name in config if not name.startswith("_") and name not in known)
    if unknown:
        raise IntegrityError(f"{file} has {', '.join(unknown)}, which {network_class.__name__} does not know.", file)
    _check_weights(weight_files(folder, variant), network)
    return network


def check_fit(components: Mapping[str, Any], training_noise: Mapping[str, Any], id2label: Mapping[int, str]) -> None:
    """Refuse networks that do not fit their roles, one sample shape, one set of classes and one noise schedule.

    Components that are missing or None are not looked at.
    """
    check_class_names(id2label)
    networks = {name: components[name] for name in _NETWORKS if components.get(name) is not None}
    for name, network in networks.items():
        check_role(name, network)
        if "denoiser" in networks:
            check_space(name, network, networks["denoiser"])
        count = num_classes(network)
        if count is not None and count != len(id2label):
            raise ValueError(f"id2label has {len(id2label)} names for the {name}'s {count} classes; name each one.")
    if components.get("scheduler") is not None:
        check_scheduler(components["scheduler"], dict(training_noise))
    gate = networks["classifier"].config.get("noise_schedule") if "classifier" in networks else None
    if gate is not None and training_noise["law"] == "preserving":
        if not same_table(preserving_table(dict(gate)), preserving_table(dict(training_noise))):
            raise ValueError("the classifier's noise_schedule is not the training_noise of the pipeline.")


def check_role(name: str, network: Any, place: str = "") -> None:
    """Refuse a network in the place of another kind; the error calls it ``place``, or by the component's name."""
    wanted = "denoiser" if name == "weak_denoiser" else name
    arguments = inspect.signature(network.forward).parameters
    if hasattr(network, "decode"):
        role = "vae"
    elif "timestep" not in arguments:
        role = "network without timesteps"
    else:  # a denoiser that has classes takes labels
        labels = "class_labels" in arguments or num_classes(network) is None
        role = "denoiser" if labels else "classifier"
    if role != wanted:
        raise ValueError(f"{place or name} holds a {type(network).__name__}, a {role}, where a {wanted} is needed.")


def known_class(file: Path, name: str, entry: Any) -> Any:
    """The class that an index names for a component, from a module that is imported already.

    An IntegrityError if there is none, or it is no network (of ``scheduler``: no scheduler).
    """
    if not (isinstance(entry, (list, tuple)) and len(entry) == 2 and all(isinstance(text, str) for text in entry)):
        raise IntegrityError(f"{file}: {name} must be [library, class], not {entry!r}.", file)
    library, class_name = entry
    found = getattr(diffusers if library == "diffusers" else sys.modules.get(library), class_name, None)
    base = SchedulerMixin if name == "scheduler" else ModelMixin
    if not (isinstance(found, type) and issubclass(found, base)):
        raise IntegrityError(
            f"{file}: {name} is {class_name} of {library}, which is no {base.__name__} known here.", file
        )
    return found


def installed_names(index: dict[str, Any]) -> dict[str, Any]:
    """A pipeline's index in which the classes of exported code are those of the installed package."""
    names = dict(index)
    pipeline = names.get("_class_name")
    if isinstance(pipeline, (list, tuple)) and len(pipeline) == 2 and pipeline[0] == "pipeline":
        names["_class_name"] = pipeline[1]
    for name in _NETWORKS:
        entry = names.get(name)
        if isinstance(entry, (list, tuple)) and len(entry) == 2 and str(entry[0]).startswith(REMOTE_CODE):
            names[name] = [PACKAGE, entry[1]]
    return names


def check_listed(folder: Path, files: Iterable[Path]) -> None:
    """Refuse files that are missing or not as in the folder's manifest; warn where there is none."""
    if not verify_manifest(folder, sorted(file.relative_to(folder).as_posix() for file in files)):
        logger.warning(
            "%s has no manifest.json, so changed bits in its weights would go unnoticed. save_pretrained of this "
            "package writes one; so does mnist_guided_pipeline.storage.atomic.write_manifest(folder).",
            folder,
        )


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; a file that is missing or holds something else is an IntegrityError."""
    if not file.is_file():
        raise IntegrityError(f"{file} is missing.", file)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise IntegrityError(f"{file} cannot be read as JSON: {error}", file) from error
    if not isinstance(content, dict):
        raise IntegrityError(f"{file} must hold a JSON object, not {type(content).__name__}.", file)
    return content


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """The files that ``from_pretrained`` reads weights from: an index and its shards, or one; of a variant if there.

    None in safetensors, or an index that is damaged or names something outside the folder, is an IntegrityError.
    """
    for middle in ([f".{variant}"] if variant else []) + [""]:
        single = folder / f"{_WEIGHTS}{middle}.safetensors"
        index = folder / f"{_WEIGHTS}.safetensors.index{middle}.json"
        if index.is_file() and single.is_file():
            raise IntegrityError(
                f"{folder} holds both {index.name} and {single.name}; remove the one that is stale.", index
            )
        if index.is_file():
            return [index, *_shards(index)]
        if single.is_file():
            return [single]
    pickled = sorted(file.name for file in folder.glob("*") if file.suffix in _PICKLED)
    found = f" Its {', '.join(pickled)} can run code when read, so it is not." if pickled else ""
    raise IntegrityError(f"{folder / _WEIGHTS}.safetensors is missing.{found}", folder / f"{_WEIGHTS}.safetensors")


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise IntegrityError(f"{index} has no weight_map.", index)
    shards = [index.parent / str(name) for name in sorted(map(str, set(weight_map.values())))]
    for shard in shards:
        if shard.parent != index.parent or ".." in shard.parts or shard.suffix != ".safetensors":
            raise IntegrityError(f"{index} names {shard}, which is not a safetensors file of its own folder.", index)
        if not shard.is_file():
            raise IntegrityError(f"{shard} is missing, though {index.name} lists it.", shard)
    return shards


def _check_index(
    file: Path, index: dict[str, Any], pipeline_class: type[DiffusionPipeline], passed: Mapping[str, Any]
) -> None:
    named = index.get("_class_name")
    if named not in {parent.__name__ for parent in pipeline_class.__mro__ if hasattr(parent, "check_inputs")}:
        raise IntegrityError(f"{file} is of a {named}, not of a {pipeline_class.__name__}.", file)
    known = inspect.signature(pipeline_class.__init__).parameters
    surplus = sorted(name for name in index if not name.startswith("_") and name not in known)
    if surplus:
        raise IntegrityError(f"{file} names {', '.join(surplus)}, which {named} does not have.", file)
    missing = [
        name
        for name in ("denoiser", "scheduler", "training_noise", "id2label")
        if name not in passed and index.get(name) in (None, [None, None])
    ]
    if missing:
        raise IntegrityError(f"{file} lacks {', '.join(missing)}.", file)


def _config_of(file: Path, wanted: type) -> dict[str, Any]:
    """The config of a class."""
    config = read_json(file)
    if config.get("_class_name") != wanted.__name__:
        raise IntegrityError(f"{file} is of a {config.get('_class_name')}, not of a {wanted.__name__}.", file)
    _check_sizes(file, config)
    return config


def _check_sizes(file: Path, settings: Mapping[str, Any]) -> None:
    """Refuse numbers that would ask for gigabytes before anything is compared."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            _check_sizes(file, value)
        elif isinstance(value, int) and value > _LARGEST:
            raise IntegrityError(f"{file}: {name} is {value:,}; at most {_LARGEST:,} will do.", file)


def _built_scheduler(folder: Path, scheduler_class: type[SchedulerMixin]) -> Any:
    file = folder / "scheduler_config.json"
    config = _config_of(file, scheduler_class)
    try:
        return scheduler_class.from_config(config)
    except Exception as error:  # whatever a constructor makes of a wrong value
        raise IntegrityError(f"{file} does not describe a {scheduler_class.__name__}: {error}", file) from error


def _check_statistics(network: ModelMixin) -> None:
    """One finite mean and one positive deviation per channel, or dimension, of the latent."""
    mean, std = (network.config.get(name) for name in ("latents_mean", "latents_std"))
    shape = getattr(network, "latent_shape", None)
    for name, values, low in (("latents_mean", mean, -math.inf), ("latents_std", std, 0.0)):
        if values is None:
            continue
        if not all(low < value < math.inf for value in values):
            raise ValueError(f"{name} must be finite{', and positive' if low == 0 else ''}, got {values!r}.")
        if shape is not None and len(values) != shape[0]:
            raise ValueError(f"{name} has {len(values)} entries for latents of shape {tuple(shape)}.")


def _check_weights(files: list[Path], network: nn.Module) -> None:
    """Compare the files with a network on the meta device, and look at every number."""
    wanted = network.state_dict()
    found: dict[str, Path] = {}
    for file in [file for file in files if file.suffix == ".safetensors"]:
        try:
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():
                    if name in found:
                        raise IntegrityError(f"{file} and {found[name].name} both hold the weight {name!r}.", file)
                    found[name] = file
                    _check_tensor(file, name, weights, wanted)
        except SafetensorError as error:
            raise IntegrityError(f"{file} cannot be read: {error}", file) from error
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        names = ", ".join(map(repr, missing[:3])) + (f" and {len(missing) - 3} more weights" if missing[3:] else "")
        raise IntegrityError(f"{files[0]} lacks {names} of {type(network).__name__}.", files[0])


def _check_tensor(file: Path, name: str, weights: Any, wanted: dict[str, torch.Tensor]) -> None:
    if name not in wanted:
        raise IntegrityError(f"{file} holds {name!r}, which is no weight of the network.", file)
    header = weights.get_slice(name)
    shape = tuple(header.get_shape())
    if shape != tuple(wanted[name].shape):
        raise IntegrityError(
            f"{file}: {name!r} has shape {shape}, not {tuple(wanted[name].shape)} as config.json says.", file
        )
    if wanted[name].is_floating_point():
        if header.get_dtype() not in _FLOATING:
            raise IntegrityError(f"{file}: {name!r} is of type {header.get_dtype()}, not floating-point.", file)
        if not torch.isfinite(weights.get_tensor(name)).all():
            raise IntegrityError(f"{file}: {name!r} holds NaN or infinity.", file)
