"""Strict loading: what is damaged, incomplete or does not fit is an error before anything is built or sampled.

``from_pretrained`` of diffusers accepts flipped bits, NaN, missing and surplus weights and unknown settings in silence
or with a warning. The checks here run first, on the folder: the SHA-256 manifest that ``save_pretrained`` wrote, the
bounds of :mod:`.limits`, the weights against the network that the config describes, and the components against each
other. Every failure is an :class:`~.atomic.IntegrityError` that names the file and the reason.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from diffusers.utils import logging

from ..sampling.arguments import check_count, check_interval, check_number
from ..sampling.schedulers import SUPPORTED, check_scheduler, preserving_table
from .atomic import IntegrityError, verify_manifest
from .limits import check_config_values
from .weight_files import check_weights, read_json, weight_files

__all__ = ["PACKAGE", "REMOTE_CODE", "check_network", "check_pipeline", "installed_names", "warn_without_manifest"]

logger = logging.get_logger(__name__)

PACKAGE = "mnist_guided_pipeline"
REMOTE_CODE = "modeling_mnist_"
"""How the files of exported networks begin; the classes are this package's own."""

_NETWORKS = ("vae", "denoiser", "classifier", "weak_denoiser")
_CONTRACT = ("sample_shape", "num_classes")  # what a pipeline asks of any network's config, one of diffusers too
_NEVER_LEFT_OUT = ("sample_shape", "num_classes", "latents_mean", "latents_std", "noise_schedule")
_NOISE_SETTINGS = {"law", "prediction_type", "num_train_timesteps", "beta_start", "beta_end", "beta_schedule"}
_NOISE_SETTINGS |= {"trained_betas", "rescale_betas_zero_snr", "sigma_data"}
_SAMPLING_CHECKS = {
    "guidance_scale": lambda name, value: check_number(name, value, 0.0),
    "guidance_interval": check_interval,
    "num_inference_steps": check_count,
}


def check_pipeline(
    folder: Path, pipeline_class: type[DiffusionPipeline], passed: Mapping[str, Any], variant: str | None = None
) -> None:
    """Check a pipeline's folder before it is loaded.

    Args:
        folder: what ``save_pretrained``, ``export`` or a download wrote.
        pipeline_class: the class that is to load it.
        passed: components and settings that the caller gives in place of the folder's.
        variant: as for ``from_pretrained``.

    Raises:
        IntegrityError: naming the file and what is wrong with it.
    """
    index_file = folder / "model_index.json"
    index = installed_names(read_json(index_file))
    names = {"model_index.json"}
    _check_index(index_file, index, pipeline_class, passed)
    components: dict[str, Any] = {name: passed[name] for name in (*_NETWORKS, "scheduler") if name in passed}
    classes = {}
    for name in (*_NETWORKS, "scheduler"):
        if name not in components and index.get(name) not in (None, [None, None]):
            classes[name] = _component_class(index_file, name, index[name])
            names |= _component_files(folder, name, classes[name], variant)
    if not verify_manifest(folder, sorted(names)):
        warn_without_manifest(folder)
    for name, component_class in classes.items():
        if issubclass(component_class, ModelMixin):
            components[name] = check_network(folder / name, component_class, variant)
        else:
            components[name] = _built_scheduler(folder / name, component_class)
    _check_settings(index_file, {**index, **{key: passed[key] for key in passed if key not in components}})
    _check_fit(index_file, index, components, passed)


def check_network(folder: Path, network_class: type[ModelMixin], variant: str | None = None) -> ModelMixin:
    """Check one network's folder, all but its manifest.

    Returns:
        The network on the meta device: its config and shapes, no weights.

    Raises:
        IntegrityError: naming the file and what is wrong with it.
    """
    file = folder / "config.json"
    config = read_json(file)
    if config.get("_class_name") != network_class.__name__:
        raise IntegrityError(f"{file} is of a {config.get('_class_name')}, not of a {network_class.__name__}.", file)
    parameters = list(inspect.signature(network_class.__init__).parameters)[1:]
    arguments = {name: config[name] for name in parameters if name in config}
    forgotten = [name for name in _NEVER_LEFT_OUT if name in parameters and name not in config]
    if forgotten and network_class.__module__.partition(".")[0] == PACKAGE:
        raise IntegrityError(f"{file} lacks {', '.join(forgotten)}.", file)
    try:
        check_config_values(config)
        with torch.device("meta"):
            network = network_class(**arguments)
    except Exception as error:  # whatever a constructor makes of a wrong value
        raise IntegrityError(f"{file} does not describe a {network_class.__name__}: {error}", file) from error
    network.register_to_config(**{name: config[name] for name in _CONTRACT if name in config})
    known = {*network.config, *getattr(network_class, "retired_settings", ())}
    unknown = sorted(name for name in config if not name.startswith("_") and name not in known)
    if unknown:
        raise IntegrityError(f"{file} has {', '.join(unknown)}, which {network_class.__name__} does not know.", file)
    _check_statistics(file, network)
    check_weights(weight_files(folder, variant), network)
    return network


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


def warn_without_manifest(folder: Path) -> None:
    """Say that damage to weights would go unnoticed, and how to change that."""
    logger.warning(
        "%s has no manifest.json, so changed bits in its weights would go unnoticed. save_pretrained of this package "
        "writes one; so does mnist_guided_pipeline.storage.atomic.write_manifest(folder).",
        folder,
    )


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
    required = [
        name
        for name in ("denoiser", "scheduler", "training_noise", "id2label")
        if name not in passed and index.get(name) in (None, [None, None])
    ]
    if required:
        raise IntegrityError(f"{file} lacks {', '.join(required)}.", file)


def _component_class(file: Path, name: str, entry: Any) -> type:
    """The class that the index names, from this package, from diffusers, or from a module that is already imported."""
    if not (isinstance(entry, (list, tuple)) and len(entry) == 2 and all(isinstance(text, str) for text in entry)):
        raise IntegrityError(f"{file}: {name} must be [library, class], not {entry!r}.", file)
    library, class_name = entry
    module = diffusers if library == "diffusers" else sys.modules.get(library)
    found = getattr(module, class_name, None)
    base = SchedulerMixin if name == "scheduler" else ModelMixin
    if not (isinstance(found, type) and issubclass(found, base)):
        raise IntegrityError(
            f"{file}: {name} is {class_name} of {library}, which is no {base.__name__} known here.", file
        )
    return found


def _component_files(folder: Path, name: str, component_class: type, variant: str | None) -> set[str]:
    """What is read of a component, as the manifest names it."""
    if not issubclass(component_class, ModelMixin):
        return {f"{name}/scheduler_config.json"}
    read_json(folder / name / "config.json")
    return {f"{name}/config.json", *(f"{name}/{file.name}" for file in weight_files(folder / name, variant))}


def _built_scheduler(folder: Path, scheduler_class: type[SchedulerMixin]) -> Any:
    file = folder / "scheduler_config.json"
    config = read_json(file)
    if config.get("_class_name") != scheduler_class.__name__:
        raise IntegrityError(f"{file} is of a {config.get('_class_name')}, not of a {scheduler_class.__name__}.", file)
    unknown = sorted(name for name in config if not name.startswith("_") and name not in _settings_of(scheduler_class))
    if unknown:  # a scheduler keeps settings that only the next class has a use for
        others = set().union(*(_settings_of(getattr(diffusers, name)) for name in SUPPORTED))
        unknown = [name for name in unknown if name not in others]
    if unknown:
        raise IntegrityError(f"{file} has {', '.join(unknown)}, which no scheduler knows.", file)
    try:
        check_config_values(config)
        return scheduler_class.from_config(config)
    except Exception as error:  # whatever a constructor makes of a wrong value
        raise IntegrityError(f"{file} does not describe a {scheduler_class.__name__}: {error}", file) from error


def _settings_of(scheduler_class: type[SchedulerMixin]) -> set[str]:
    return set(inspect.signature(scheduler_class.__init__).parameters)


def _check_statistics(file: Path, network: ModelMixin) -> None:
    """One mean and deviation a channel, or a dimension, of the latent."""
    shape = getattr(network, "latent_shape", None)
    for name in ("latents_mean", "latents_std"):
        values = network.config.get(name)
        if shape is not None and values is not None and len(values) != shape[0]:
            raise IntegrityError(f"{file}: {name} has {len(values)} entries for latents of shape {tuple(shape)}.", file)


def _check_settings(file: Path, settings: Mapping[str, Any]) -> None:
    """The pipeline's own settings: class names, noise law, defaults of sampling."""
    try:
        names = settings["id2label"]
        if not isinstance(names, Mapping) or {int(key) for key in names} != set(range(len(names))):
            raise ValueError(f"id2label must name the classes 0, 1, ... without a gap, got {names!r}.")
        noise, defaults = settings["training_noise"], settings.get("sampling_defaults") or {}
        defaults = dict(defaults)
        of_classes, alone = defaults.pop("schedulers", {}), defaults.pop("classifier_alone", {})
        unknown = sorted(of_classes.keys() - SUPPORTED.keys()) + sorted(noise.keys() - _NOISE_SETTINGS)
        for chosen in (defaults, alone, *of_classes.values()):
            unknown += sorted(chosen.keys() - _SAMPLING_CHECKS.keys())
            for name in chosen.keys() & _SAMPLING_CHECKS.keys():
                _SAMPLING_CHECKS[name](name, chosen[name])
        if unknown:
            raise ValueError(f"training_noise and sampling_defaults do not have {', '.join(unknown)}.")
        check_config_values({"training_noise": noise})
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise IntegrityError(f"{file}: {error}", file) from error


def _check_fit(file: Path, index: Mapping[str, Any], components: Mapping[str, Any], passed: Mapping[str, Any]) -> None:
    """Networks of one sample shape, one set of classes and one noise law."""
    denoiser = components["denoiser"]
    vae = components.get("vae")
    shape = tuple(denoiser.config.sample_shape) if "sample_shape" in denoiser.config else None
    shapes = {"vae": getattr(vae, "latent_shape", None)}
    noise = passed.get("training_noise") or index["training_noise"]
    for name in ("classifier", "weak_denoiser"):
        if components.get(name) is not None:
            shapes[name] = components[name].config.get("sample_shape")
    for name, other in shapes.items():
        if shape is not None and other is not None and tuple(other) != shape:
            raise IntegrityError(
                f"{file}: the denoiser works on samples of shape {shape}, the {name} on {tuple(other)}.", file
            )
    num_classes = len(passed.get("id2label") or index["id2label"])
    for name in ("denoiser", "classifier", "weak_denoiser"):
        count = None if components.get(name) is None else components[name].config.get("num_classes")
        if count is not None and count != num_classes:
            raise IntegrityError(f"{file}: id2label names {num_classes} classes, the {name} has {count}.", file)
    try:
        if "scheduler" not in passed:  # a caller's own is checked when it is used, and may yet be changed
            check_scheduler(components["scheduler"], dict(noise))
        gate = None if components.get("classifier") is None else components["classifier"].config.get("noise_schedule")
        if gate is not None and noise["law"] == "preserving":
            tables = preserving_table(dict(gate)), preserving_table(dict(noise))
            if tables[0].shape != tables[1].shape or not torch.allclose(*tables, rtol=1e-3, atol=1e-6):
                raise ValueError("the classifier's noise_schedule is not the training_noise of the pipeline.")
    except (ValueError, TypeError, KeyError) as error:
        raise IntegrityError(f"{file}: {error}", file) from error
