"""The smallest networks that do the job: noisy sample and timestep embedding, concatenated, through two hidden layers.

They work on vectors; samples of any shape are flattened. Good for a first look and for vector latents. The residual
networks of ``residual_mlp`` are better at the same cost.
"""

from __future__ import annotations

import math

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import Timesteps
from torch import Tensor, nn

from .layers import Classifier, Denoiser


class _TimeConditionedMLP(nn.Module):
    """Flattened sample and sinusoidal timestep embedding (and extra features) through a two-layer SiLU network."""

    def __init__(self, in_features: int, extra_features: int, time_embed_dim: int, hidden_size: int, out_features: int):
        super().__init__()
        self.time_embedding = Timesteps(time_embed_dim, flip_sin_to_cos=False, downscale_freq_shift=0)
        self.layers = nn.Sequential(
            nn.Linear(in_features + time_embed_dim + extra_features, hidden_size),
            nn.SiLU(),
            nn.Linear(hidden_size, hidden_size),
            nn.SiLU(),
            nn.Linear(hidden_size, out_features),
        )

    def forward(self, sample: Tensor, timestep: Tensor, *extra: Tensor) -> Tensor:
        flat = sample.flatten(1)
        times = torch.as_tensor(timestep, device=flat.device).reshape(-1).expand(flat.shape[0])
        return self.layers(torch.cat([flat, self.time_embedding(times).to(flat.dtype), *extra], dim=1))


class MLPDenoiser(Denoiser):
    """Two-layer denoiser; arguments not named here as in :class:`~.layers.Network`.

    Args:
        class_embed_dim: size of the label embedding.
    """

    @register_to_config
    def __init__(
        self,
        sample_shape: tuple[int, ...] = (16,),
        hidden_size: int = 256,
        time_embed_dim: int = 64,
        num_classes: int | None = None,
        class_embed_dim: int = 16,
    ):
        super().__init__()
        size = math.prod(sample_shape)
        self.class_embedding = None if num_classes is None else nn.Embedding(num_classes + 1, class_embed_dim)
        extra = 0 if num_classes is None else class_embed_dim
        self.network = _TimeConditionedMLP(size, extra, time_embed_dim, hidden_size, size)

    def _predict(self, sample: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        extra = [] if labels is None else [labels.expand(sample.shape[0], -1)]
        return self.network(sample, timestep, *extra).reshape(sample.shape)


class MLPClassifier(Classifier):
    """Two-layer noise-aware classifier p(y | x, t); arguments as in :class:`~.layers.Network`."""

    @register_to_config
    def __init__(
        self,
        sample_shape: tuple[int, ...] = (16,),
        num_classes: int = 10,
        hidden_size: int = 256,
        time_embed_dim: int = 64,
    ):
        super().__init__()
        self.network = _TimeConditionedMLP(math.prod(sample_shape), 0, time_embed_dim, hidden_size, num_classes)

    def _logits(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return self.network(sample, timestep)
