"""Anomaly detection by an autoencoder: what it was not trained on, it copies badly.

The score of an image is its reconstruction error from the posterior's mean; how well the scores tell known images
from others is the area under the receiver operating characteristic (AUC), the probability that an anomaly scores
higher than a known image: 0.5 is a blind guess.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.images import to_unit_range
from ..seeding import keyed_generator
from ..training.losses import reconstruction_loss

__all__ = ["CORRUPTIONS", "Detection", "detect", "reconstruction_scores"]


def _inverted(images: Tensor, seed: int) -> Tensor:
    return 255 - images


def _upside_down(images: Tensor, seed: int) -> Tensor:
    return images.flip(1)


def _gaussian_noise(images: Tensor, seed: int) -> Tensor:
    noise = torch.randn(images.shape, generator=keyed_generator(seed, "gaussian noise"))
    return (images + 0.2 * 255 * noise).round().clamp(0, 255).to(torch.uint8)


def _shuffled_blocks(images: Tensor, seed: int) -> Tensor:
    """The sixteen blocks of 7x7 pixels in another order for every image."""
    count = len(images)
    blocks = images.reshape(count, 4, 7, 4, 7).transpose(2, 3).reshape(count, 16, 49)
    order = torch.rand(count, 16, generator=keyed_generator(seed, "shuffled blocks")).argsort(dim=1)
    blocks = blocks.gather(1, order[:, :, None].expand(-1, -1, 49))
    return blocks.reshape(count, 4, 4, 7, 7).transpose(2, 3).reshape(count, 28, 28)


CORRUPTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "inverted": _inverted,
    "shuffled blocks": _shuffled_blocks,
    "gaussian noise": _gaussian_noise,
    "upside down": _upside_down,
}
"""Ways to spoil images uint8 (N, 28, 28), with a seed: colours inverted; 7x7 blocks in random order; noise of standard
deviation 0.2 added; and turned over, which leaves some digits as they are."""


class Detection(NamedTuple):
    """How well scores tell anomalies from known images.

    Attributes:
        auc: area under the curve, in [0, 1].
        caught: share of anomalies above the 95th percentile of the known images' scores.
        false_positive_rate: of the curve (M,), ascending.
        true_positive_rate: of the curve (M,).
    """

    auc: float
    caught: float
    false_positive_rate: NDArray[np.float64]
    true_positive_rate: NDArray[np.float64]


@torch.no_grad()
def reconstruction_scores(vae: Any, images: Tensor, kind: str = "mse", batch_size: int = 500) -> Tensor:
    """Reconstruction error of every image from the posterior's mean, float64 (N,).

    Args:
        vae: variational or not, with ``encode`` and ``decode_logits``.
        images: uint8 (N, 28, 28).
        kind: ``"mse"``, the mean squared error a pixel in unit range; or ``"bce"``, the binary cross-entropy in nats,
            which also grows with the grey values of the image itself.
        batch_size: images at a time.
    """
    scores = []
    for batch in images.split(batch_size):
        unit = to_unit_range(batch).to(vae.device)
        latents = vae.encode((unit * 2.0 - 1.0).to(vae.dtype)).latent_dist.mode()
        scores.append(reconstruction_loss(vae.decode_logits(latents), unit, kind).double().cpu())
    errors = torch.cat(scores)
    return errors / images[0].numel() if kind == "mse" else errors


def detect(known: Tensor, anomalies: Tensor) -> Detection:
    """Compare the scores of known images (N,) with those of anomalies (M,)."""
    from sklearn.metrics import auc, roc_curve

    truth = np.concatenate([np.zeros(len(known)), np.ones(len(anomalies))])
    false_positives, true_positives, _ = roc_curve(truth, torch.cat([known, anomalies]).numpy())
    caught = (anomalies > known.quantile(0.95)).double().mean().item()
    return Detection(float(auc(false_positives, true_positives)), caught, false_positives, true_positives)
