"""The loops people write by hand, as yardsticks: plain PyTorch, no pipeline, no scheduler, no script.

They do what a notebook does with the same networks, so that the cost of everything around the networks shows. Their
mathematics is DDPM's (Ho et al. 2020, https://arxiv.org/abs/2006.11239, algorithms 1 and 2), guided by the rule of
Dhariwal and Nichol (2021, https://arxiv.org/abs/2105.05233, algorithm 1) in its epsilon form.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

__all__ = ["plain_denoiser_training", "plain_sampling", "plain_vae_training"]


def plain_sampling(
    denoiser: ModelMixin, classifier: ModelMixin, vae: ModelMixin, alphas_cumprod: Tensor, labels: Tensor, scale: float
) -> Tensor:
    """Guided ancestral sampling over every timestep of the table.

    Args:
        denoiser: predicts epsilon of latents (B, d).
        classifier: reads latents (B, d).
        vae: decodes them.
        alphas_cumprod: (T,).
        labels: int64 (B,).
        scale: guidance scale.

    Returns:
        Images (B, 1, 28, 28) in [-1, 1].
    """
    previous = torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod[:-1]])
    betas = 1 - alphas_cumprod / previous
    z = torch.randn(len(labels), *denoiser.config.sample_shape)
    rows = torch.arange(len(labels))
    for t in reversed(range(len(alphas_cumprod))):
        times = torch.full((len(labels),), t)
        with torch.no_grad():
            epsilon = denoiser(z, times, return_dict=False)[0]
        leaf = z.detach().requires_grad_()
        log_probabilities = classifier(leaf, times, return_dict=False)[0].log_softmax(dim=1)
        (gradient,) = torch.autograd.grad(log_probabilities[rows, labels].sum(), leaf)
        sigma = (1 - alphas_cumprod[t]).sqrt()
        epsilon = epsilon - scale * sigma * gradient
        z = (z - betas[t] / sigma * epsilon) / (1 - betas[t]).sqrt()
        if t > 0:
            z = z + betas[t].sqrt() * torch.randn_like(z)
    with torch.no_grad():
        return vae.decode(z, return_dict=False)[0]


def plain_vae_training(vae: ModelMixin, images: Tensor, epochs: int, batch_size: int, kl_weight: float) -> float:
    """Train a VAE by squared error and KL, as a notebook does: Adam over a shuffled DataLoader.

    Args:
        vae: with the interface of ``AutoencoderKL``.
        images: (N, 1, 28, 28) in [-1, 1].
        epochs: passes over the images.
        batch_size: images an update.
        kl_weight: weight of the KL term.

    Returns:
        Mean loss an image, in units of [0, 1] pixels, of the last epoch.
    """
    loader = DataLoader(TensorDataset(images), batch_size=batch_size, shuffle=True)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3)
    for _ in range(epochs):
        total = 0.0
        for (batch,) in loader:
            posterior = vae.encode(batch).latent_dist
            shown = torch.sigmoid(vae.decode_logits(posterior.sample()))
            loss = F.mse_loss(shown, batch * 0.5 + 0.5, reduction="sum") + kl_weight * posterior.kl().sum()
            optimizer.zero_grad()
            (loss / len(batch)).backward()
            optimizer.step()
            total += loss.item()
    return total / len(images)


def plain_denoiser_training(
    denoiser: ModelMixin, latents: Tensor, alphas_cumprod: Tensor, epochs: int, batch_size: int
) -> float:
    """Train an epsilon denoiser on latents (N, d), as a notebook does.

    Returns:
        Mean squared error of the last epoch.
    """
    loader = DataLoader(TensorDataset(latents), batch_size=batch_size, shuffle=True)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=2e-4)
    for _ in range(epochs):
        total = 0.0
        for (batch,) in loader:
            times = torch.randint(len(alphas_cumprod), (len(batch),))
            noise = torch.randn_like(batch)
            kept = alphas_cumprod[times].unsqueeze(1)
            noisy = kept.sqrt() * batch + (1 - kept).sqrt() * noise
            loss = F.mse_loss(denoiser(noisy, times).sample, noise)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
    return total / len(latents)
