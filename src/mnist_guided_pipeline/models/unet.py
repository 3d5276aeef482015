r"""A small U-Net denoiser: residual convolutions at several resolutions, with skip connections between equal ones.

The architecture of Ho et al. 2020 (https://arxiv.org/abs/2006.11239, appendix B) with the conditioning of Dhariwal and
Nichol 2021 (https://arxiv.org/abs/2105.05233, section 3.1): adaptive group normalisation,

    AdaGN(h, c) = (1 + scale(c)) GroupNorm(h) + shift(c),

in every residual block, where the condition c comes from the timestep and the class. The last convolution of each
block starts at zero, so that every block starts as the identity.

On a CPU nearly all time goes to convolutions at full resolution. With ``patch_size=2`` patches of 2x2 pixels are folded
into channels first (space to depth), so a 28x28 image is worked on at 14x14 and 7x7. A side that is odd is halved
upwards, 7 -> 4, and brought back to its skip connection's size.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from .layers import Denoiser, TimeEmbedding, _ResidualBlock, check_patches, zeroed

_GROUPS = 8


class _Attention(nn.Module):
    """Self-attention of one head over all positions, added to its input."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(_GROUPS, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.output = zeroed(nn.Linear(channels, channels))

    def forward(self, hidden: Tensor) -> Tensor:
        tokens = self.norm(hidden).flatten(2).transpose(1, 2)
        query, key, value = self.qkv(tokens).unsqueeze(1).chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(query, key, value).squeeze(1)
        return hidden + self.output(mixed).transpose(1, 2).unflatten(2, hidden.shape[2:])


class UNetDenoiser(Denoiser):
    """U-Net denoiser of images or spatial latents; arguments not named here as in :class:`~.layers.Network`.

    Args:
        block_channels: channels of each level, multiples of 8; each level halves the resolution of the one before.
        layers_per_block: residual blocks of a level, on the way down; as many on the way up.
        attention: self-attention over all positions of the lowest level.
    """

    @register_to_config
    def __init__(
        self,
        sample_shape: tuple[int, int, int] = (1, 28, 28),
        patch_size: int = 2,
        block_channels: tuple[int, ...] = (32, 64),
        layers_per_block: int = 1,
        attention: bool = False,
        condition_dim: int = 128,
        num_classes: int | None = None,
    ):
        super().__init__()
        check_patches(sample_shape, patch_size, len(block_channels))
        if not block_channels or any(channels % _GROUPS for channels in block_channels):
            raise ValueError(f"block_channels must be multiples of {_GROUPS}, got {tuple(block_channels)}.")
        folded = sample_shape[0] * patch_size**2
        self.time_embedding = TimeEmbedding(condition_dim)
        self.class_embedding = None if num_classes is None else nn.Embedding(num_classes + 1, condition_dim)
        self.input = nn.Conv2d(folded, block_channels[0], 3, padding=1)

        self.down_blocks, self.downsamplers = nn.ModuleList(), nn.ModuleList()
        self.up_blocks, self.upsamplers = nn.ModuleList(), nn.ModuleList()
        block = partial(_ResidualBlock, condition_dim=condition_dim, groups=_GROUPS, zero_init=True)
        for level, channels in enumerate(block_channels):
            for _ in range(layers_per_block):
                self.down_blocks.append(block(channels, channels))
                self.up_blocks.append(block(2 * channels, channels))
            if level + 1 < len(block_channels):
                below = block_channels[level + 1]
                self.downsamplers.append(nn.Conv2d(channels, below, 3, stride=2, padding=1))
                self.upsamplers.append(nn.Conv2d(below, channels, 3, padding=1))
        self.mixing = _Attention(block_channels[-1]) if attention else nn.Identity()
        self.middle = block(block_channels[-1], block_channels[-1])

        self.norm = nn.GroupNorm(_GROUPS, block_channels[0])
        self.output = zeroed(nn.Conv2d(block_channels[0], folded, 3, padding=1))

    def _predict(self, sample: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        condition = self._condition(sample, timestep, labels)

        depth = self.config.layers_per_block
        levels = range(len(self.config.block_channels))
        hidden = self.input(F.pixel_unshuffle(sample, self.config.patch_size))
        skips = []
        for level in levels:
            if level > 0:
                hidden = self.downsamplers[level - 1](hidden)
            for block in self.down_blocks[level * depth : (level + 1) * depth]:
                hidden = block(hidden, condition)
                skips.append(hidden)
        hidden = self.middle(self.mixing(hidden), condition)
        for level in reversed(levels):
            for block in self.up_blocks[level * depth : (level + 1) * depth]:
                hidden = block(torch.cat([hidden, skips.pop()], dim=1), condition)
            if level > 0:
                hidden = self.upsamplers[level - 1](F.interpolate(hidden, size=skips[-1].shape[2:], mode="nearest"))
        return F.pixel_shuffle(self.output(F.silu(self.norm(hidden))), self.config.patch_size)
