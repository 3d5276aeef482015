r"""Variational autoencoders for small images, with the interface of diffusers' ``AutoencoderKL``.

The encoder gives the mean and log-variance of a Gaussian q(z | x), the decoder the image. They are trained with the
negative evidence lower bound (Kingma and Welling 2014, https://arxiv.org/abs/1312.6114, equation 10), with a weight
on its second term (Higgins et al. 2017, https://openreview.net/forum?id=Sy2fzU9gl):

    reconstruction(x, decode(z)) + kl_weight * KL(q(z | x) || N(0, I)),        z ~ q(z | x).

Images are in model range [-1, 1]. The decoder ends in a sigmoid, so ``decode`` returns values inside that range;
``decode_logits`` gives what is before the sigmoid, for a stable binary cross-entropy.

A diffusion model wants latents of unit variance. ``config.latents_mean`` and ``config.latents_std`` hold the
statistics that were fitted after training, one entry per channel (or a dimension of a vector latent); nothing else in
the package stores them.
"""

from __future__ import annotations

import math

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from .layers import Network, check_image_shape


class LatentGaussian(DiagonalGaussianDistribution):
    """A diagonal Gaussian over latents of any shape; diffusers' own sums its KL over images only."""

    def kl(self, other: DiagonalGaussianDistribution | None = None) -> Tensor:
        """KL divergence in nats (B,), to ``other`` or to the standard Gaussian, in float32."""
        if self.deterministic:
            return self.mean.new_zeros(self.mean.shape[0])
        mean, logvar = self.mean.float(), self.logvar.float()
        if other is None:
            terms = mean**2 + logvar.exp() - 1.0 - logvar
        else:
            terms = (mean - other.mean) ** 2 / other.var + logvar.exp() / other.var - 1.0 - logvar + other.logvar
        return 0.5 * terms.flatten(1).sum(dim=1)


class _Autoencoder(Network):
    """What both autoencoders share: the interface. Subclasses define ``encoder`` and ``decoder``.

    Args:
        variational: False makes a plain autoencoder, whose posterior is a point.
        latents_mean: fitted mean of each latent channel (or dimension of a vector latent), for normalisation.
        latents_std: fitted standard deviation of each latent channel (or dimension).
        image_shape: as in :class:`~.layers.Network`.
    """

    encoder: nn.Module
    decoder: nn.Module

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of one latent."""
        if self.config.latent_dim is not None:
            return (self.config.latent_dim,)
        _, height, width = self.config.image_shape
        return (self.config.latent_channels, height // 4, width // 4)

    @apply_forward_hook
    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[LatentGaussian]:
        """Images (B, *image_shape) in [-1, 1] to a Gaussian ``latent_dist`` over (B, *latent_shape), not normalised."""
        posterior = LatentGaussian(self.encoder(x), deterministic=not self.config.variational)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode_logits(self, z: Tensor) -> Tensor:
        """Latents (B, *latent_shape) to logits (B, *image_shape) of pixel intensity."""
        return self.decoder(z).reshape(-1, *self.config.image_shape)

    @apply_forward_hook
    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Latents (B, *latent_shape), not normalised, to images (B, *image_shape) in [-1, 1]."""
        images = 2.0 * torch.sigmoid(self.decode_logits(z)) - 1.0
        return DecoderOutput(sample=images) if return_dict else (images,)

    def forward(
        self,
        sample: Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """Reconstruct images (B, *image_shape) in [-1, 1], from the posterior's mean or from a draw of it."""
        posterior = self.encode(sample).latent_dist
        z = posterior.sample(generator) if sample_posterior else posterior.mode()
        return self.decode(z, return_dict=return_dict)


class MLPVAE(_Autoencoder):
    """Fully connected VAE with a vector latent: pixels - hidden - latent_dim and back.

    Further arguments are those of both autoencoders, :class:`_Autoencoder`.

    Args:
        latent_dim: size of the latent vector.
        hidden_size: width of the hidden layer on both sides.
    """

    @register_to_config
    def __init__(
        self,
        latent_dim: int = 16,
        hidden_size: int = 400,
        variational: bool = True,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
        image_shape: tuple[int, int, int] = (1, 28, 28),
    ):
        super().__init__()
        check_image_shape(image_shape)
        pixels = math.prod(image_shape)
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, hidden_size), nn.ReLU(), nn.Linear(hidden_size, 2 * latent_dim)
        )
        self.decoder = nn.Sequential(nn.Linear(latent_dim, hidden_size), nn.ReLU(), nn.Linear(hidden_size, pixels))


class _ResidualConv(nn.Module):
    """Two 3x3 convolutions with group normalisation, added to their input."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class _ToPositions(nn.Unflatten):
    """Features to positions; float32 ones on a CPU get channels last in memory, which makes convolutions faster."""

    def forward(self, input: Tensor) -> Tensor:
        positions = super().forward(input)
        if positions.device.type == "cpu" and positions.dtype == torch.float32:
            return positions.contiguous(memory_format=torch.channels_last)
        return positions


class ConvVAE(_Autoencoder):
    """Convolutional VAE, each side halved twice, with a spatial latent (C, H / 4, W / 4) or a vector latent.

    Further arguments are those of both autoencoders, :class:`_Autoencoder`.

    Args:
        latent_channels: channels of the spatial latent; ignored with ``latent_dim``.
        latent_dim: with a number, the features are mapped to a vector latent of this size.
        hidden_channels: channels at half and at a quarter of each side, multiples of 8.
        num_res_blocks: residual blocks at a quarter of each side, in encoder and decoder.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 4,
        latent_dim: int | None = None,
        hidden_channels: tuple[int, int] = (32, 64),
        num_res_blocks: int = 1,
        variational: bool = True,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
        image_shape: tuple[int, int, int] = (1, 28, 28),
    ):
        super().__init__()
        channels, height, width = check_image_shape(image_shape, multiple=4)
        outer, inner = hidden_channels
        spatial = (inner, height // 4, width // 4)
        to_latent: list[nn.Module]
        from_latent: list[nn.Module]
        if latent_dim is None:
            to_latent = [nn.Conv2d(inner, 2 * latent_channels, 1)]
            from_latent = [nn.Conv2d(latent_channels, inner, 3, padding=1)]
        else:
            to_latent = [nn.Flatten(), nn.Linear(math.prod(spatial), 2 * latent_dim)]
            from_latent = [nn.Linear(latent_dim, math.prod(spatial)), _ToPositions(1, spatial)]
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, outer, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(outer, inner, 4, stride=2, padding=1),
            *(_ResidualConv(inner) for _ in range(num_res_blocks)),
            nn.GroupNorm(8, inner),
            nn.SiLU(),
            *to_latent,
        )
        self.decoder = nn.Sequential(
            *from_latent,
            *(_ResidualConv(inner) for _ in range(num_res_blocks)),
            nn.GroupNorm(8, inner),
            nn.SiLU(),
            nn.ConvTranspose2d(inner, outer, 4, stride=2, padding=1),
            nn.GroupNorm(8, outer),
            nn.SiLU(),
            nn.ConvTranspose2d(outer, channels, 4, stride=2, padding=1),
        )
