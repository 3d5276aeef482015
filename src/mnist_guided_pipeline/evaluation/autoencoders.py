"""What an autoencoder is worth: how it copies, and what its latent space gives when one draws from it.

A variational autoencoder has a prior, N(0, I), that its encoder was held to. A plain one has none: nothing in its
training says where latents lie, so draws from N(0, I) mostly miss them. What can be done for both is to fit a Gaussian
to the latents of the training set afterwards (Ghosh et al. 2020, https://arxiv.org/abs/1903.12436, section 4). Both are
measured, for both kinds, so that the difference shows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..data.images import to_model_range, to_uint8, to_unit_range
from ..seeding import keyed_generator
from ..training.losses import reconstruction_loss
from .judge import Judge
from .metrics import judge_fid
from .scores import Reference, figure, share
from .tables import markdown_table

__all__ = [
    "decode_images",
    "encode_latents",
    "fitted_draws",
    "measure_autoencoder",
    "prior_draws",
    "reconstruct",
    "table_of_autoencoders",
]

_BATCH = 500


@torch.no_grad()
def decode_images(vae: Any, latents: Tensor, batch_size: int = _BATCH) -> Tensor:
    """Latents (N, *latent_shape), not normalised, to images uint8 (N, 28, 28) on the CPU."""
    parts = (vae.decode(batch.to(vae.device, vae.dtype)).sample for batch in latents.split(batch_size))
    return torch.cat([to_uint8(part.float().cpu()) for part in parts])


@torch.no_grad()
def reconstruct(vae: Any, images: Tensor, noise: Tensor | None = None, batch_size: int = _BATCH) -> Tensor:
    """Images uint8 (N, 28, 28), encoded and decoded: from the posterior's mean, or a draw made of standard noise."""
    return decode_images(vae, encode_latents(vae, images, noise, batch_size), batch_size)


@torch.no_grad()
def encode_latents(vae: Any, images: Tensor, noise: Tensor | None = None, batch_size: int = _BATCH) -> Tensor:
    """Latents float32 (N, *latent_shape), not normalised, on the CPU: means, or draws made of ``noise``."""
    parts = []
    for start in range(0, len(images), batch_size):
        batch = to_model_range(images[start : start + batch_size]).to(vae.device, vae.dtype)
        posterior = vae.encode(batch).latent_dist
        latents = posterior.mean.float().cpu()
        if noise is not None:
            latents = latents + posterior.std.float().cpu() * noise[start : start + batch_size]
        parts.append(latents)
    return torch.cat(parts)


def prior_draws(vae: Any, count: int, seed: int = 0) -> Tensor:
    """Draws of N(0, I), float32 (count, *latent_shape)."""
    return torch.randn(count, *vae.latent_shape, generator=keyed_generator(seed, "prior"))


def fitted_draws(vae: Any, images: Tensor, count: int, seed: int = 0) -> Tensor:
    """Draws of the Gaussian with the mean and full covariance of the latents of ``images`` uint8 (N, 28, 28).

    Returns:
        float32 (count, *latent_shape), not normalised.
    """
    noise = torch.randn(len(images), *vae.latent_shape, generator=keyed_generator(seed, "posterior"))
    latents = encode_latents(vae, images, noise).flatten(1).double()
    values, vectors = torch.linalg.eigh(torch.cov(latents.T).reshape(latents.shape[1], -1))
    normal = torch.randn(count, latents.shape[1], generator=keyed_generator(seed, "fitted"), dtype=torch.float64)
    draws = latents.mean(dim=0) + (normal * values.clamp_min(0).sqrt()) @ vectors.T
    return draws.float().reshape(count, *vae.latent_shape)


@torch.no_grad()
def measure_autoencoder(vae: Any, reference: Reference, judge: Judge, num_images: int, seed: int = 0) -> dict[str, Any]:
    """Reconstruction of the test set, and samples against it.

    Args:
        vae: variational or not.
        reference: its training images are for the Gaussian that is fitted to their latents; its test set is
            reconstructed whole, from the posterior's mean, and what every FID is taken against.
        judge: the one of ``reference``.
        num_images: samples drawn of each Gaussian.
        seed: of the draws.

    Returns:
        Figures by name: ``mse`` (a pixel, unit range), ``bce`` and ``kl`` (nats an image; no ``kl`` of a plain
        autoencoder), ``reconstruction_accuracy`` and ``reconstruction_fid`` by the judge, ``prior_fid`` of draws from
        N(0, I), ``fitted_fid`` of draws from the Gaussian fitted to the training latents, ``num_parameters`` and
        ``latent_size``.
    """
    test, real = reference.test, reference.judgement.features
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
        "mse": figure(mse, count),
        "bce": figure(bce, count),
        **({"kl": figure(kl, count)} if vae.config.variational else {}),
        "reconstruction_accuracy": share(hits, count),
        "reconstruction_fid": figure(judge_fid(real, judged.features), count),
        "prior_fid": figure(judge_fid(real, prior), num_images),
        "fitted_fid": figure(judge_fid(real, fitted), num_images),
        "num_parameters": sum(parameter.numel() for parameter in vae.parameters()),
        "latent_size": prior_draws(vae, 1).numel(),
    }


def table_of_autoencoders(figures: dict[str, dict[str, Any]]) -> str:
    """Several autoencoders as a Markdown table, a row each.

    Args:
        figures: by the autoencoder's name, those of :func:`measure_autoencoder`, with ``network``, ``variational``,
            ``reconstruction`` and ``kl_weight`` beside them.
    """
    titles = ["network", "trained with", "latent", "parameters", "MSE", "BCE", "KL", "accuracy of reconstructions"]
    rows = [["name", *titles, "judge-FID of reconstructions", "of N(0, I) draws", "of fitted draws"]]
    for name, row in figures.items():
        value = {key: entry["value"] for key, entry in row.items() if isinstance(entry, dict)}
        weight = 1.0 if row["kl_weight"] is None else row["kl_weight"]
        terms = [row["reconstruction"] or "unknown", *([f"{weight:g} KL"] if row["variational"] else [])]
        rows.append(
            [
                *(name, row["network"], " + ".join(terms), str(row["latent_size"]), f"{row['num_parameters']:,}"),
                *(f"{value['mse']:.4f}", f"{value['bce']:.1f}", f"{value['kl']:.1f}" if "kl" in value else ""),
                f"{value['reconstruction_accuracy']:.2%}",
                *(f"{value[key]:.2f}" for key in ("reconstruction_fid", "prior_fid", "fitted_fid")),
            ]
        )
    return markdown_table(rows, text_columns=3)
