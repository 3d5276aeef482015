r"""A small convolutional denoiser modulated by FiLM: the plainest network that sees an image as an image.

Feature-wise linear modulation (Perez et al. 2018, https://arxiv.org/abs/1709.07871, equation 2) lets a condition c,
here the timestep and the class, steer every channel k of a convolutional network by a scale and a shift:

    FiLM(h_k | c) = (1 + gamma_k(c)) h_k + beta_k(c).

Each layer normalises, modulates, bends and convolves, and adds the result to its input:

    h <- h + conv(silu(FiLM(norm(h) | c))).

A 3x3 convolution sees one position further with every layer, so at 28x28 a small network cannot see a whole digit, and
each layer is costly. Folding patches of p x p pixels into channels (space to depth) solves both: with p = 4 the layers
work on a 7x7 grid, which four of them overlook.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from .layers import Denoiser, TimeEmbedding, check_patches, zeroed

_GROUPS = 8


class _FiLMLayer(nn.Module):
    """``h + conv(silu(FiLM(norm(h) | c)))`` on features (B, channels, H, W)."""

    def __init__(self, channels: int, condition_dim: int):
        super().__init__()
        self.norm = nn.GroupNorm(_GROUPS, channels, affine=False)
        self.film = nn.Linear(condition_dim, 2 * channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        return hidden + self.conv(F.silu(torch.addcmul(shift, self.norm(hidden), 1 + scale)))


class FiLMConvDenoiser(Denoiser):
    """Convolutional denoiser modulated by FiLM; arguments not named here as in :class:`~.layers.Network`.

    Args:
        channels: width, a multiple of 8.
        num_layers: number of modulated convolutions; they see ``num_layers + 2`` patches in each direction.
    """

    @register_to_config
    def __init__(
        self,
        sample_shape: tuple[int, int, int] = (1, 28, 28),
        patch_size: int = 4,
        channels: int = 96,
        num_layers: int = 6,
        condition_dim: int = 128,
        num_classes: int | None = None,
    ):
        super().__init__()
        check_patches(sample_shape, patch_size)
        if channels % _GROUPS:
            raise ValueError(f"channels must be a multiple of {_GROUPS}, got {channels}.")
        folded = sample_shape[0] * patch_size**2
        self.time_embedding = TimeEmbedding(condition_dim)
        self.class_embedding = None if num_classes is None else nn.Embedding(num_classes + 1, condition_dim)
        self.input = nn.Conv2d(folded, channels, 3, padding=1)
        self.layers = nn.ModuleList(_FiLMLayer(channels, condition_dim) for _ in range(num_layers))
        self.norm = nn.GroupNorm(_GROUPS, channels)
        self.output = zeroed(nn.Conv2d(channels, folded, 3, padding=1))

    def _predict(self, sample: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        condition = self._condition(sample, timestep, labels)
        hidden = self.input(F.pixel_unshuffle(sample, self.config.patch_size))
        for layer in self.layers:
            hidden = layer(hidden, condition)
        return F.pixel_shuffle(self.output(F.silu(self.norm(hidden))), self.config.patch_size)
