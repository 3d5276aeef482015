"""How a training script starts and ends: settings, processes, data, and errors of one line."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import psutil
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, ProjectConfiguration, set_seed
from accelerate.utils.environment import parse_flag_from_env
from diffusers import ModelMixin
from tqdm.auto import tqdm

from ..data.images import LabelledImages, load_image_splits
from ..data.points import PointSet, is_point_set, load_points
from ..data.posteriors import sample_shape_of
from ..sampling.networks import note_classes, num_classes, sample_shape
from ..storage.assemble import check_same_noise, training_scheduler
from ..storage.lineage import check_latents, note_latents
from ..storage.pipelines import fetched, load_network
from ..storage.push import start_push
from .checkpoints import NonFiniteError
from .config import LatentTrainingConfig, TrainingConfig, parse
from .history import HistoryTracker

Config = TypeVar("Config", bound=TrainingConfig)


_BYTES_PER_PARAMETER = 5 * 4  # weight, gradient, AdamW's two moments and the average, in float32


def launch(
    config_class: type[Config], main: Callable[[Config, Accelerator], None], presets: Mapping[str, Config] | None = None
) -> None:
    """Run a training script: read and check the settings, start Accelerate, train, end every process in order.

    ``presets`` is the table that ``--preset NAME`` reads; without one the script has no such flag.
    """
    config = parse(config_class, presets=presets)
    with plain_errors():
        accelerator = make_accelerator(config)
        if config.dry_run:
            accelerator.print(config.to_json())
        try:
            main(config, accelerator)
        except SystemExit:  # in order, also on request
            end(accelerator)
            raise
        end(accelerator)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """End the program with one line and status 2 on what the user can fix: settings, files, a run that diverges."""
    try:
        yield
    except (ValueError, OSError, NonFiniteError) as error:
        tqdm.write(f"error: {' '.join(str(error).split())}", file=sys.stderr)  # not behind a progress bar
        raise SystemExit(2) from None
    except KeyboardInterrupt:  # before the first update
        raise SystemExit(128 + signal.SIGINT) from None


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """Start Accelerate, seed every process alike, and with ``push_to_hub`` make the repository.

    A launcher that cuts the networks into shards, or whose settings are not those of the run, is a ValueError.
    """
    AcceleratorState._reset_state()  # a pipeline's steps run in one process and may differ in precision
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,  # what backward() divides the loss by
        log_with=[HistoryTracker(config.output_dir), *(() if config.report_to == "none" else (config.report_to,))],
        project_config=ProjectConfiguration(config.output_dir, os.path.join(config.output_dir, "logs")),
    )
    check_all_seen(accelerator.num_processes, "they would train apart and overwrite each other")
    launched = {
        "gradient_accumulation_steps": accelerator.gradient_accumulation_steps,  # Accelerate prefers the launcher's
        "mixed_precision": os.environ.get("ACCELERATE_MIXED_PRECISION", config.mixed_precision),
    }
    for name, value in launched.items():
        if value not in (getattr(config, name), "no"):
            raise ValueError(
                f"The launcher sets {name} {value} (ACCELERATE_{name.upper()}), this run {getattr(config, name)}: "
                f"launch without it, or give --{name} {value} to the script."
            )
    sharded = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
    if accelerator.distributed_type in sharded or parse_flag_from_env("ACCELERATE_USE_FSDP"):
        raise ValueError(
            "The launcher cuts networks into shards (FSDP, DeepSpeed or Megatron-LM), which these small ones do not "
            "need. Launch with training/accelerate/several_gpus.yaml."
        )
    set_seed(config.seed)
    if accelerator.is_main_process:
        start_push(config)
    return accelerator


def check_all_seen(num_processes: int, otherwise: str) -> None:
    """Stop where the launcher started more processes than Accelerate sees; the message says what they would do."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != num_processes:
        raise RuntimeError(
            f"The launcher started {started} processes, but Accelerate sees {num_processes}: {otherwise}. On CPUs, "
            "launch with ACCELERATE_USE_CPU=true."
        )


def end(accelerator: Accelerator) -> None:
    """End the program's trainings in every process; this order keeps gloo from aborting at exit."""
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    accelerator.end_training()


def load_splits(config: TrainingConfig, accelerator: Accelerator | PartialState) -> tuple[Any, Any]:
    """The training and test split, ``LabelledImages`` or a ``PointSet`` each.

    The main process decodes images, the others read its cache.
    """
    counts = (config.max_train_samples, config.max_eval_samples)
    with accelerator.main_process_first():
        if is_point_set(name := config.dataset_name):
            train, test = counts
            return load_points(name, "train", max_samples=train), load_points(name, "test", max_samples=test)
        return load_image_splits(
            config.dataset_name,
            *counts,
            dataset_config_name=config.dataset_config_name,
            image_column=config.image_column,
            label_column=config.label_column,
            resolution=config.resolution,
            cache_dir=config.cache_dir,
        )


def make_network(
    config: TrainingConfig,
    network_class: type[ModelMixin],
    data: LabelledImages | PointSet,
    decided: Mapping[str, Any],
    *,
    setting: str = "network_config",
    vae: Any | None = None,
    **place: str,
) -> ModelMixin:
    """A new network, or one with the weights of the setting ``init_from``.

    ``decided`` are the arguments of the constructor that data and noise decide; ``setting`` names the setting that has
    the others. Its config will say that it is trained on the latents of ``vae``. The network of ``init_from`` must have
    these arguments and may have any others; ``place`` is ``component`` or ``subfolder`` of ``load_network``. What makes
    no such network, or does not fit the data or ``init_from``, is a ValueError.
    """
    text, init_from = getattr(config, setting), getattr(config, "init_from", None)
    source = f"{setting} {text!r} makes"
    if init_from is None:
        network = build_network(network_class, decided, setting, text)
    else:
        source = f"init_from {init_from!r} has"
        network = load_network(init_from, **place).float()
        if type(network) is not network_class:
            raise ValueError(f"{source} a {type(network).__name__}, this run trains a {network_class.__name__}.")
        for name, value in _arguments(decided, setting, text).items():
            there, here = _plain(network.config.get(name)), _plain(value)
            if there != here:
                raise ValueError(f"{source} {name} {there}, this run {here}: they must be alike.")
    note_classes(network, len(data.class_names))
    if num_classes(network) not in (None, len(data.class_names)):
        raise ValueError(
            f"{source} num_classes {num_classes(network)}, the data set has {len(data.class_names)} classes: give "
            "that number, or leave it out."
        )
    check_latents(network, vae, f"init_from {init_from!r}")
    note_latents(network, vae)
    return network


def load_fitting(
    config: LatentTrainingConfig, component: str, data: LabelledImages | PointSet, vae: Any | None, scheduler: Any
) -> ModelMixin:
    """The network that ``denoiser_path`` or ``classifier_path`` names, in float32, once it is known to fit a run.

    Where its classes, samples, VAE or noise are not those of the run, or its role is another, that is a ValueError.
    """
    path = getattr(config, f"{component}_path")
    network, text = load_network(path, component).float(), f"{component}_path {path!r}"
    if num_classes(network) not in (None, len(data.class_names)):
        raise ValueError(f"{text} knows {num_classes(network)} classes, the data set has {len(data.class_names)}.")
    wanted = sample_shape_of(data, vae)
    if sample_shape(network) != wanted:
        raise ValueError(
            f"{text} works on samples of shape {sample_shape(network)}, this run on {wanted}: give the VAE of its "
            "vae_path."
        )
    check_latents(network, vae, text)
    with contextlib.suppress(FileNotFoundError):  # a network alone does not say what noise it was trained on
        check_same_noise(
            training_scheduler(fetched(path)), scheduler, text, "this run", predicting=component == "denoiser"
        )
    return network


def build_network(network_class: type[Any], decided: Mapping[str, Any], setting: str, text: str) -> Any:
    """A new network of this package, of diffusers or of transformers.

    ``decided`` are the arguments of the constructor that the data and the noise decide; ``setting`` has the others, in
    the JSON object ``text``. What makes no network, or none that this machine's memory holds, is a ValueError that
    lists what there is to set.
    """
    arguments = _arguments(decided, setting, text)
    settings_class = getattr(network_class, "config_class", None)  # of transformers

    def make() -> Any:
        return network_class(**arguments) if settings_class is None else network_class(settings_class(**arguments))

    parameters = inspect.signature(settings_class or network_class).parameters
    problem = ""
    for name, value in json.loads(text).items():
        if name not in parameters:
            problem = f"{name} is no setting of it"
        elif isinstance(parameters[name].default, int) and type(value) is not type(parameters[name].default):
            problem = f"{name} {value!r} is no {type(parameters[name].default).__name__}"
    if not problem:
        try:
            with torch.device("meta"):
                sizes = [parameter.numel() for parameter in make().parameters()]
        except Exception as error:  # whatever a constructor makes of a wrong value
            problem = str(error)
        else:
            needed, there = sum(sizes) * _BYTES_PER_PARAMETER / 1e9, psutil.virtual_memory().total / 1e9
            if min(sizes) == 0:
                problem = "it would have layers of no width"
            elif needed > there:
                problem = f"its training would hold {needed:,.0f} GB, and this machine has {there:,.0f}"
            else:
                return make()
    settings = ", ".join(str(parameter).replace("'", "") for parameter in parameters.values())
    raise ValueError(f"{setting} {text!r} makes no {network_class.__name__}: {problem}. It takes {settings}.")


def _arguments(decided: Mapping[str, Any], setting: str, text: str) -> dict[str, Any]:
    """What is decided and what is given, which may not contradict it, except in numbers that are checked later."""
    given = json.loads(text)
    for name in decided.keys() & given.keys() - {"num_classes", "out_channels"}:
        if _plain(given[name]) != _plain(decided[name]):
            raise ValueError(f"{setting} {text!r}: {name} is {decided[name]} by the data set and noise; leave it out.")
    return {**decided, **given}


def _plain(value: Any) -> Any:
    """A setting as JSON has it; what a mapping turns off it may leave out."""
    if isinstance(value, Mapping):
        value = {name: entry for name, entry in value.items() if entry}
    return json.loads(json.dumps(value))
