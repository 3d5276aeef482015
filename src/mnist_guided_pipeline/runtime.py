"""What every training script does around its loop: processes, optimizer, progress."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration, set_seed
from diffusers.optimization import get_scheduler
from torch import nn
from tqdm.auto import tqdm

from .config import TrainingConfig, parse
from .data import LabelledImages, load_images
from .streams import TrainingStream

__all__ = ["Progress", "finish", "launch", "load_splits", "make_accelerator", "make_optimizer", "make_stream"]

Config = TypeVar("Config", bound=TrainingConfig)


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """Start Accelerate and seed every process alike.

    Raises:
        RuntimeError: the launcher started several processes, but Accelerate sees one.
    """
    AcceleratorState._reset_state()  # a pipeline's steps run in one process and may differ in precision
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision=config.mixed_precision,
        log_with=None if config.report_to == "none" else config.report_to,
        project_config=ProjectConfiguration(config.output_dir, os.path.join(config.output_dir, config.logging_dir)),
    )
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size != accelerator.num_processes:
        raise RuntimeError(
            f"The launcher started {world_size} processes, but Accelerate sees {accelerator.num_processes}: they would "
            "train apart and overwrite each other. On CPUs, launch with ACCELERATE_USE_CPU=true."
        )
    set_seed(config.seed)
    return accelerator


def load_splits(config: TrainingConfig, accelerator: Accelerator) -> tuple[LabelledImages, LabelledImages]:
    """The training and test images; the main process decodes, the others read its cache."""

    def load(split: str, max_samples: int | None) -> LabelledImages:
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
        num_warmup_steps=min(config.lr_warmup_steps, total_updates),
        num_training_steps=total_updates,
    )
    return optimizer, schedule


class Progress:
    """A progress bar over updates that shows and logs the loss and the images a second.

    Losses are read from the device only when they are shown.

    Args:
        accelerator: for trackers and the main process.
        total_updates: length of the bar.
        start: update to start from.
        images_per_update: size of the global batch.
        log_every: updates between two readings.
    """

    def __init__(
        self, accelerator: Accelerator, total_updates: int, start: int, images_per_update: int, log_every: int = 50
    ):
        self.accelerator = accelerator
        self.images_per_update = images_per_update
        self.log_every = log_every
        self.bar = tqdm(
            total=total_updates,
            initial=start,
            unit="update",
            disable=not accelerator.is_local_main_process,
            mininterval=2.0,
        )
        self._since = time.perf_counter()
        self._last = start

    def update(self, step: int, values: dict[str, Any]) -> None:
        """Advance to ``step`` updates made; ``values`` are scalars or 0-d tensors, the first of them is shown."""
        self.bar.update(step - self.bar.n)
        if step % self.log_every and step != self.bar.total:
            return
        now = time.perf_counter()
        speed = (step - self._last) * self.images_per_update / max(now - self._since, 1e-9)
        self._since, self._last = now, step
        readings = {name: float(value) for name, value in values.items()}
        first = next(iter(readings))
        self.bar.set_postfix({first: f"{readings[first]:.4g}", "images/s": f"{speed:,.0f}"}, refresh=False)
        self.accelerator.log({**readings, "images_per_second": speed}, step=step)

    def write(self, line: str) -> None:
        """Print a line above the bar."""
        if self.accelerator.is_main_process:
            tqdm.write(line)

    def close(self) -> None:
        """End the bar."""
        self.bar.close()


def launch(config_class: type[Config], main: Callable[[Config, Accelerator], None]) -> None:
    """Run a training script: read and check the settings, start Accelerate, train, end every process in order."""
    config = parse(config_class)
    if config.dry_run:
        print(config.to_json())
        return
    accelerator = make_accelerator(config)
    main(config, accelerator)
    finish(accelerator)


def finish(accelerator: Accelerator) -> None:
    """End the run in every process; this order keeps gloo from aborting at exit."""
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    accelerator.end_training()
