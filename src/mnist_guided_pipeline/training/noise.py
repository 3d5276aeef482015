r"""The noise that networks are trained on, as a training script needs it.

Two noise schedules are offered. The variance-preserving one of DDPM (Ho et al. 2020, https://arxiv.org/abs/2006.11239,
equation 4) has ``alpha = sqrt(abar_t)`` and ``sigma = sqrt(1 - abar_t)``; networks that predict epsilon, x0 or v are
trained on it. Flow matching on straight lines (Lipman et al. 2023, https://arxiv.org/abs/2210.02747, example II) has
``alpha = 1 - t/T`` and ``sigma = t/T``; ``prediction_type="flow_prediction"`` chooses it.

Sampling starts from pure noise, so the schedule must end in (nearly) pure noise too: where ``abar_T`` is large, the
network has never seen what it is started from (Lin et al. 2023, https://arxiv.org/abs/2305.08891, section 3).
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, ModelMixin
from torch import Tensor

from ..data.posteriors import PosteriorTable
from ..sampling.noise import NoiseLevel, add_noise, levels_at, prediction_target, training_levels
from ..sampling.schedulers import describe_noise, scheduler_schedule
from ..seeding import keyed_generator
from .config import LatentTrainingConfig

MAX_TERMINAL_SIGNAL = 0.01
"""Largest ``abar_T`` without a warning: the share of the signal's variance that is left at the last timestep."""

MIN_EPSILON_SIGNAL = 1e-3
"""Smallest ``alpha_T`` without a warning where a network predicts epsilon: DDPM ends at 6e-3, cosine at 5e-5."""


def noise_scheduler(config: LatentTrainingConfig) -> DDPMScheduler | FlowMatchEulerDiscreteScheduler:
    """The scheduler that adds the noise in training; every value is explicit, so a swap drops none of them."""
    if config.prediction_type == "flow_prediction":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=config.num_train_timesteps, shift=1.0)
    return DDPMScheduler(
        num_train_timesteps=config.num_train_timesteps,
        beta_schedule=config.beta_schedule,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        prediction_type=config.prediction_type,
        clip_sample=False,
        timestep_spacing="leading",
        rescale_betas_zero_snr=False,
    )


def expected_noises(std: Tensor, posterior_noise: Tensor, noise: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
    """The expectations of both noises, given the image and the noisy sample that they make.

    A noisy sample ``alpha (mean + std u) + sigma eps`` shows only the sum ``alpha std u + sigma eps``. A target made of
    the expectations of ``u`` and ``eps`` given that sum has the same mean for every noisy sample, so the same network
    fits it best, and less variance (Rao and Blackwell), so fewer updates do. All are of one shape (B, ...).
    """
    spread = level.alpha * std
    total = (spread * posterior_noise + level.sigma * noise) / (spread**2 + level.sigma**2)
    return spread * total, level.sigma * total


class TrainingNoise:
    """The noise of a training run: a table of levels, whose rows are drawn, and what a network is given for each.

    A schedule that leaves more than :data:`MAX_TERMINAL_SIGNAL` of the signal at its end, or less than
    :data:`MIN_EPSILON_SIGNAL` to a network that predicts epsilon, is a UserWarning.

    Attributes:
        config: the settings.
        scheduler: saved beside the network.
        table: alpha and sigma, float64 (T,), from the least noise upwards.
    """

    def __init__(self, config: LatentTrainingConfig):
        self.config = config
        self.scheduler = noise_scheduler(config)
        self.table = training_levels(self.scheduler)
        self._tables: dict[tuple[torch.device, torch.dtype], NoiseLevel] = {}
        self._first_timestep = 1 if scheduler_schedule(self.scheduler) == "flow" else 0
        left = float(self.table.alpha[-1] ** 2)
        if left > MAX_TERMINAL_SIGNAL:
            warnings.warn(
                f"The noise schedule leaves abar_T = {left:.2g} of the signal's variance at its last timestep, but "
                "sampling starts from pure noise, which the network then never saw. Use --beta_schedule "
                f"squaredcos_cap_v2, or more than {config.num_train_timesteps} timesteps, or a larger --beta_end than "
                f"{config.beta_end:g}, until abar_T is below {MAX_TERMINAL_SIGNAL}.",
                stacklevel=2,
            )
        if config.prediction_type == "epsilon" and self.table.alpha[-1] < MIN_EPSILON_SIGNAL:
            warnings.warn(
                f"The noise schedule ends at alpha = {float(self.table.alpha[-1]):.2g}, and samplers divide the error "
                "of a predicted epsilon by alpha, so samples start far from the data. Use --prediction_type "
                "v_prediction, or --beta_schedule linear.",
                stacklevel=2,
            )

    def draw(
        self, count: int, sample_shape: Sequence[int], generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What makes noisy data: Gaussian noise of posteriors, and of samples, (count, *sample_shape); rows (count,).

        Rows of the table are uniform over all levels.
        """
        posterior_noise, noise = torch.randn(2, count, *sample_shape, generator=generator)
        return posterior_noise, noise, torch.randint(len(self.table.alpha), (count,), generator=generator)

    def at(self, rows: Tensor, samples: Tensor) -> tuple[Tensor, NoiseLevel]:
        """The scheduler's timesteps (B,) at ``rows`` (B,), and levels, which broadcast against ``samples`` (B, ...)."""
        place = samples.device, samples.dtype
        if place not in self._tables:
            self._tables[place] = NoiseLevel(*(values.to(*place) for values in self.table))
        rows = rows.to(samples.device)
        return rows + self._first_timestep, levels_at(self._tables[place], rows, samples)

    def examples(
        self, samples: PosteriorTable, indices: Tensor, posterior_noise: Tensor, noise: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor, NoiseLevel, Tensor]:
        """Noisy samples (B, ...) of the data at ``indices`` (B,), timesteps, levels, and targets (B, ...).

        ``posterior_noise`` (B, ...) draws clean samples, ``noise`` (B, ...) is added to them at ``rows`` (B,). The
        target is the expectation of ``prediction_target`` by :func:`expected_noises`.
        """
        noisy, times, level = self.corrupt(samples.draw(indices, posterior_noise), noise, rows)
        if samples.std is not None:
            std = samples.std[indices.to(samples.std.device)]
            posterior_noise, noise = expected_noises(std, posterior_noise, noise, level)
        target = prediction_target(samples.draw(indices, posterior_noise), noise, level, self.config.prediction_type)
        return noisy, times, level, target

    def corrupt(self, z0: Tensor, noise: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, NoiseLevel]:
        """Noisy samples of ``z0`` (B, ...), and their timesteps and levels by :meth:`at`."""
        times, level = self.at(rows, z0)
        return add_noise(z0, noise, level), times, level

    def validation_batches(
        self, samples: PosteriorTable, labels: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, NoiseLevel]]:
        """Noisy test data with the same noise every time, over all levels evenly, the least noise first.

        Batches of noisy samples (B, ...), timesteps (B,), labels (B,), the data's prediction target (B, ...), levels.
        """
        count, generator = len(labels), keyed_generator(self.config.seed, "validation")
        posterior_noise, noise = torch.randn(2, count, *samples.sample_shape, generator=generator).to(samples.mean)
        clean = samples.draw(torch.arange(count), posterior_noise)
        rows = torch.arange(count) * len(self.table.alpha) // count
        for z0, eps, chosen, own in zip(*(each.split(1000) for each in (clean, noise, rows, labels)), strict=True):
            noisy, times, level = self.corrupt(z0, eps, chosen)
            yield noisy, times, own.to(z0.device), prediction_target(z0, eps, level, self.config.prediction_type), level

    def arguments_of(self, network_class: type[ModelMixin]) -> dict[str, Any]:
        """The schedule as ``noise_schedule``, for a network that wants to know it; nothing for others."""
        if "noise_schedule" not in inspect.signature(network_class.__init__).parameters:
            return {}
        noise = describe_noise(self.scheduler)
        given_by_default = ("prediction_type",) if noise["law"] == "flow" else ("prediction_type", "law")
        return {"noise_schedule": {name: value for name, value in noise.items() if name not in given_by_default}}
