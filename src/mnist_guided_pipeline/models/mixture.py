r"""Exact networks: the optimal denoiser and noise-aware classifier of a Gaussian mixture, in closed form.

Data are drawn from ``p(x0) = sum_k w_k N(m_k, C_k)``, each component belonging to a class. Noised to
``x = alpha x0 + sigma eps`` it stays a mixture, with component densities

    p(x | k) = N(alpha m_k, S_k),        S_k = alpha^2 C_k + sigma^2 I,

so everything that networks learn is known: with responsibilities ``r_k(x) ~ w_k p(x | k)``,

    E[x0 | x]  = sum_k r_k (m_k + alpha C_k S_k^-1 (x - alpha m_k)),
    p(y | x)   = sum_{k in y} r_k,

and sampling with guidance scale 1 must reproduce ``p(x0 | y)`` up to the solver's step size. That makes the pair a
testbed for guidance: any deviation is the method's. They are ordinary networks to the pipeline.

The noise schedule (``law``) says what a timestep means (``timestep`` may be fractional):

``preserving``  ``sigma / alpha`` of a diffusers beta schedule, interpolated in its logarithm; ``alpha^2 + sigma^2 = 1``
``flow``        ``sigma = timestep / num_train_timesteps``, ``alpha = 1 - sigma``
``edm``         ``sigma / alpha = exp(4 timestep)``, input scaled to variance one (Karras et al. 2022)
``arctan``      ``sigma / alpha = tan(pi/2 timestep)``, input scaled as for ``edm`` (cosine DPM-Solver)
``angle``       ``sigma = sin(pi/2 timestep)``, ``alpha = cos(pi/2 timestep)`` (IPNDM)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from .layers import ClassifierOutput, DenoiserOutput, Network

_PRECONDITIONED = ("edm", "arctan")


class _Mixture(nn.Module):
    """The noised mixture. Buffers are rebuilt from the config, so nothing is saved but the config."""

    log_weights: Tensor
    means: Tensor
    variances: Tensor
    directions: Tensor
    membership: Tensor

    def __init__(
        self, weights: list[float], means: list[list[float]], covariances: list[list[list[float]]], classes: list[int]
    ):
        super().__init__()
        if not len(weights) == len(means) == len(covariances) == len(classes):
            raise ValueError("weights, means, covariances and classes must have one entry per component.")
        self.num_classes = max(classes) + 1
        with torch.device("cpu"):  # from_pretrained builds networks on the meta device, where there are no values
            values, vectors = torch.linalg.eigh(torch.tensor(covariances, dtype=torch.float64))
            shares = torch.tensor(weights, dtype=torch.float64)
            buffers = {
                "log_weights": torch.log(shares / shares.sum()),
                "means": torch.tensor(means, dtype=torch.float64),
                "variances": values,
                "directions": vectors,
                "membership": torch.eye(self.num_classes, dtype=torch.float64)[classes],
            }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def components(self, sample: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Log joint density (B, K) of sample and component, and E[x0 | x, k] (B, K, d)."""
        alpha, sigma = alpha.reshape(-1, 1, 1), sigma.reshape(-1, 1, 1)
        offset = sample.unsqueeze(1) - alpha * self.means
        along = torch.einsum("bkd,kde->bke", offset, self.directions)
        total = alpha**2 * self.variances + sigma**2
        log_density = -0.5 * (along**2 / total + torch.log(2 * math.pi * total)).sum(dim=-1)
        pull = torch.einsum("bke,kde->bkd", alpha * self.variances / total * along, self.directions)
        return log_density + self.log_weights, self.means + pull


class _NoiseSchedule(nn.Module):
    """Timestep to coefficients."""

    log_ratio: Tensor

    def __init__(self, law: str, schedule: dict[str, Any] | None):
        super().__init__()
        if law not in ("preserving", "flow", "edm", "arctan", "angle"):
            raise ValueError(f"law must be 'preserving', 'flow', 'edm', 'arctan' or 'angle', got {law!r}.")
        self.law = law
        self.num_train_timesteps = (schedule or {}).get("num_train_timesteps", 1000)
        with torch.device("cpu"):
            table = DDPMScheduler(**(schedule or {})).alphas_cumprod.double()
            log_ratio = 0.5 * torch.log((1 - table) / table)
        self.register_buffer("log_ratio", log_ratio, persistent=False)

    def forward(self, timestep: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.as_tensor(timestep, device=like.device, dtype=torch.float64).reshape(-1)
        if self.law == "flow":
            sigma = t / self.num_train_timesteps
            alpha = 1 - sigma
        elif self.law == "angle":
            alpha, sigma = torch.cos(t * (math.pi / 2)), torch.sin(t * (math.pi / 2))
        else:
            if self.law == "preserving":
                low = t.floor().clamp(0, len(self.log_ratio) - 2).long()
                table = self.log_ratio.double()
                part = (t - low).clamp(0.0, 1.0)
                log_ratio = table[low] * (1 - part) + table[low + 1] * part
            else:
                log_ratio = 4 * t if self.law == "edm" else torch.log(torch.tan(t * (math.pi / 2)))
            alpha, sigma = torch.sigmoid(-2 * log_ratio).sqrt(), torch.sigmoid(2 * log_ratio).sqrt()
        return alpha.to(like.dtype), sigma.to(like.dtype)


class _MixtureNetwork(Network):
    """What both networks share: the mixture as it is seen at a timestep."""

    def _build(self, mixture: _Mixture, law: str, schedule: dict[str, Any] | None) -> None:
        self.mixture = mixture
        self.noise_schedule = _NoiseSchedule(law, schedule)
        self.anchor = nn.Parameter(torch.zeros(()), requires_grad=False)  # gives the network a dtype and a device

    def _seen(self, sample: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Alpha and sigma (B,) or (1,), and what :meth:`_Mixture.components` makes of the sample."""
        alpha, sigma = self.noise_schedule(timestep, sample)
        if self.noise_schedule.law in _PRECONDITIONED:  # whose inputs are scaled for data of deviation sigma_data
            scale = alpha.unsqueeze(-1)
            sample = sample * torch.sqrt(1.0 / scale**2 - 1.0 + self.config.sigma_data**2) * scale
        return alpha, sigma, *self.mixture.components(sample, alpha, sigma)


class MixtureDenoiser(_MixtureNetwork):
    """The exact denoiser.

    Args:
        weights: probability of each component (K).
        means: (K, d).
        covariances: (K, d, d), positive semi-definite.
        classes: class of each component (K), from 0.
        prediction_type: what to output; for ``law="edm"`` the raw network output whose preconditioning that is.
        law: see the module.
        schedule: settings of the beta schedule, as ``DDPMScheduler`` takes them, for ``law="preserving"``.
        num_classes: with the number of classes, the denoiser is conditional: given labels it is that of p(x0 | y);
            label ``num_classes``, or none, means all classes.
        sigma_data: the constant of EDM preconditioning.
    """

    @register_to_config
    def __init__(
        self,
        weights: list[float],
        means: list[list[float]],
        covariances: list[list[list[float]]],
        classes: list[int],
        prediction_type: str = "epsilon",
        law: str = "preserving",
        schedule: dict[str, Any] | None = None,
        num_classes: int | None = None,
        sigma_data: float = 1.0,
    ):
        super().__init__()
        self._build(_Mixture(weights, means, covariances, classes), law, schedule)
        self.register_to_config(sample_shape=[len(means[0])])

    def forward(
        self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> DenoiserOutput | tuple[Tensor]:
        """The optimal prediction for samples (B, d) at ``timestep`` (any dtype, 0-d or (B,))."""
        alpha, sigma, log_joint, means = self._seen(sample, timestep)
        if class_labels is not None and self.config.num_classes is not None:
            every_class = torch.ones_like(self.mixture.membership[:, :1])
            allowed = torch.cat([self.mixture.membership, every_class], dim=1)[:, class_labels].T
            log_joint = log_joint + torch.log(allowed)
        x0 = torch.einsum("bk,bkd->bd", torch.softmax(log_joint, dim=1), means)
        prediction = self._from_x0(sample, x0, alpha.unsqueeze(-1), sigma.unsqueeze(-1))
        return DenoiserOutput(sample=prediction) if return_dict else (prediction,)

    def _from_x0(self, sample: Tensor, x0: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        kind = self.config.prediction_type
        if self.noise_schedule.law in _PRECONDITIONED:
            ratio, data = sigma / alpha, self.config.sigma_data
            norm = torch.sqrt(ratio**2 + data**2)
            latents = sample * norm
            out = (x0 - data**2 / norm**2 * latents) * norm / (ratio * data)
            return out if kind == "epsilon" else -out
        eps = (sample - alpha * x0) / sigma
        targets = {"epsilon": eps, "sample": x0, "v_prediction": alpha * eps - sigma * x0, "flow_prediction": eps - x0}
        return targets[kind]


class MixtureClassifier(_MixtureNetwork):
    """The exact noise-aware classifier; arguments as :class:`MixtureDenoiser`."""

    @register_to_config
    def __init__(
        self,
        weights: list[float],
        means: list[list[float]],
        covariances: list[list[list[float]]],
        classes: list[int],
        law: str = "preserving",
        schedule: dict[str, Any] | None = None,
        sigma_data: float = 1.0,
    ):
        super().__init__()
        self._build(_Mixture(weights, means, covariances, classes), law, schedule)
        self.register_to_config(num_classes=max(classes) + 1)

    def forward(self, sample: Tensor, timestep: Tensor, return_dict: bool = True) -> ClassifierOutput | tuple[Tensor]:
        """Exact log-probabilities of the classes for samples (B, d) at ``timestep`` (any dtype, 0-d or (B,))."""
        log_joint = self._seen(sample, timestep)[2]
        logits = torch.logsumexp(log_joint.unsqueeze(-1) + torch.log(self.mixture.membership), dim=1)
        return ClassifierOutput(logits=logits) if return_dict else (logits,)
