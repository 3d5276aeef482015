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


class TrainingStream:
    """The order of the examples and the random numbers of every update, for one of several processes.

    ``batch_size`` examples are a process's at a time, ``accumulation_steps`` such batches make an update. A training
    set that is smaller than one global batch is a ValueError.
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

    def slices(self) -> Iterator[slice]:
        """This process's micro-batches, as slices of the global batch."""
        for step in range(self.accumulation_steps):
            start = (step * self.num_processes + self.process_index) * self.batch_size
            yield slice(start, start + self.batch_size)


class Batches:
    """The micro-batches of this process, update by update, on its device.

    ``prepare`` may return None in the place of a tensor, and an example's values must depend on that example alone;
    where it is left out, the loop takes the drawn tensors. A micro-batch has ``part_size`` examples, a divisor of the
    stream's batch size, which it is if left out. Nothing is drawn for updates after ``total_updates``.
    """

    def __init__(
        self,
        stream: TrainingStream,
        device: torch.device,
        total_updates: int,
        draw: Draw,
        prepare: Prepare | None = None,
        part_size: int | None = None,
    ):
        self.stream = stream
        self.device = device
        self.total_updates = total_updates
        self.draw = draw
        self.prepare = prepare
        self.part_size = part_size or stream.batch_size
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
        num_parts = self.stream.accumulation_steps * self.stream.batch_size // self.part_size  # of an update
        cut = [[None] * (count * num_parts) if c is None else c.split(self.part_size) for c in columns]
        parts = list(zip(*cut, strict=True))
        return [parts[start : start + num_parts] for start in range(0, len(parts), num_parts)]

    def _own(self, update: int) -> list[Tensor]:
        """This process's share of an update's global batch."""
        tensors = self.draw(self.stream.indices(update), self.stream.generator(update))
        if self.stream.num_processes == 1:
            return list(tensors)
        return [torch.cat([tensor[part] for part in self.stream.slices()]) for tensor in tensors]

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()  # only from there do copies not block
        return tensor.to(self.device, non_blocking=True)
