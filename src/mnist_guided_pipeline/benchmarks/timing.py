"""How things are timed: side by side, so that whatever else the machine does falls on all of them alike.

A processor's speed changes from minute to minute; a ratio of two medians from the same rounds does not. The rate of a
plain matrix product is the yardstick for how much of the machine is used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def time_rounds(tasks: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each round of tasks, which end with their work done, in turn: ``rounds`` times, after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for round_index in range(1 + rounds):
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()  # work may still be queued
            if round_index:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def matrix_product(dtype: torch.dtype, device: torch.device, size: int = 2048) -> tuple[Callable[[], Tensor], int]:
    """A square matrix product, the yardstick of a machine's rate, and its number of floating-point operations."""
    first, second = torch.randn(2, size, size, device=device).to(dtype)
    return lambda: first @ second, 2 * size**3


def count_flops(task: Callable[[], object]) -> int:
    """Floating-point operations of matrix products and convolutions, forward and backward."""
    with _FlopCounter() as counter:
        task()
    return counter.total


class _FlopCounter(TorchDispatchMode):
    """Adds up torch's own formulas; torch's ``FlopCounterMode`` does not work where ``autograd.grad`` is called."""

    total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.total += int(flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=result))
        return result
