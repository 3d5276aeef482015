r"""What a diffusers scheduler does to the data, in one convention.

At every step of every scheduler the network is given a *sample*

    x = alpha * x0 + sigma * eps,        eps ~ N(0, I),

in *model-input space*: ``x = scheduler.scale_model_input(latents, t)``. A :class:`NoiseLevel` is the pair
``(alpha, sigma)`` of that step.

Relation to the names in diffusers: for variance-preserving schedulers ``alpha = sqrt(alphas_cumprod[t])`` and
``sigma = sqrt(1 - alphas_cumprod[t])``. The arrays that diffusers calls ``scheduler.sigmas`` hold ``sigma / alpha``
instead (Karras et al. 2022, https://arxiv.org/abs/2206.00364), except for flow-matching schedulers, where they hold
``sigma`` itself and ``alpha = 1 - sigma``. We call ``sigma / alpha`` the :attr:`NoiseLevel.ratio`; it means the same
under every scheduler.

Networks may predict any of four equivalent targets (Salimans and Ho 2022, https://arxiv.org/abs/2202.00512,
appendix D; Lipman et al. 2023, https://arxiv.org/abs/2210.02747):

====================  =======================  ==========================================
``prediction_type``   target                   x0 from the prediction ``p``
====================  =======================  ==========================================
``epsilon``           eps                      (x - sigma p) / alpha
``sample``            x0                       p
``v_prediction``      alpha eps - sigma x0     (alpha x - sigma p) / (alpha^2 + sigma^2)
``flow_prediction``   eps - x0                 (x - sigma p) / (alpha + sigma)
====================  =======================  ==========================================
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .guidance import MIN_ALPHA
from .schedulers import scheduler_family

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction", "flow_prediction")

_LARGEST_RATIO = 1.0 / MIN_ALPHA


class NoiseLevel(NamedTuple):
    """The coefficients of signal and noise: ``x = alpha x0 + sigma eps``.

    Both are floats at a sampling step, or tensors that broadcast against the sample in training.
    """

    alpha: Any
    sigma: Any

    @property
    def ratio(self) -> Any:
        """``sigma / alpha``, the noise level of Karras et al. 2022; infinite where no signal is left."""
        if isinstance(self.alpha, Tensor):
            return self.sigma / self.alpha
        return self.sigma / self.alpha if self.alpha > 0 else math.inf


def noise_level(scheduler: Any, index: int, timestep: Tensor | float) -> NoiseLevel:
    """``(alpha, sigma)`` of model-input space at one step of the sampling loop.

    The values come from what the scheduler itself will use at this step, never from rounding the timestep into the
    training table: that is wrong for Karras sigmas and for fractional timesteps.

    Args:
        scheduler: a scheduler after ``set_timesteps``, whose step index equals ``index``.
        index: the position in ``scheduler.timesteps``.
        timestep: ``scheduler.timesteps[index]``.

    Returns:
        Two Python floats; no value is read from an accelerator except by ``"vp"`` and ``"ipndm"`` schedulers whose
        own tables live there.
    """
    family = scheduler_family(scheduler)
    if family == "vp":
        return NoiseLevel(*map(float, preserving_levels(scheduler.alphas_cumprod[int(timestep)])))
    if family == "ipndm":
        return NoiseLevel(float(scheduler.alphas[index]), float(scheduler.betas[index]))
    sigma = _sigma_at(scheduler, index)
    if family == "flow":
        return NoiseLevel(1.0 - sigma, sigma)
    data_std = float(scheduler.config.sigma_data) if family == "edm" else 1.0
    alpha = 1.0 / math.hypot(sigma, data_std)
    return NoiseLevel(alpha, alpha * sigma)


def step_index(scheduler: Any, timestep: Tensor | float) -> int:
    """The position in ``scheduler.timesteps`` that a scheduler has reached, whoever drives it.

    Args:
        scheduler: after ``set_timesteps``.
        timestep: of the step; it is only looked up where the scheduler has not made a step yet or keeps no count.
    """
    for name in ("step_index", "begin_index"):
        index = getattr(scheduler, name, None)
        if index is not None:
            return int(index)
    return int(scheduler.index_for_timestep(timestep)) if hasattr(scheduler, "index_for_timestep") else 0


def _sigma_at(scheduler: Any, index: int) -> float:
    """The entry of ``scheduler.sigmas`` in use, also in the second stage of two-stage solvers."""
    if not getattr(scheduler, "state_in_first_order", True):
        if hasattr(scheduler, "sigmas_interpol"):  # KDPM2 evaluates its second stage between two steps
            ancestral = hasattr(scheduler, "sigmas_up")  # and its ancestral form keeps that level one entry earlier
            return float(scheduler.sigmas_interpol[index - int(ancestral)])
        if getattr(scheduler, "mid_point_sigma", None) is not None:  # so does DPM-Solver SDE
            return float(scheduler.mid_point_sigma)
    return float(scheduler.sigmas[index])


def training_levels(scheduler: Any) -> NoiseLevel:
    """The noise schedule that a network is trained on, one entry per training timestep.

    Returns:
        ``alpha`` and ``sigma``, float64 tensors (num_train_timesteps,), from timestep 0 (least noise) upwards.
        A flow-matching scheduler has ``alpha = 1 - t / T`` at timestep ``t`` in (0, T].
    """
    if scheduler_family(scheduler) == "flow":
        steps = int(scheduler.config.num_train_timesteps)
        return flow_levels(torch.arange(1, steps + 1, dtype=torch.float64), steps)
    return preserving_levels(scheduler.alphas_cumprod)


def flow_levels(timesteps: Tensor, num_train_timesteps: int) -> NoiseLevel:
    """Levels of a flow on straight lines at ``timesteps``, also fractional ones, in [0, num_train_timesteps]."""
    sigma = timesteps / num_train_timesteps
    return NoiseLevel(1.0 - sigma, sigma)


def preserving_levels(alphas_cumprod: Tensor) -> NoiseLevel:
    """Variance-preserving levels, float64 tensors, of a table ``alphas_cumprod`` (T,) or of one entry of it, 0-d."""
    table = alphas_cumprod.to(device="cpu", dtype=torch.float64)
    return NoiseLevel(table.sqrt(), (1.0 - table).sqrt())


def per_sample(values: Tensor, sample: Tensor) -> Tensor:
    """Reshape (B,) coefficients so that they broadcast against a (B, ...) sample."""
    return values.reshape(-1, *(1,) * (sample.ndim - 1)).to(device=sample.device, dtype=sample.dtype)


def preserving_equivalent(level: NoiseLevel, table: NoiseLevel) -> tuple[float, float, NoiseLevel]:
    """The variance-preserving sample and timestep with the same signal-to-noise ratio as a flow sample.

    A flow sample ``x = (1 - s) x0 + s eps`` divided by ``sqrt((1 - s)^2 + s^2)`` is a variance-preserving one, so a
    network trained on a preserving noise schedule can be run, and guided, at the timestep whose ratio is the same.

    Args:
        level: of the flow sample.
        table: :func:`training_levels` of the noise schedule the networks were trained on.

    Returns:
        The divisor, the (fractional) timestep, and the equivalent level. Noisier levels than the table has, or than a
        ratio of 200, are moved there: a prediction of noise says nothing about x0 in pure noise.
    """
    ratios = (table.sigma / table.alpha).log()
    wanted = math.log(min(level.ratio, _LARGEST_RATIO))
    above = int(torch.searchsorted(ratios, wanted))
    if above == 0:
        timestep = 0.0
    elif above == len(ratios):
        timestep, wanted = float(len(ratios) - 1), float(ratios[-1])
    else:
        below, span = float(ratios[above - 1]), float(ratios[above] - ratios[above - 1])
        timestep = above - 1 + (wanted - below) / span
    alpha = 1.0 / math.sqrt(1.0 + math.exp(2.0 * wanted))
    equivalent = NoiseLevel(alpha, alpha * math.exp(wanted))
    return math.hypot(level.alpha, level.sigma), timestep, equivalent


def levels_at(table: NoiseLevel, timesteps: Tensor, sample: Tensor) -> NoiseLevel:
    """The entries of :func:`training_levels` at integer ``timesteps`` (B,), shaped to broadcast against ``sample``."""
    return NoiseLevel(per_sample(table.alpha[timesteps], sample), per_sample(table.sigma[timesteps], sample))


def add_noise(x0: Tensor, noise: Tensor, level: NoiseLevel) -> Tensor:
    """The noisy sample ``alpha x0 + sigma noise``; equals ``scheduler.add_noise`` for the same noise schedule."""
    return level.alpha * x0 + level.sigma * noise


def prediction_target(x0: Tensor, noise: Tensor, level: NoiseLevel, prediction_type: str) -> Tensor:
    """What a network with this ``prediction_type`` should output; see the module's table.

    Args:
        x0: clean samples (B, ...).
        noise: the Gaussian noise that was added, same shape.
        level: coefficients that broadcast against ``x0``.
        prediction_type: one of :data:`PREDICTION_TYPES`.

    Raises:
        ValueError: an unknown prediction type.
    """
    alpha, sigma = level
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "sample":
        return x0
    if prediction_type == "v_prediction":
        return alpha * noise - sigma * x0
    if prediction_type == "flow_prediction":
        return noise - x0
    raise _unknown(prediction_type)


def predicted_x0(prediction: Tensor, sample: Tensor, level: NoiseLevel, prediction_type: str) -> Tensor:
    """The clean sample that a prediction implies; see the module's table. Shapes as ``sample``."""
    alpha, sigma = level
    if prediction_type == "epsilon":
        return (sample - sigma * prediction) / alpha
    if prediction_type == "sample":
        return prediction
    if prediction_type == "v_prediction":
        return (alpha * sample - sigma * prediction) / (alpha**2 + sigma**2)
    if prediction_type == "flow_prediction":
        return (sample - sigma * prediction) / (alpha + sigma)
    raise _unknown(prediction_type)


def predicted_epsilon(prediction: Tensor, sample: Tensor, level: NoiseLevel, prediction_type: str) -> Tensor:
    """The noise that a prediction implies; the score is ``-epsilon / sigma``. Shapes as ``sample``."""
    if prediction_type == "epsilon":
        return prediction
    alpha, sigma = level
    return (sample - alpha * predicted_x0(prediction, sample, level, prediction_type)) / sigma


def _unknown(prediction_type: str) -> ValueError:
    return ValueError(f"prediction_type must be one of {', '.join(PREDICTION_TYPES)}, got {prediction_type!r}.")
