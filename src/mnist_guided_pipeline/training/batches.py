"""Which examples and which random numbers an update trains on: pure functions of (seed, update).

Nothing here depends on how many processes there are, how the batch is cut, or whether the run was stopped in between.
Every process draws the numbers of the *global* batch and uses its own slices, so

* one process with batch 8, two with batch 4, and batch 4 with two accumulation steps train on the same numbers;
* a resumed run needs one integer, the update, and no saved generator.

A permutation keyed by (seed, epoch) takes the place of a shuffling data loader, as the data live in memory.

What many updates train on is prepared at once, which changes no number but what they cost: a few large operations and
copies take the place of many small ones, which for small networks take longer than the network itself; and the copies
come from pinned memory, so that neither the host nor an accelerator waits for the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..seeding import keyed_generator

Draw = Callable[[Tensor, torch.Generator], Sequence[Tensor]]
"""From the examples int64 (global_batch_size,) and the generator of one update to tensors (global_batch_size, ...)."""

Prepare = Callable[..., Sequence[Tensor | None]]
"""From those tensors, of any number of examples (N, ...) and on the device, to what the loop takes, (N, ...) each."""

_MOST_UPDATES = 50
_MOST_BYTES = 2**20  # of drawn numbers: what is made of them should stay in a processor's cache


@dataclass
class TrainingStream:
    """The order of the examples and the random numbers of every update, for one of several processes.

    ``batch_size`` examples are a process's at a time, ``accumulation_steps`` such batches make an update. A training
    set that is smaller than one global batch is a ValueError.
    """

    num_examples: int
    batch_size: int
    accumulation_steps: int = 1
    num_processes: int = 1
    process_index: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        self.global_batch_size = self.batch_size * self.accumulation_steps * self.num_processes
        if self.num_examples < self.global_batch_size:
            raise ValueError(
                f"The training set has {self.num_examples} examples, fewer than one update takes: train_batch_size "
                f"{self.batch_size} x gradient_accumulation_steps {self.accumulation_steps} x {self.num_processes} "
                f"processes = {self.global_batch_size}. Lower train_batch_size."
            )
        self.updates_per_epoch = self.num_examples // self.global_batch_size
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

    def slices(self) -> Iterator[slice]:
        """This process's micro-batches, as slices of the global batch."""
        for step in range(self.accumulation_steps):
            start = (step * self.num_processes + self.process_index) * self.batch_size
            yield slice(start, start + self.batch_size)


@dataclass
class Batches:
    """The micro-batches of this process, update by update, on its device.

    ``prepare`` may return None in the place of a tensor, and an example's values must depend on that example alone;
    where it is left out, the loop takes the drawn tensors. A micro-batch has ``part_size`` examples, a divisor of the
    stream's batch size, which it is if left out. Nothing is drawn for updates after ``total_updates``.
    """

    stream: TrainingStream
    device: torch.device
    total_updates: int
    draw: Draw
    prepare: Prepare | None = None
    part_size: int | None = None

    def __post_init__(self) -> None:
        self._first = 0
        self._updates: list[list[tuple[Any, ...]]] = []

    def of(self, update: int) -> list[tuple[Any, ...]]:
        """The micro-batches of an update: a tuple each of what ``prepare`` makes, (part_size, ...)."""
        if not self._first <= update < self._first + len(self._updates):
            self._updates = []  # frees the old ones first
            self._updates = self._fill(update)
            self._first = update
        return self._updates[update - self._first]

    def _fill(self, first: int) -> list[list[tuple[Any, ...]]]:
        drawn = [self._own(first)]
        size = sum(tensor.nbytes for tensor in drawn[0])
        count = min(_MOST_UPDATES, max(1, _MOST_BYTES // size), self.total_updates - first)
        drawn += [self._own(update) for update in range(first + 1, first + count)]
        columns: Sequence[Tensor | None] = [self._to_device(torch.cat(column)) for column in zip(*drawn, strict=True)]
        if self.prepare is not None:
            columns = self.prepare(*columns)
        part_size = self.part_size or self.stream.batch_size
        num_parts = self.stream.accumulation_steps * self.stream.batch_size // part_size  # of an update
        cut = [[None] * (count * num_parts) if c is None else c.split(part_size) for c in columns]
        parts = list(zip(*cut, strict=True))
        return [parts[start : start + num_parts] for start in range(0, len(parts), num_parts)]

    def _own(self, update: int) -> Sequence[Tensor]:
        """This process's share of an update's global batch."""
        tensors = self.draw(self.stream.indices(update), self.stream.generator(update))
        if self.stream.num_processes == 1:
            return tensors
        return [torch.cat([tensor[part] for part in self.stream.slices()]) for tensor in tensors]

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()  # only from there do copies not block
        return tensor.to(self.device, non_blocking=True)
