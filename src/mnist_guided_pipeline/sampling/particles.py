r"""Guidance that is exact at any scale: particles with weights, and resampling.

Guidance with scale ``s`` draws from ``p(x) p(y | x)^s`` only at ``s = 1``. Particles that are weighted and resampled on
their way draw from it at any scale (Wu et al. 2023, https://arxiv.org/abs/2306.17775, twisted diffusion sampler; Skreta
et al. 2025, https://arxiv.org/abs/2503.02819, Feynman-Kac correctors), with what guidance has computed anyway.

**Coordinates.** ``z = x / alpha`` and ``r = sigma / alpha`` (``noise.py``), ``h = p(y | x, t)`` and its gradient
``g = grad_z log h = alpha grad_x log h``. A step of the reverse process from ``r`` to ``r'``, guided with scale ``s``:

    K_s(z' | z) = N(z + (r^2 - r'^2) (score + s g),  v I),        v = (r^2 - r'^2) r'^2 / r^2.

DDPM, Euler ancestral and first-order SDE-DPM-Solver++ are all this one sampler.

**Path.** At every level the target is ``q(z) h(z)^s(r)``, ``q`` the density of noisy data, with a scale that starts at
1 and reaches ``s`` at the last level (:func:`path_scale`). For ``h`` of a noisy sample is an average over what it may
become, and the power of an average favours early what the average of the power does not: modes are lost for good.

**Weight.** ``K_b`` is the reverse process of ``q h^b`` at a base scale ``b``: at ``b = 1`` by Bayes' rule, if ``h`` is
a probability; at ``b = 0`` whatever ``h`` is. Seen from there the target is ``(q h^b) h^(s - b)``, and particles that
move by ``K_s`` gain (the weight of Wu et al., section 3.2, with the base in place of their unguided model)

    log w  +=  log K_b(z' | z) - log K_s(z' | z) + (s' - b) log h(z', r') - (s - b) log h(z, r),

exact up to the base sampler's own step size, and 0 at ``s = b``. In small steps at a constant scale this is, by Ito's
formula, the weight ``1/2 s (s - 1) (r^2 - r'^2) |g|^2`` of Skreta et al. (geometric averages), which needs no value of
``h`` but is less exact at the same number of steps.

Particles come in groups, one per sample: they are compared and copied within their group only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .guidance import class_log_likelihood, has_signal, in_interval
from .noise import NoiseLevel, noise_level, per_sample
from .schedulers import scheduler_schedule

_RESAMPLE_BELOW = 0.5  # of the particles of a group
_PATH_RATIO = 0.5


def path_scale(scale: float | Tensor, ratio: float, last_ratio: float = 0.0) -> float | Tensor:
    """The scale of the path at one level: ``1 + (s - 1) / (1 + (r^2 - r_last^2) / 0.5^2)^4``.

    Args:
        scale: guidance scale s, one number or one per particle.
        ratio: r of the level, for data of about unit variance.
        last_ratio: r of the last guided level, where the scale is s.
    """
    return 1.0 + (scale - 1.0) / (1.0 + (ratio**2 - last_ratio**2) / _PATH_RATIO**2) ** 4


def log_kernel_ratio(
    sample: Tensor,
    moved: Tensor,
    guided_x0: Tensor,
    score: Tensor,
    excess: float | Tensor,
    level: NoiseLevel,
    next_level: NoiseLevel,
) -> Tensor:
    """``log K_b(z' | z) - log K_s(z' | z)`` of the module's weight.

    Args:
        sample: x (N, ...), in model-input space at ``level``.
        moved: x' (N, ...), in model-input space at ``next_level``.
        guided_x0: the clean sample that the guided prediction implies (N, ...), the mean of ``K_s``.
        score: ``grad_x log h`` (N, ...).
        excess: ``s - b`` of the step, one number or one per particle (N,).
        level: before the step.
        next_level: after it, with noise left.

    Returns:
        (N,).
    """
    keep = (next_level.ratio / level.ratio) ** 2
    change = level.ratio**2 - next_level.ratio**2
    noise = moved / next_level.alpha - (keep * sample / level.alpha + (1.0 - keep) * guided_x0)
    if isinstance(excess, Tensor):
        excess = per_sample(excess, score)
    drift = excess * change * level.alpha * score
    return -(drift * (2.0 * noise + drift)).flatten(1).sum(dim=1) / (2.0 * change * keep)


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """``(sum w)^2 / sum w^2`` of each group, from 1 to K (Kong 1992): log-weights (G, K) to (G,)."""
    weights = torch.softmax(log_weights, dim=-1)
    return 1.0 / (weights**2).sum(dim=-1)


def systematic_resampling(log_weights: Tensor, offsets: Tensor, count: int | None = None) -> Tensor:
    """Draw from each group by weight (Kitagawa 1996): particle k is drawn ``floor`` or ``ceil`` of ``count w_k`` times.

    Args:
        log_weights: (G, K), of any normalisation; minus infinity is a weight of 0.
        offsets: (G,), uniform in [0, 1).
        count: how many to draw; K if None.

    Returns:
        Indices within the group, int64 (G, count), in ascending order.
    """
    count = count or log_weights.shape[1]
    edges = torch.softmax(log_weights.double(), dim=-1).cumsum(dim=-1)
    places = (torch.arange(count, device=edges.device) + offsets.to(edges).unsqueeze(-1)) / count
    # the last edge is 1 to rounding only, and right=True passes over particles of weight 0
    return torch.searchsorted(edges, places * edges[:, -1:], right=True).clamp_max(log_weights.shape[1] - 1)


def check_particles(
    scheduler: Any, labels: Tensor | None, cfg_scale: float, guidance_rescale: float, autoguidance_scale: float
) -> None:
    """Refuse what has no exact weights.

    That is no labels, a scheduler whose step is not the reverse process, and guidance by another rule beside it.
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


def guided_course(scheduler: Any, guidance_interval: tuple[float, float]) -> tuple[bool, float]:
    """Whether unguided steps come before the first guided one, and the ratio of the last guided level.

    Args:
        scheduler: of the call, after ``set_timesteps``.
        guidance_interval: noise levels that are guided.
    """
    levels = [noise_level(scheduler, index, time) for index, time in enumerate(scheduler.timesteps)]
    guided = [
        index
        for index, level in enumerate(levels)
        if in_interval(level.ratio, guidance_interval) and has_signal(level.alpha, "preserving")
    ]
    return bool(guided) and guided[0] > 0, levels[guided[-1]].ratio if guided else 0.0


class Particles:
    """The particles of a call, with log-weights (G, K), weighed and resampled from one guided level to the next.

    At a guided step they :meth:`arrive`, which says what rows go on, and :meth:`leave`; the pipeline goes on with the
    latents of those rows (:meth:`taken`), and at the end with one row of each sample (:meth:`picked`).

    Args:
        num_groups: G, the samples.
        num_particles: K of each; particle k of group g is row ``g K + k`` of all tensors.
        base: b of the module's weight: 1 for a denoiser without labels with a calibrated classifier, else 0.
        generator: that of the call; resampling takes numbers of its own and leaves it as it is.
        late: whether unguided steps come before the first guided one: then the particles are those of q.
        last_ratio: r of the last guided level. :func:`guided_course` has both.
    """

    def __init__(
        self,
        num_groups: int,
        num_particles: int,
        base: float = 1.0,
        generator: Any = None,
        late: bool = False,
        last_ratio: float = 0.0,
    ):
        self.base, self._late, self._last_ratio = base, late, last_ratio
        self.log_weights = torch.zeros(num_groups, num_particles)
        several = isinstance(generator, (list, tuple))
        self._generators = [_apart(each) for each in (generator if several else [generator])]
        self._step: tuple[Any, ...] | None = None  # how it began: its weight is known at the level after it
        self._rows: Tensor | None = None

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
        self.weigh(sample, level, now, log_likelihood)
        self._rows = rows = self.resample(self._uniform(sample.device))
        return rows, now, log_likelihood[rows]

    def leave(
        self,
        sample: Tensor,
        level: NoiseLevel,
        scale: float | Tensor,
        log_likelihood: Tensor,
        score: Tensor,
        guided_x0: Tensor,
    ) -> None:
        """Remember how a guided step begins, after resampling; shapes as in :func:`log_kernel_ratio`."""
        excess = scale - self.base
        self._step = sample, guided_x0, score, excess, level, excess * log_likelihood

    def taken(self, latents: Tensor) -> Tensor:
        """The latents (N, ...) of the rows that the last step went on with."""
        rows, self._rows = self._rows, None
        return latents if rows is None else latents[rows]

    def picked(self, latents: Tensor) -> Tensor:
        """One of the particles (N, ...) of each sample, drawn by weight (G, ...).

        A sample without a particle of the wanted class is a ValueError.
        """
        lost = torch.isneginf(self.log_weights).all(dim=1).nonzero().flatten()
        if len(lost):
            raise ValueError(
                f"No particle of sample {int(lost[0])} is of the wanted class: the classifier gives it probability 0."
            )
        chosen = systematic_resampling(self.log_weights, self._uniform(latents.device), 1).flatten()
        groups = torch.arange(len(chosen), device=chosen.device)
        return latents.unflatten(0, self.log_weights.shape)[groups, chosen]

    def weigh(self, sample: Tensor, level: NoiseLevel, scale: float | Tensor, log_likelihood: Tensor) -> None:
        """Weigh particles (N, ...), N = G K, that have come to a guided level, in model-input space.

        ``scale``, of the path at this level, is one number or one per particle (N,), as is ``log_likelihood``, log h.
        """
        if self._step is None:
            gained = (scale if self._late else scale - self.base) * log_likelihood
        else:
            before, guided_x0, score, excess, level_before, potential = self._step
            gained = (scale - self.base) * log_likelihood - potential
            gained = gained + log_kernel_ratio(before, sample, guided_x0, score, excess, level_before, level)
        weights = self.log_weights.to(gained) + gained.reshape(self.log_weights.shape)
        # where the class is impossible the gradient is not a number; such a particle weighs nothing
        self.log_weights = weights.nan_to_num(nan=-torch.inf, neginf=-torch.inf)

    def resample(self, offsets: Tensor) -> Tensor:
        """Copy heavy particles over light ones in groups whose effective sample size is below half of K.

        Args:
            offsets: (G,), uniform in [0, 1).

        Returns:
            The rows (N,) to go on with: in groups that are left alone, every row itself.
        """
        poor = (effective_sample_size(self.log_weights) < _RESAMPLE_BELOW * self.log_weights.shape[1]).unsqueeze(-1)
        rows = torch.arange(self.log_weights.numel(), device=poor.device).reshape(self.log_weights.shape)
        chosen = rows[:, :1] + systematic_resampling(self.log_weights, offsets)
        self.log_weights = torch.where(poor, 0.0, self.log_weights)
        return torch.where(poor, chosen, rows).flatten()

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
