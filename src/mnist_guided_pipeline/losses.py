r"""Training losses: pure functions, each a mean over the batch in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .noise import NoiseLevel

__all__ = [
    "denoising_loss",
    "gaussian_kl",
    "min_snr_weight",
    "reconstruction_loss",
]


def reconstruction_loss(logits: Tensor, images: Tensor, kind: str) -> Tensor:
    """Reconstruction term of the ELBO, summed over pixels.

    Args:
        logits: decoder output before the sigmoid (B, 1, 28, 28).
        images: targets (B, 1, 28, 28) in unit range [0, 1].
        kind: ``"bce"``, the negative log-likelihood in nats of grey values read as Bernoulli probabilities; or
            ``"mse"``, the squared error of the unit range.

    Returns:
        (B,).

    Raises:
        ValueError: another kind.
    """
    if kind == "bce":
        pixels = F.binary_cross_entropy_with_logits(logits.float(), images, reduction="none")
    elif kind == "mse":
        pixels = (torch.sigmoid(logits.float()) - images) ** 2
    else:
        raise ValueError(f"reconstruction must be 'bce' or 'mse', got {kind!r}.")
    return pixels.flatten(1).sum(dim=1)


def gaussian_kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL divergence of N(mean, exp(logvar)) from the standard Gaussian, in nats, summed over dimensions; (B,)."""
    mean, logvar = mean.float(), logvar.float()
    return 0.5 * (mean**2 + logvar.exp() - 1.0 - logvar).flatten(1).sum(dim=1)


def min_snr_weight(level: NoiseLevel, gamma: float, prediction_type: str) -> Tensor:
    """Min-SNR weight of a denoising loss (Hang et al. 2023, https://arxiv.org/abs/2303.09556, equations 8 and 9).

    Args:
        level: tensors (B,).
        gamma: the clamp on the signal-to-noise ratio, 5 in the paper.
        prediction_type: what the network predicts; the weight on x0 is ``min(SNR, gamma)`` in every case.

    Returns:
        (B,).
    """
    snr = (level.alpha / level.sigma) ** 2
    clamped = snr.clamp_max(gamma)
    if prediction_type == "epsilon":
        return clamped / snr.clamp_min(1e-20)
    if prediction_type == "v_prediction":
        return clamped / (snr + 1.0)
    if prediction_type == "flow_prediction":
        return clamped * level.sigma**2
    return clamped


def denoising_loss(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared error a sample, optionally weighted; () in float32.

    Args:
        prediction: (B, ...).
        target: (B, ...).
        weight: (B,), or None for one.
    """
    errors = ((prediction.float() - target.float()) ** 2).flatten(1).mean(dim=1)
    return (errors if weight is None else errors * weight).mean()

