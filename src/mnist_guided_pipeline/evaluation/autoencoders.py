"""What an autoencoder is worth: how it copies, and what draws of its latent space give.

A variational autoencoder has a prior, N(0, I), that its encoder was held to. A plain one has none: nothing in its
training says where latents lie, so draws from N(0, I) mostly miss them. What can be done for both is to fit a Gaussian
to the latents of the training set afterwards (Ghosh et al. 2020, https://arxiv.org/abs/1903.12436, section 4). Both are
measured, for both kinds, so that the difference shows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..data.images import to_unit_range
from ..data.posteriors import decode_images, encode_latents, reconstruct
from ..seeding import keyed_generator
from ..training.losses import reconstruction_loss
from .metrics import judge_fid
from .scores import Reference, measured, proportion

_BATCH = 500


def prior_draws(vae: Any, count: int, seed: int = 0) -> Tensor:
    """Draws of N(0, I), float32 (count, *latent_shape)."""
    return torch.randn(count, *vae.latent_shape, generator=keyed_generator(seed, "prior"))


def fitted_draws(vae: Any, images: Tensor, count: int, seed: int = 0) -> Tensor:
    """Draws float32 (count, *latent_shape) of a Gaussian fitted to the latents of ``images``: mean, full covariance."""
    noise = torch.randn(len(images), *vae.latent_shape, generator=keyed_generator(seed, "posterior"))
    latents = encode_latents(vae, images, noise).flatten(1).double()
    values, vectors = torch.linalg.eigh(torch.cov(latents.T).reshape(latents.shape[1], -1))
    normal = torch.randn(count, latents.shape[1], generator=keyed_generator(seed, "fitted"), dtype=torch.float64)
    draws = latents.mean(dim=0) + (normal * values.clamp_min(0).sqrt()) @ vectors.T
    return draws.float().reshape(count, *vae.latent_shape)


@torch.no_grad()
def measure_autoencoder(vae: Any, reference: Reference, num_images: int, seed: int = 0) -> dict[str, Any]:
    """Reconstruction of the reference's whole test set, and ``num_images`` samples of each Gaussian against it.

    Returns:
        Values by name: ``mse`` (per pixel, unit range), ``bce`` and ``kl`` (nats per image; no ``kl`` of a plain
        autoencoder), ``reconstruction_accuracy`` and ``reconstruction_fid`` by the judge, ``prior_fid`` of draws from
        N(0, I), ``fitted_fid`` of draws from the Gaussian fitted to the training latents, ``num_parameters`` and
        ``latent_size``.
    """
    judge, test, real = reference.judge, reference.test, reference.judgement.features
    sums = torch.zeros(3, dtype=torch.float64)
    for batch in test.images.split(_BATCH):
        unit = to_unit_range(batch).to(vae.device)
        posterior = vae.encode((unit * 2.0 - 1.0).to(vae.dtype)).latent_dist
        logits = vae.decode_logits(posterior.mode())
        terms = (
            reconstruction_loss(logits, unit, "mse") / batch[0].numel(),
            reconstruction_loss(logits, unit, "bce"),
            posterior.kl(),
        )
        sums += torch.stack([term.double().sum().cpu() for term in terms])
    count = len(test)
    mse, bce, kl = (sums / count).tolist()

    judged = judge(reconstruct(vae, test.images))
    hits = int((judged.probabilities.argmax(dim=1) == test.labels).sum())
    prior = judge.features(decode_images(vae, prior_draws(vae, num_images, seed)))
    fitted = judge.features(decode_images(vae, fitted_draws(vae, reference.train.images, num_images, seed)))
    return {
        "mse": measured(mse, count),
        "bce": measured(bce, count),
        **({"kl": measured(kl, count)} if vae.config.variational else {}),
        "reconstruction_accuracy": proportion(hits, count),
        "reconstruction_fid": measured(judge_fid(real, judged.features), count),
        "prior_fid": measured(judge_fid(real, prior), num_images),
        "fitted_fid": measured(judge_fid(real, fitted), num_images),
        "num_parameters": sum(parameter.numel() for parameter in vae.parameters()),
        "latent_size": prior_draws(vae, 1).numel(),
    }
