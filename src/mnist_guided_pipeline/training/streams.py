"""Which examples and which random numbers an update trains on: pure functions of (seed, update).

Nothing here depends on how many processes there are, how the batch is cut, or whether the run was stopped in between.
Every process draws the numbers of the *global* batch and uses its own slices, so

* one process with batch 8, two with batch 4, and batch 4 with two accumulation steps train on the same numbers;
* a resumed run needs one integer, the update, and no saved generator.

A permutation keyed by (seed, epoch) takes the place of a shuffling data loader, as the data live in memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..seeding import keyed_generator, keyed_seed

__all__ = ["TrainingStream"]


class TrainingStream:
    """The order of the examples and the random numbers of every update.

    Args:
        num_examples: size of the training set.
        batch_size: examples a process takes at a time.
        accumulation_steps: micro-batches of an update, in every process.
        num_processes: number of processes.
        process_index: this process, from 0.
        seed: the run's seed.

    Raises:
        ValueError: the training set is smaller than one global batch.
    """

    def __init__(
        self,
        num_examples: int,
        batch_size: int,
        *,
        accumulation_steps: int = 1,
        num_processes: int = 1,
        process_index: int = 0,
        seed: int = 0,
    ):
        self.global_batch_size = batch_size * accumulation_steps * num_processes
        if num_examples < self.global_batch_size:
            raise ValueError(
                f"The training set has {num_examples} examples, fewer than one update takes: train_batch_size "
                f"{batch_size} x gradient_accumulation_steps {accumulation_steps} x {num_processes} processes = "
                f"{self.global_batch_size}. Lower train_batch_size."
            )
        self.num_examples = num_examples
        self.batch_size = batch_size
        self.accumulation_steps = accumulation_steps
        self.num_processes = num_processes
        self.process_index = process_index
        self.seed = seed
        self.updates_per_epoch = num_examples // self.global_batch_size
        self._epoch = -1
        self._permutation = torch.empty(0, dtype=torch.int64)

    def indices(self, update: int) -> Tensor:
        """The examples of an update's global batch, int64 (global_batch_size,); no example twice an epoch."""
        epoch, position = divmod(update, self.updates_per_epoch)
        if epoch != self._epoch:
            generator = keyed_generator(self.seed, "epoch", epoch)
            self._permutation = torch.randperm(self.num_examples, generator=generator)
            self._epoch = epoch
        start = position * self.global_batch_size
        return self._permutation[start : start + self.global_batch_size]

    def generator(self, update: int) -> torch.Generator:
        """A fresh CPU generator for the random numbers of an update's global batch."""
        return keyed_generator(self.seed, "update", update)

    def seed_dropout(self, update: int, device: torch.device) -> None:
        """Seed the device's global generator, from which dropout draws: a resumed run drops the same.

        Every process has its own, so with dropout, and only then, the layout does change what is trained on.
        ``torch.manual_seed`` would do, but it looks for every kind of accelerator, which takes a millisecond.
        """
        seed = keyed_seed(self.seed, "dropout", update, self.process_index)
        if device.type == "cpu":
            torch.default_generator.manual_seed(seed)
        else:
            torch.get_device_module(device).manual_seed(seed)

    def parts(self, size: int | None = None) -> Iterator[slice]:
        """This process's micro-batches, as slices of the global batch; cut further into ``size`` examples, if given."""
        for step in range(self.accumulation_steps):
            start = (step * self.num_processes + self.process_index) * self.batch_size
            for first in range(start, start + self.batch_size, size or self.batch_size):
                yield slice(first, first + (size or self.batch_size))
