"""What the updates train on, prepared for many of them at once.

The random numbers of every update are still its own (``streams``), so how many updates are prepared together changes
no number. It changes what they cost: a few large operations and copies take the place of many small ones, which for
small networks take longer than the network itself; and the copies come from pinned memory, so that neither the host
nor an accelerator waits for the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .streams import TrainingStream

__all__ = ["Batches"]

_MOST_UPDATES = 50
_MOST_BYTES = 2**20  # of drawn numbers: what is made of them should stay in a processor's cache


class Batches:
    """The micro-batches of this process, update by update, on its device.

    Args:
        stream: the order of the examples and the random numbers.
        device: where to train.
        total_updates: length of the run; nothing is drawn for later ones.
        draw: from the examples int64 (global_batch_size,) and the generator of one update to tensors of its global
            batch (global_batch_size, ...), on the CPU.
        prepare: from those tensors, of any number of examples (N, ...) and on the device, to what the loop takes: as
            many tensors (N, ...), or None, as it wants. An example's values must depend on that example alone.
            If left out, the loop takes the drawn tensors.
        part_size: examples of a micro-batch, a divisor of the stream's batch size, which it is if left out.
    """

    def __init__(
        self,
        stream: TrainingStream,
        device: torch.device,
        total_updates: int,
        draw: Callable[[Tensor, torch.Generator], Sequence[Tensor]],
        prepare: Callable[..., Sequence[Tensor | None]] | None = None,
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
        return [torch.cat([tensor[part] for part in self.stream.parts()]) for tensor in tensors]

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()  # only from there do copies not block
        return tensor.to(self.device, non_blocking=True)
