r"""A convolutional noise-aware classifier p(y | x, t) of images or spatial latents.

Residual blocks with adaptive group normalisation, as in the noisy classifiers of Dhariwal and Nichol 2021
(https://arxiv.org/abs/2105.05233, section 4.3), at resolutions that halve from level to level:

    h <- h + conv(silu((1 + scale(t)) norm(conv(silu(norm(h)))) + shift(t))).

What guidance uses is the gradient by x. All activations are smooth and there are no batch statistics, so the gradient
is smooth and an image's gradient does not depend on its batch.

The classifier can be told the noise law; then it reads ``alpha(t) x`` in place of x, which loses nothing and gives the
gradient the factor alpha that it has under Gaussian noise (see ``residual_mlp``). A normalisation would undo that
scale, were there nothing else to normalise: so the features get a shift first, from the timestep, and each
normalisation is over all channels at once, whose shifts differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, DDPMScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.utils import BaseOutput
from torch import Tensor, nn

__all__ = ["ConvClassifier", "ConvClassifierOutput"]


@dataclass
class ConvClassifierOutput(BaseOutput):
    """Class ``logits`` (B, num_classes)."""

    logits: Tensor


class _TimeEmbedding(nn.Module):
    """Sinusoidal features of the timestep through a small network; (B, dim) or (1, dim)."""

    def __init__(self, dim: int):
        super().__init__()
        self.features = Timesteps(dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.network = TimestepEmbedding(dim, dim)

    def forward(self, timestep: Tensor, like: Tensor) -> Tensor:
        times = torch.as_tensor(timestep, device=like.device).reshape(-1)
        return self.network(self.features(times).to(like.dtype))


class _SignalGate(nn.Module):
    """``alpha(t)`` of a noise law, between integer timesteps by linear interpolation; (B, 1, 1, 1) or (1, 1, 1, 1)."""

    alpha: Tensor

    def __init__(self, noise_schedule: dict[str, Any]):
        super().__init__()
        with torch.device("cpu"):  # from_pretrained builds networks on the meta device, where there are no values
            if noise_schedule.get("law") == "flow":
                table = torch.linspace(1.0, 0.0, noise_schedule["num_train_timesteps"] + 1)
            else:
                table = DDPMScheduler(**noise_schedule).alphas_cumprod.sqrt()
        self.register_buffer("alpha", table, persistent=False)

    def forward(self, timestep: Tensor, like: Tensor) -> Tensor:
        last = len(self.alpha) - 1
        times = torch.as_tensor(timestep, device=like.device).reshape(-1, 1, 1, 1).to(torch.float32).clamp(0, last)
        below = times.floor().long()
        above = (below + 1).clamp(max=last)
        return torch.lerp(self.alpha[below].float(), self.alpha[above].float(), times - below).to(like.dtype)


class _ResidualBlock(nn.Module):
    """Two convolutions, the second after adaptive group normalisation, added to their input."""

    def __init__(self, channels: int, condition_dim: int, dropout: float):
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(condition_dim, 2 * channels)
        self.modulated_norm = nn.GroupNorm(1, channels, affine=False)
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
        inner = self.first(F.silu(self.norm(hidden)))
        inner = F.silu(torch.addcmul(shift, self.modulated_norm(inner), 1 + scale))
        return hidden + self.second(self.dropout(inner))


class ConvClassifier(ModelMixin, ConfigMixin):
    """Convolutional noise-aware classifier.

    Args:
        sample_shape: the shape of one sample, (C, H, W), such as ``(1, 28, 28)`` or ``(4, 7, 7)``.
        num_classes: number of classes.
        patch_size: pixels of a patch's side that are folded into channels; divides H and W. 1 is full resolution.
        block_channels: channels of each level; each level halves the resolution of the one before.
        layers_per_block: residual blocks of a level.
        condition_dim: size of the timestep embedding, even.
        dropout: in each block, while training.
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
        dropout: float = 0.0,
        noise_schedule: dict[str, Any] | None = None,
    ):
        super().__init__()
        if len(sample_shape) != 3 or sample_shape[1] % patch_size or sample_shape[2] % patch_size:
            raise ValueError(
                f"sample_shape {tuple(sample_shape)} does not fit patch_size {patch_size}: it must be "
                "(channels, height, width) with a height and width that patch_size divides."
            )
        if not block_channels or min(block_channels) < 1:
            raise ValueError(f"block_channels must be positive numbers, one a level, got {tuple(block_channels)}.")
        self.gate = None if noise_schedule is None else _SignalGate(noise_schedule)
        self.time_embedding = _TimeEmbedding(condition_dim)
        self.input_modulation = nn.Linear(condition_dim, 2 * block_channels[0])
        channels = sample_shape[0] * patch_size**2
        self.resamplers, self.blocks = nn.ModuleList(), nn.ModuleList()
        height, width = sample_shape[1] // patch_size, sample_shape[2] // patch_size
        for level, wider in enumerate(block_channels):
            stride = 1 if level == 0 else 2
            self.resamplers.append(nn.Conv2d(channels, wider, 3, stride=stride, padding=1))
            self.blocks.extend(_ResidualBlock(wider, condition_dim, dropout) for _ in range(layers_per_block))
            channels, height, width = wider, -(-height // stride), -(-width // stride)
        self.norm = nn.GroupNorm(1, channels)
        self.output = nn.Linear(channels * height * width, num_classes)

    def forward(
        self, sample: Tensor, timestep: Tensor, return_dict: bool = True
    ) -> ConvClassifierOutput | tuple[Tensor]:
        """Class logits of noisy samples (B, *sample_shape) at ``timestep`` (any dtype, 0-d or (B,)).

        Raises:
            ValueError: samples of another shape.
        """
        if tuple(sample.shape[1:]) != tuple(self.config.sample_shape):
            raise ValueError(f"sample must be (B, *{tuple(self.config.sample_shape)}), got {tuple(sample.shape)}.")
        condition = F.silu(self.time_embedding(timestep, sample))
        if self.gate is not None:
            sample = sample * self.gate(timestep, sample)
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
        return ConvClassifierOutput(logits=logits) if return_dict else (logits,)
