r"""A small diffusion transformer (Peebles and Xie 2023, https://arxiv.org/abs/2212.09748, section 3.2).

The sample is cut into patches of p x p, each a token; its place enters as fixed sines and cosines of its row and
column. Every block is adaLN-Zero: from the condition c (timestep and class) come a shift, scale and gate for attention
and another three for the network of each token,

    h <- h + gate_1 * attention((1 + scale_1) norm(h) + shift_1)
    h <- h + gate_2 * mlp((1 + scale_2) norm(h) + shift_2),

and the gates start at zero, so every block starts as the identity. The last layer is modulated too and starts at zero.
Each output token is the patch at its place: putting them back is the exact inverse of cutting, without interpolation.

Attention costs the square of the number of tokens, the rest grows with it: 28x28 pixels make 49 tokens with p = 4 and
16 with p = 7. Spatial latents of 7x7 go with p = 1 (49 tokens) or p = 7 (one).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from .layers import Denoiser, TimeEmbedding, check_patches, zeroed


def patchify(sample: Tensor, patch_size: int) -> Tensor:
    """Cut samples (B, C, H, W) into tokens (B, H/p * W/p, C * p * p), row by row."""
    return F.pixel_unshuffle(sample, patch_size).flatten(2).transpose(1, 2)


def unpatchify(tokens: Tensor, patch_size: int, rows: int) -> Tensor:
    """Put the tokens of ``rows`` rows of patches back in place; the inverse of :func:`patchify`."""
    return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, -1)), patch_size)


class _Position(nn.Module):
    """Adds sines and cosines of each token's row and column, half of the features each."""

    table: Tensor

    def __init__(self, rows: int, columns: int, dim: int):
        super().__init__()
        with torch.device("cpu"):  # from_pretrained builds networks on the meta device, where there are no values
            row = get_timestep_embedding(torch.arange(rows), dim // 2, downscale_freq_shift=0)
            column = get_timestep_embedding(torch.arange(columns), dim // 2, downscale_freq_shift=0)
            table = torch.cat([row.repeat_interleave(columns, dim=0), column.repeat(rows, 1)], dim=1)
        self.register_buffer("table", table, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.table.to(tokens.dtype)


class _DiTBlock(nn.Module):
    """Attention and a network of each token, both modulated and gated by the condition."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float, condition_dim: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.attention_output = nn.Linear(hidden_size, hidden_size)
        inner = int(mlp_ratio * hidden_size)
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size, inner), nn.GELU(approximate="tanh"), nn.Linear(inner, hidden_size)
        )
        self.modulation = zeroed(nn.Linear(condition_dim, 6 * hidden_size))

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(condition).unsqueeze(1).chunk(6, dim=-1)
        qkv = self.qkv(torch.addcmul(shift_1, self.norm(hidden), 1 + scale_1))
        query, key, value = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        hidden = torch.addcmul(hidden, gate_1, self.attention_output(mixed))
        return torch.addcmul(hidden, gate_2, self.mlp(torch.addcmul(shift_2, self.norm(hidden), 1 + scale_2)))


class DiTDenoiser(Denoiser):
    """Diffusion transformer on images or spatial latents; arguments not named here as in :class:`~.layers.Network`.

    Args:
        hidden_size: width, a multiple of 4 and of ``num_heads``.
        num_layers: number of blocks.
        num_heads: heads of attention.
        mlp_ratio: width inside the network of each token, in units of ``hidden_size``.
    """

    @register_to_config
    def __init__(
        self,
        sample_shape: tuple[int, int, int] = (1, 28, 28),
        patch_size: int = 4,
        hidden_size: int = 128,
        num_layers: int = 4,
        num_heads: int = 4,
        mlp_ratio: float = 4.0,
        condition_dim: int = 128,
        num_classes: int | None = None,
    ):
        super().__init__()
        check_patches(sample_shape, patch_size)
        if hidden_size % 4 or hidden_size % num_heads:
            raise ValueError(f"hidden_size must be a multiple of 4 and of num_heads ({num_heads}), got {hidden_size}.")
        channels, height, width = sample_shape
        self.time_embedding = TimeEmbedding(condition_dim)
        self.class_embedding = None if num_classes is None else nn.Embedding(num_classes + 1, condition_dim)
        self.input = nn.Linear(channels * patch_size**2, hidden_size)
        self.position = _Position(height // patch_size, width // patch_size, hidden_size)
        self.blocks = nn.ModuleList(
            _DiTBlock(hidden_size, num_heads, mlp_ratio, condition_dim) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.modulation = zeroed(nn.Linear(condition_dim, 2 * hidden_size))
        self.output = zeroed(nn.Linear(hidden_size, channels * patch_size**2))

    def _predict(self, sample: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        condition = self._condition(sample, timestep, labels)
        patch_size = self.config.patch_size
        hidden = self.position(self.input(patchify(sample, patch_size)))
        for block in self.blocks:
            hidden = block(hidden, condition)
        shift, scale = self.modulation(condition).unsqueeze(1).chunk(2, dim=-1)
        tokens = self.output(torch.addcmul(shift, self.norm(hidden), 1 + scale))
        return unpatchify(tokens, patch_size, sample.shape[2] // patch_size)
