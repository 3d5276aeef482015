"""The particles of one call: which schedulers can have them, their random numbers, and what a guided step does to them.

``particles.py`` has the weights and their source. A pipeline draws ``num_particles`` rows for each sample, asks
:class:`ParticleCall` at every step which rows go on, and at the end which row of each sample is the sample.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .guidance import class_log_likelihood, has_signal, in_interval
from .noise import NoiseLevel, noise_level
from .particles import Particles, path_scale
from .schedulers import scheduler_schedule

_MOST_ROWS = 8192
"""Rows that are drawn at a time, unless one sample has more particles."""


def check_particles(
    scheduler: Any, labels: Tensor | None, cfg_scale: float, guidance_rescale: float, autoguidance_scale: float
) -> None:
    """Refuse what has no exact weights.

    Raises:
        ValueError: no labels, a scheduler whose step is not the reverse process, or guidance by another rule beside it.
    """
    if labels is None:
        raise ValueError("num_particles above 1 weighs by the wanted class, and there is none; give class_labels.")
    name, config = type(scheduler).__name__, scheduler.config
    if name == "DPMSolverMultistepScheduler":
        fits = (config.algorithm_type, config.solver_order) == ("sde-dpmsolver++", 1)
    elif name in ("DDPMScheduler", "DDPMParallelScheduler"):
        fits = config.variance_type in ("fixed_small", "fixed_small_log")
    else:
        fits = name == "EulerAncestralDiscreteScheduler"
    if not fits or scheduler_schedule(scheduler) != "preserving":
        raise ValueError(
            f"num_particles above 1 needs a scheduler whose step is the reverse process, and {name} with its settings "
            "is none. Use DDPMScheduler, EulerAncestralDiscreteScheduler, or DPMSolverMultistepScheduler with "
            "algorithm_type='sde-dpmsolver++' and solver_order=1."
        )
    for argument, value, allowed in (
        ("cfg_scale", cfg_scale, (0.0, 1.0)),
        ("guidance_rescale", guidance_rescale, (0.0,)),
        ("autoguidance_scale", autoguidance_scale, (1.0,)),
    ):
        if value not in allowed:
            raise ValueError(
                f"{argument} is {value}, for which particles have no weights; with num_particles above 1 it must be "
                f"{' or '.join(f'{number:g}' for number in allowed)}."
            )


class ParticleCall(Particles):
    """Particles that are weighted and resampled as a guided call goes on.

    Args:
        scheduler: of the call, after ``set_timesteps``.
        num_groups: G, the samples.
        num_particles: K of each; particle k of sample g is row ``g K + k`` of all tensors.
        generator: that of the call; resampling takes numbers of its own and leaves it as it is.
        guidance_interval: noise levels that are guided.
        base: scale at which the moves are exact: 1 for an unconditional denoiser with a calibrated classifier, else 0.
    """

    def __init__(
        self,
        scheduler: Any,
        num_groups: int,
        num_particles: int,
        generator: Any,
        guidance_interval: tuple[float, float],
        base: float,
    ):
        super().__init__(num_groups, num_particles, base)
        levels = [noise_level(scheduler, index, time) for index, time in enumerate(scheduler.timesteps)]
        guided = [
            index
            for index, level in enumerate(levels)
            if in_interval(level.ratio, guidance_interval) and has_signal(level.alpha, "preserving")
        ]
        self._late = bool(guided) and guided[0] > 0
        self._last_ratio = levels[guided[-1]].ratio if guided else 0.0
        several = isinstance(generator, (list, tuple))
        self._generators = [_apart(each) for each in (generator if several else [generator])]
        self._rows: Tensor | None = None

    @staticmethod
    def groups_at_a_time(num_particles: int) -> int:
        """How many samples are drawn together, so that memory does not grow with their number."""
        return max(1, _MOST_ROWS // num_particles)

    def arrive(
        self, sample: Tensor, level: NoiseLevel, scale: float | Tensor, logits: Tensor, labels: Tensor
    ) -> tuple[Tensor, float | Tensor, Tensor]:
        """Weigh and resample at a guided level.

        Args:
            sample: (N, ...), N = G K, in model-input space.
            level: of the sample.
            scale: guidance scale s, one number or one per row.
            logits: of the classifier (N, num_classes), by its temperature.
            labels: as ``class_log_likelihood`` takes them.

        Returns:
            The rows (N,) to go on with, the scale of the path at this level, and log p(y | x) of those rows (N,).
        """
        log_likelihood = class_log_likelihood(logits, labels)
        now = path_scale(scale, level.ratio, self._last_ratio)
        self.weigh(sample, level, now, log_likelihood, self._late)
        self._rows = rows = self.resample(self._uniform(sample.device))
        return rows, now, log_likelihood[rows]

    def taken(self, latents: Tensor) -> Tensor:
        """The latents (N, ...) of the rows that the last step went on with."""
        rows, self._rows = self._rows, None
        return latents if rows is None else latents[rows]

    def picked(self, latents: Tensor) -> Tensor:
        """One of the particles (N, ...) of each sample, drawn by weight (G, ...).

        Raises:
            ValueError: no particle of a sample is of the wanted class.
        """
        return latents[self.pick(self._uniform(latents.device))]

    def _uniform(self, device: torch.device) -> Tensor:
        """Numbers (G,) in [0, 1), each from its sample's own generator."""
        groups = len(self.log_weights)
        if len(self._generators) == groups:
            return torch.stack([torch.rand((), generator=each) for each in self._generators]).to(device)
        return torch.rand(groups, generator=self._generators[0]).to(device)


def _apart(generator: torch.Generator | None) -> torch.Generator:
    """A generator on the CPU that follows from another one, which stays as it is."""
    own = torch.Generator()
    if generator is None:
        own.seed()
        return own
    copied = torch.Generator(generator.device)
    copied.set_state(generator.get_state())
    return own.manual_seed(int(torch.randint(2**62, (), generator=copied, device=generator.device)))
