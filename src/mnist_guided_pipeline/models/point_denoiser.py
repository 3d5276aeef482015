"""A residual MLP for points in the plane, and for any other sample of a few numbers.

A shape such as an outline has edges far finer than its size, and a network on bare coordinates learns fine detail
late (Tancik et al. 2020, https://arxiv.org/abs/2006.10739). So each coordinate comes with its sines and cosines at
frequencies that double from ``min_frequency``, and the timestep with its own, as in DDPM.
"""

from __future__ import annotations

import math

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import Timesteps
from torch import Tensor, nn

from .layers import Denoiser


class _Block(nn.Module):
    """``h + f(h)``, where f is three linear layers with a GELU each."""

    def __init__(self, hidden_size: int):
        super().__init__()
        layers = [layer for _ in range(3) for layer in (nn.Linear(hidden_size, hidden_size), nn.GELU())]
        self.layers = nn.Sequential(*layers)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.layers(hidden)


class PointDenoiser(Denoiser):
    """Residual denoiser, GELU blocks on sinusoidal features; arguments not named here as in :class:`~.layers.Network`.

    Args:
        num_layers: number of residual blocks, three linear layers each.
        num_frequencies: frequencies of a coordinate's sinusoidal features; 0 for bare coordinates.
        min_frequency: the lowest of them, in radians per unit; each further one is twice the one before.
    """

    @register_to_config
    def __init__(
        self,
        sample_shape: tuple[int, ...] = (2,),
        hidden_size: int = 128,
        num_layers: int = 3,
        time_embed_dim: int = 32,
        num_frequencies: int = 6,
        min_frequency: float = 1.0,
        num_classes: int | None = None,
    ):
        super().__init__()
        size = math.prod(sample_shape)
        self.time_embedding = Timesteps(time_embed_dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.input = nn.Linear(size * (1 + 2 * num_frequencies), hidden_size)
        self.time_input = nn.Linear(time_embed_dim, hidden_size)
        self.class_embedding = None if num_classes is None else nn.Embedding(num_classes + 1, hidden_size)
        self.blocks = nn.ModuleList(_Block(hidden_size) for _ in range(num_layers))
        self.output = nn.Linear(hidden_size, size)

    def _predict(self, sample: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        times = torch.as_tensor(timestep, device=sample.device).reshape(-1)
        hidden = self.input(self._features(sample)) + self.time_input(self.time_embedding(times).to(sample.dtype))
        if labels is not None:
            hidden = hidden + labels
        for block in self.blocks:
            hidden = block(hidden)
        return self.output(hidden).reshape(sample.shape)

    def _features(self, sample: Tensor) -> Tensor:
        """Every coordinate, and its sines and cosines; (B, size * (1 + 2 * num_frequencies))."""
        coordinates = sample.flatten(1)
        octaves = torch.arange(self.config.num_frequencies, device=sample.device, dtype=sample.dtype)
        angles = (coordinates.unsqueeze(-1) * (self.config.min_frequency * 2.0**octaves)).flatten(1)
        return torch.cat([coordinates, angles.sin(), angles.cos()], dim=1)
