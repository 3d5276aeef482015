r"""A convolutional noise-aware classifier p(y | x, t) of images or spatial latents.

Residual blocks with adaptive group normalisation, as in the noisy classifiers of Dhariwal and Nichol 2021
(https://arxiv.org/abs/2105.05233, section 4.3), at resolutions that halve from level to level:

    h <- h + conv(silu((1 + scale(t)) norm(conv(silu(norm(h)))) + shift(t))).

What guidance uses is the gradient by x. All activations are smooth and there are no batch statistics, so the gradient
is smooth and an image's gradient does not depend on its batch.

Given a noise schedule, the classifier reads ``alpha(t) x`` in place of x (:class:`~.layers.SignalGate` says why). A
normalisation would undo that scale, were there nothing else to normalise: so the features get a shift first, from the
timestep, and each normalisation is over all channels at once, whose shifts differ.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from .layers import Classifier, TimeEmbedding, _ResidualBlock, check_patches


class ConvClassifier(Classifier):
    """Convolutional noise-aware classifier; arguments not named here as in :class:`~.layers.Network`.

    Args:
        block_channels: channels of each level; each level halves the resolution of the one before.
        layers_per_block: residual blocks of a level.
    """

    @register_to_config
    def __init__(
        self,
        sample_shape: tuple[int, int, int] = (1, 28, 28),
        num_classes: int = 10,
        patch_size: int = 2,
        block_channels: tuple[int, ...] = (32, 64),
        layers_per_block: int = 1,
        condition_dim: int = 128,
        noise_schedule: dict[str, Any] | None = None,
    ):
        super().__init__(noise_schedule)
        check_patches(sample_shape, patch_size, len(block_channels))
        if not block_channels or min(block_channels) < 1:
            raise ValueError(f"block_channels must be positive numbers, one per level, got {tuple(block_channels)}.")
        self.time_embedding = TimeEmbedding(condition_dim)
        self.input_modulation = nn.Linear(condition_dim, 2 * block_channels[0])
        channels = sample_shape[0] * patch_size**2
        self.resamplers, self.blocks = nn.ModuleList(), nn.ModuleList()
        height, width = sample_shape[1] // patch_size, sample_shape[2] // patch_size
        for level, wider in enumerate(block_channels):
            stride = 1 if level == 0 else 2
            self.resamplers.append(nn.Conv2d(channels, wider, 3, stride=stride, padding=1))
            self.blocks.extend(_ResidualBlock(wider, wider, condition_dim, 1, False) for _ in range(layers_per_block))
            channels, height, width = wider, -(-height // stride), -(-width // stride)
        self.norm = nn.GroupNorm(1, channels)
        self.output = nn.Linear(channels * height * width, num_classes)

    def _logits(self, sample: Tensor, timestep: Tensor) -> Tensor:
        condition = F.silu(self.time_embedding(timestep, sample))
        hidden = F.pixel_unshuffle(sample, self.config.patch_size)
        depth = self.config.layers_per_block
        for level, resample in enumerate(self.resamplers):
            hidden = resample(hidden)
            if level == 0:
                scale, shift = self.input_modulation(condition)[:, :, None, None].chunk(2, dim=1)
                hidden = torch.addcmul(shift, hidden, 1 + scale)
            for block in self.blocks[level * depth : (level + 1) * depth]:
                hidden = block(hidden, condition)
        return self.output(F.silu(self.norm(hidden)).flatten(1))
