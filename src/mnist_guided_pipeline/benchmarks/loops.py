"""The loops people write by hand, as yardsticks: plain PyTorch, no pipeline, no scheduler, no script.

They do what a notebook does with the same networks, so that the cost of everything around the networks shows. Their
mathematics is DDPM's (Ho et al. 2020, https://arxiv.org/abs/2006.11239, algorithms 1 and 2), guided by the rule of
Dhariwal and Nichol (2021, https://arxiv.org/abs/2105.05233, algorithm 1) in its epsilon form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ..models.autoencoders import MLPVAE
from ..models.mlp import MLPClassifier


def plain_sampling(
    denoiser: ModelMixin, classifier: ModelMixin, vae: ModelMixin, alphas_cumprod: Tensor, labels: Tensor, scale: float
) -> Tensor:
    """Guided ancestral sampling over every timestep of the table ``alphas_cumprod`` (T,), of classes int64 (B,).

    The networks are of latents (B, d), the denoiser predicts epsilon. Returns images (B, 1, 28, 28) in [-1, 1].
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


def plain_training(
    network: nn.Module,
    loss: Callable[[Any, Tensor, Tensor], Tensor],
    inputs: Tensor,
    labels: Tensor,
    epochs: int,
    batch_size: int,
    learning_rate: float,
) -> list[float]:
    """Train a network as a notebook does: Adam over a shuffled DataLoader of inputs (N, ...) and labels (N,).

    ``loss`` is called with the network and a batch of both. Returns its mean over the batches of each epoch.
    """
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=batch_size, shuffle=True)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    means = []
    for _ in range(epochs):
        total = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            value = loss(network, x, y)
            value.backward()
            optimizer.step()
            total += value.item()
        means.append(total / len(loader))
    return means


def vae_loss(vae: MLPVAE, shown: Tensor, images: Tensor, kl_weight: float) -> Tensor:
    """Squared error and KL, summed over images (B, 1, 28, 28) in [0, 1], from a draw of each posterior.

    The two plain networks are called, without the classes around them; ``shown`` are the images as the encoder is used
    to them.
    """
    mean, logvar = vae.encoder(shown).chunk(2, dim=1)
    z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
    copies = torch.sigmoid(vae.decoder(z)).view(-1, 1, 28, 28)
    kl = -0.5 * torch.sum(1 + logvar - mean.pow(2) - logvar.exp())
    return F.mse_loss(copies, images, reduction="sum") + kl_weight * kl


def latent_loss(network: ModelMixin, latents: Tensor, labels: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Mean squared error of a denoiser's epsilon, or cross-entropy of a classifier, at random timesteps."""
    times = torch.randint(len(alphas_cumprod), (len(latents),))
    noise = torch.randn_like(latents)
    kept = alphas_cumprod[times].unsqueeze(1)
    output = network(kept.sqrt() * latents + (1 - kept).sqrt() * noise, times, return_dict=False)[0]
    return F.cross_entropy(output, labels) if isinstance(network, MLPClassifier) else F.mse_loss(output, noise)
