"""What every training script does before and after its loop: processes, data, optimizer, resuming."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, ProjectConfiguration, set_seed
from diffusers.optimization import get_scheduler
from torch import nn

from ..data.images import LabelledImages, load_images
from ..data.points import PointSet, is_point_set, load_points
from .checkpoints import TrainingState, checkpoint_folders
from .command_line import parse
from .config import AdversarialConfig, JudgeConfig, LatentTrainingConfig, TrainingConfig, VAEConfig
from .history import HistoryTracker
from .memory import keep_freed_memory
from .safeguards import plain_errors
from .sharding import start_sharding
from .streams import TrainingStream
from .tracking import start_trackers

__all__ = [
    "begin",
    "finish",
    "launch",
    "load_splits",
    "make_accelerator",
    "make_optimizer",
    "make_stream",
    "run_settings",
]

Config = TypeVar("Config", bound=TrainingConfig)


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """Start Accelerate and seed every process alike.

    Raises:
        ValueError: the launcher cuts the networks into shards in a way that is not supported.
        RuntimeError: the launcher started several processes, but Accelerate sees one.
    """
    keep_freed_memory()
    AcceleratorState._reset_state()  # a pipeline's steps run in one process and may differ in precision
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,  # what backward() divides the loss by
        dynamo_backend="inductor" if config.torch_compile else None,
        log_with=[HistoryTracker(config.output_dir), *(() if config.report_to == "none" else (config.report_to,))],
        project_config=ProjectConfiguration(config.output_dir, os.path.join(config.output_dir, config.logging_dir)),
    )
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size != accelerator.num_processes:
        raise RuntimeError(
            f"The launcher started {world_size} processes, but Accelerate sees {accelerator.num_processes}: they would "
            "train apart and overwrite each other. On CPUs, launch with ACCELERATE_USE_CPU=true."
        )
    if accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise ValueError(
            f"The launcher asks for {accelerator.distributed_type.value}, which is not supported. Launch with "
            "training/accelerate/several_gpus.yaml, or with fsdp.yaml beside it, which cuts networks into shards too."
        )
    start_sharding(accelerator)
    set_seed(config.seed)
    return accelerator


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
    """The training and test split; the main process decodes images, the others read its cache."""

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
            cache_dir=config.cache_dir,
            progress=accelerator.is_local_main_process,
        )

    with accelerator.main_process_first():
        return load("train", config.max_train_samples), load("test", config.max_eval_samples)


def make_stream(config: TrainingConfig, accelerator: Accelerator, num_examples: int) -> TrainingStream:
    """The run's order of examples and random numbers, cut for this process."""
    return TrainingStream(
        num_examples,
        config.train_batch_size,
        accumulation_steps=config.gradient_accumulation_steps,
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
        seed=config.seed,
    )


def run_settings(config: TrainingConfig, stream: TrainingStream) -> dict[str, Any]:
    """What a checkpoint is compared with on resuming: the settings, and the examples that make an update."""
    return dataclasses.asdict(config) | {"global_batch_size": stream.global_batch_size}


def begin(config: TrainingConfig, accelerator: Accelerator, state: TrainingState) -> None:
    """Go on from a checkpoint where that is asked for, then open the trackers; a dry run has none.

    Raises:
        ValueError: the folder has checkpoints of an earlier run, and nothing is said of them.
    """
    if config.resume_from_checkpoint:
        folder = state.resume(config.output_dir, config.resume_from_checkpoint)
        accelerator.print(f"Resuming from {folder}" if folder else "There is no checkpoint yet: starting afresh")
    elif not config.dry_run and (found := checkpoint_folders(config.output_dir)):
        raise ValueError(
            f"output_dir {config.output_dir!r} holds {found[-1].name} of an earlier run. Go on from it with "
            "--resume_from_checkpoint latest, remove it, or choose another output_dir."
        )
    accelerator.wait_for_everyone()  # nobody writes a checkpoint before all have looked
    if not config.dry_run:
        settings = dataclasses.asdict(config)
        start_trackers(accelerator, config.tracker_project_name, settings, state.update)


def make_optimizer(config: TrainingConfig, model: nn.Module, total_updates: int) -> tuple[torch.optim.AdamW, Any]:
    """Fused AdamW and its learning-rate schedule, counted in updates."""
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
        eps=config.adam_epsilon,
        fused=True,
    )
    schedule = get_scheduler(
        config.lr_scheduler,
        optimizer,
        num_warmup_steps=config.warmup_updates(total_updates),
        num_training_steps=total_updates,
    )
    return optimizer, schedule


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
            finish(accelerator)
            raise
        finish(accelerator)


def finish(accelerator: Accelerator) -> None:
    """End the run in every process; this order keeps gloo from aborting at exit."""
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    accelerator.end_training()
