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

from .layers import ClassifierOutput, Network, SignalGate, TimeEmbedding, check_patches, check_sample


class _ResidualBlock(nn.Module):
    """Two convolutions, the second after adaptive group normalisation, added to their input."""

    def __init__(self, channels: int, condition_dim: int):
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(condition_dim, 2 * channels)
        self.modulated_norm = nn.GroupNorm(1, channels, affine=False)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
        inner = self.first(F.silu(self.norm(hidden)))
        inner = F.silu(torch.addcmul(shift, self.modulated_norm(inner), 1 + scale))
        return hidden + self.second(inner)


class ConvClassifier(Network):
    """Convolutional noise-aware classifier.

    Args:
        sample_shape: the shape of one sample, (C, H, W), such as ``(1, 28, 28)`` or ``(4, 7, 7)``.
        num_classes: number of classes.
        patch_size: pixels of a patch's side that are folded into channels; divides H and W. 1 is full resolution.
        block_channels: channels of each level; each level halves the resolution of the one before.
        layers_per_block: residual blocks of a level.
        condition_dim: size of the timestep embedding, even.
        noise_schedule: settings of the beta schedule, as ``DDPMScheduler`` takes them, or ``{"law": "flow",
            "num_train_timesteps": T}``; with them the classifier reads ``alpha(t) x``. None makes it read x as it is.

    Raises:
        ValueError: a shape that does not fit the patches, or no levels.
    """

    _no_split_modules = ["_ResidualBlock"]
    _repeated_blocks = ["_ResidualBlock"]

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
        super().__init__()
        check_patches(sample_shape, patch_size, len(block_channels))
        if not block_channels or min(block_channels) < 1:
            raise ValueError(f"block_channels must be positive numbers, one per level, got {tuple(block_channels)}.")
        self.gate = None if noise_schedule is None else SignalGate(noise_schedule)
        self.time_embedding = TimeEmbedding(condition_dim)
        self.input_modulation = nn.Linear(condition_dim, 2 * block_channels[0])
        channels = sample_shape[0] * patch_size**2
        self.resamplers, self.blocks = nn.ModuleList(), nn.ModuleList()
        height, width = sample_shape[1] // patch_size, sample_shape[2] // patch_size
        for level, wider in enumerate(block_channels):
            stride = 1 if level == 0 else 2
            self.resamplers.append(nn.Conv2d(channels, wider, 3, stride=stride, padding=1))
            self.blocks.extend(_ResidualBlock(wider, condition_dim) for _ in range(layers_per_block))
            channels, height, width = wider, -(-height // stride), -(-width // stride)
        self.norm = nn.GroupNorm(1, channels)
        self.output = nn.Linear(channels * height * width, num_classes)

    def forward(self, sample: Tensor, timestep: Tensor, return_dict: bool = True) -> ClassifierOutput | tuple[Tensor]:
        """Class logits of noisy samples (B, *sample_shape) at ``timestep`` (any dtype, 0-d or (B,)).

        Raises:
            ValueError: samples of another shape.
        """
        check_sample(sample, self.config.sample_shape)
        condition = F.silu(self.time_embedding(timestep, sample))
        if self.gate is not None:
            sample = self.gate(timestep, sample)
        hidden = F.pixel_unshuffle(sample, self.config.patch_size)
        depth = self.config.layers_per_block
        for level, resample in enumerate(self.resamplers):
            hidden = resample(hidden)
            if level == 0:
                scale, shift = self.input_modulation(condition)[:, :, None, None].chunk(2, dim=1)
                hidden = torch.addcmul(shift, hidden, 1 + scale)
            for block in self.blocks[level * depth : (level + 1) * depth]:
                hidden = block(hidden, condition)
        logits = self.output(F.silu(self.norm(hidden)).flatten(1))
        return ClassifierOutput(logits=logits) if return_dict else (logits,)
