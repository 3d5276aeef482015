"""The loops people write by hand, as yardsticks: plain PyTorch, no pipeline, no scheduler, no script.

They do what a notebook does with the same networks, so that the cost of everything around the networks shows. Their
mathematics is DDPM's (Ho et al. 2020, https://arxiv.org/abs/2006.11239, algorithms 1 and 2), guided by the rule of
Dhariwal and Nichol (2021, https://arxiv.org/abs/2105.05233, algorithm 1) in its epsilon form.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from torch import Tensor
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


def plain_vae_training(
    vae: MLPVAE, images: Tensor, labels: Tensor, epochs: int, batch_size: int, kl_weight: float
) -> Iterator[float]:
    """Train a VAE as a notebook does: Adam over a shuffled DataLoader of images and labels, which are not used.

    Yields the mean loss per image after every epoch.
    """
    loader = DataLoader(TensorDataset(images, labels), batch_size=batch_size, shuffle=True)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3)
    for _ in range(epochs):
        total = 0.0
        for x, _labels in loader:
            optimizer.zero_grad()
            loss = vae_loss(vae, x, x, kl_weight)
            loss.backward()
            optimizer.step()
            total += loss.item()
        yield total / len(images)


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


def plain_latent_training(
    network: ModelMixin, latents: Tensor, labels: Tensor, alphas_cumprod: Tensor, epochs: int, batch_size: int
) -> Iterator[float]:
    """Train an epsilon denoiser or a classifier on latents (N, d) and their labels (N,), as a notebook does.

    Yields :func:`latent_loss` after every epoch, in its mean.
    """
    loader = DataLoader(TensorDataset(latents, labels), batch_size=batch_size, shuffle=True)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3 if isinstance(network, MLPClassifier) else 2e-4)
    for _ in range(epochs):
        total = 0.0
        for z0, y in loader:
            loss = latent_loss(network, z0, y, alphas_cumprod)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(z0)
        yield total / len(latents)


def latent_loss(network: ModelMixin, latents: Tensor, labels: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Mean squared error of a denoiser's epsilon, or cross-entropy of a classifier, at random timesteps."""
    times = torch.randint(len(alphas_cumprod), (len(latents),))
    noise = torch.randn_like(latents)
    kept = alphas_cumprod[times].unsqueeze(1)
    output = network(kept.sqrt() * latents + (1 - kept).sqrt() * noise, times, return_dict=False)[0]
    return F.cross_entropy(output, labels) if isinstance(network, MLPClassifier) else F.mse_loss(output, noise)
