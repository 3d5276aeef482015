"""How a training script starts and ends: settings, processes, data, and errors of one line."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, overload

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, ProjectConfiguration, set_seed
from accelerate.utils.environment import parse_flag_from_env
from tqdm.auto import tqdm

from ..data.images import DatasetError, LabelledImages, load_images
from ..data.points import PointSet, is_point_set, load_points
from ..storage.push import start_push
from .checkpoints import NonFiniteError
from .config import AdversarialConfig, JudgeConfig, LatentTrainingConfig, TrainingConfig, VAEConfig, parse
from .history import HistoryTracker

__all__ = [
    "check_all_seen",
    "check_num_classes",
    "end",
    "launch",
    "load_splits",
    "make_accelerator",
    "plain_errors",
    "with_image_shape",
]

Config = TypeVar("Config", bound=TrainingConfig)


def launch(
    config_class: type[Config],
    main: Callable[[Config, Accelerator], None],
    presets: Mapping[str, Config] | None = None,
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

    Raises:
        ValueError: the launcher cuts the networks into shards, or its settings are not those of the run.
        RuntimeError: the launcher started several processes, but Accelerate sees one.
        OSError: the Hub cannot be reached, or refuses.
    """
    AcceleratorState._reset_state()  # a pipeline's steps run in one process and may differ in precision
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,  # what backward() divides the loss by
        log_with=[HistoryTracker(config.output_dir), *(() if config.report_to == "none" else (config.report_to,))],
        project_config=ProjectConfiguration(config.output_dir, os.path.join(config.output_dir, config.logging_dir)),
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
    """Stop where the launcher started more processes than Accelerate sees; the message says what they would do.

    Raises:
        RuntimeError: naming both numbers.
    """
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


@overload
def load_splits(
    config: VAEConfig | AdversarialConfig | JudgeConfig, accelerator: Accelerator
) -> tuple[LabelledImages, LabelledImages]: ...


@overload
def load_splits(
    config: LatentTrainingConfig, accelerator: Accelerator
) -> tuple[LabelledImages | PointSet, LabelledImages | PointSet]: ...


def load_splits(
    config: TrainingConfig, accelerator: Accelerator
) -> tuple[LabelledImages | PointSet, LabelledImages | PointSet]:
    """The training and test split; the main process decodes images, the others read its cache.

    Of a data set without a test split the last tenth of the training split is held out, and a line says so.
    """

    def load(split: str, max_samples: int | None) -> LabelledImages | PointSet:
        if is_point_set(config.dataset_name):
            return load_points(config.dataset_name, split, max_samples=max_samples)
        return load_images(
            config.dataset_name,
            split,
            dataset_config_name=config.dataset_config_name,
            image_column=config.image_column,
            label_column=config.label_column,
            max_samples=max_samples,
            resolution=config.resolution,
            cache_dir=config.cache_dir,
        )

    with accelerator.main_process_first():
        try:
            rest, test = "train", load("test", config.max_eval_samples)
        except DatasetError as error:
            if "has no split 'test'" not in str(error):
                raise
            accelerator.print(
                "There is no test split: the last tenth of the training split is held out to validate on."
            )
            rest, test = "train[:90%]", load("train[90%:]", config.max_eval_samples)
        train = load(rest, config.max_train_samples)
    if isinstance(train, LabelledImages) and isinstance(test, LabelledImages) and train.image_shape != test.image_shape:
        raise DatasetError(
            f"Images of the training split have the shape {train.image_shape}, of the test split {test.image_shape}; "
            "they must be of one size and all grey or all in colour. Give a resolution for one size."
        )
    return train, test


def with_image_shape(arguments: dict[str, Any], data: LabelledImages) -> dict[str, Any]:
    """A network's arguments with the data's ``image_shape`` filled in.

    Raises:
        ValueError: they give another.
    """
    given = tuple(arguments.get("image_shape", data.image_shape))
    if given != data.image_shape:
        raise ValueError(f"image_shape {given} is not that of the data set, {data.image_shape}: leave it out.")
    return {**arguments, "image_shape": data.image_shape}


def check_num_classes(config: TrainingConfig, num_classes: int | None, data: LabelledImages | PointSet) -> None:
    """Refuse a network of other classes than the data's; None is a network that is not given the class.

    Raises:
        ValueError: naming both numbers.
    """
    if num_classes not in (None, len(data.class_names)):
        raise ValueError(
            f"network_config {config.network_config!r} makes num_classes {num_classes}, the data set has "
            f"{len(data.class_names)} classes: give that number, or leave it out."
        )
