"""States that guided sampling visits, to train on: rollouts under the current networks, the newest of them kept.

A guide that is trained on noisy data alone is asked, in sampling, about samples that its own errors have moved;
training on these closes the gap (Ross et al. 2011, https://arxiv.org/abs/1011.0686, DAgger).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor, nn

from ..sampling.denoiser import GuidedDenoiser
from ..sampling.schedulers import build_scheduler

_EARLIEST_START = 0.88  # of the training timesteps, where the first step of a rollout may lie


class VisitedStates(nn.Module):
    """The newest states, each with its row of the noise table, in a ring; a module, so that a checkpoint holds them.

    Args:
        size: how many are kept.
        sample_shape: of one sample.
    """

    samples: Tensor
    rows: Tensor
    labels: Tensor
    count: Tensor

    def __init__(self, size: int, sample_shape: Sequence[int]):
        super().__init__()
        self.register_buffer("samples", torch.zeros(size, *sample_shape))
        self.register_buffer("rows", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("labels", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def add(self, samples: Tensor, row: Tensor, labels: Tensor) -> None:
        """Keep samples (B, *sample_shape) at one row, guided to labels int64 (B,), in place of the oldest."""
        places = (self.count + torch.arange(len(samples), device=self.count.device)) % len(self.samples)
        self.samples[places] = samples.to(self.samples)
        self.rows[places] = row.to(self.rows)
        self.labels[places] = labels
        self.count += len(samples)

    def pick(self, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Samples, rows and labels (B, ...) at random, by numbers (B,) uniform in [0, 1)."""
        kept = self.count.clamp(max=len(self.samples))
        places = (uniform * kept).long().clamp(max=len(self.samples) - 1)
        return self.samples[places], self.rows[places], self.labels[places]


@torch.no_grad()
def roll_out(
    visited: VisitedStates,
    denoiser: Any,
    classifier: Any,
    noise_settings: dict[str, Any],
    count: int,
    num_steps: int,
    generator: torch.Generator,
) -> None:
    """Sample by the classifier alone at scale 1, and keep every state on the way, ``count * num_steps``.

    The first timestep is uniform in the last eighth of the schedule and the others are shifted by one random offset, so
    that rollouts visit all levels. ``noise_settings``, from ``describe_noise``, are those of the training and
    variance-preserving, so a timestep is its row. The generator is on the CPU.
    """
    last, device = noise_settings["num_train_timesteps"] - 1, visited.samples.device
    first = int(torch.randint(int(_EARLIEST_START * last), last + 1, (), generator=generator))
    offset = float(torch.rand((), generator=generator))
    times = {first, *(int((step + offset) * first / num_steps) for step in range(num_steps - 1))}
    scheduler = build_scheduler(DPMSolverMultistepScheduler, noise_settings)
    scheduler.set_timesteps(timesteps=sorted(times, reverse=True), device="cpu")
    labels = torch.randint(classifier.config.num_classes, (count,), generator=generator).to(device)
    state = torch.randn(count, *visited.samples.shape[1:], generator=generator).to(device)
    guided = GuidedDenoiser(denoiser, classifier, scheduler, labels, cfg_scale=0.0, training_noise=noise_settings)
    for timestep in scheduler.timesteps:
        visited.add(state, timestep, labels)
        prediction = guided(state, timestep.to(device), return_dict=False)[0]
        state = scheduler.step(prediction, timestep, state, return_dict=False)[0]
