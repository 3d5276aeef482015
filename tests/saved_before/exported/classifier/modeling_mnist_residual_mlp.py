"""Residual MLPs on flattened samples: the networks of the shipped default.

Each block normalises its input, modulates it with a shift and a scale made from the timestep, and adds its result
through a gate that starts at zero, as the adaLN-Zero blocks of DiT do (Peebles and Xie 2023,
https://arxiv.org/abs/2212.09748, section 3.2). On a latent of about a hundred numbers this is far cheaper than a
convolution or attention and mixes all positions at once.

The classifier can be told the noise law; then it reads ``alpha(t) x`` in place of x. Guidance moves the predicted
clean sample by ``sigma^2 / alpha`` times the classifier's gradient, so where little signal is left any error of the
gradient is multiplied without bound. Under Gaussian noise the class-dependent part of the log-likelihood depends on
x through ``alpha x / sigma^2`` alone, so scaling the input by alpha loses nothing, and the chain rule gives the
gradient the factor alpha that it ought to have.

The timestep embedding is computed once where one timestep serves the whole batch, as in sampling, so the modulation
costs nothing there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ConfigMixin, DDPMScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.utils import BaseOutput
from torch import Tensor, nn

__all__ = [
    "ResidualMLPClassifier",
    "ResidualMLPClassifierOutput",
    "ResidualMLPDenoiser",
    "ResidualMLPDenoiserOutput",
]


@dataclass
class ResidualMLPDenoiserOutput(BaseOutput):
    """The prediction ``sample``, in the shape of the input."""

    sample: Tensor


@dataclass
class ResidualMLPClassifierOutput(BaseOutput):
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


class _Block(nn.Module):
    """``h + gate * W2 silu(W1 (norm(h) * (1 + scale) + shift))`` with shift, scale, gate from the condition."""

    def __init__(self, hidden_size: int, condition_dim: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(condition_dim, 3 * hidden_size)
        self.layers = nn.Sequential(
            nn.Linear(hidden_size, hidden_size),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, hidden_size),
        )
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(condition).chunk(3, dim=-1)
        return hidden + gate * self.layers(torch.addcmul(shift, self.norm(hidden), 1 + scale))


class _Trunk(nn.Module):
    """Flattened sample to features, modulated by a condition throughout."""

    def __init__(self, in_features: int, hidden_size: int, num_layers: int, condition_dim: int, dropout: float):
        super().__init__()
        self.input = nn.Linear(in_features, hidden_size)
        self.input_modulation = nn.Linear(condition_dim, 2 * hidden_size)
        self.blocks = nn.ModuleList(_Block(hidden_size, condition_dim, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)

    def forward(self, sample: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.input_modulation(condition).chunk(2, dim=-1)
        hidden = torch.addcmul(shift, self.input(sample.flatten(1)), 1 + scale)
        for block in self.blocks:
            hidden = block(hidden, condition)
        return self.norm(hidden)


class _SignalGate(nn.Module):
    """``alpha(t)`` of a noise law, between integer timesteps by linear interpolation; (B, 1) or (1, 1)."""

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
        times = torch.as_tensor(timestep, device=like.device).reshape(-1, 1).to(torch.float32).clamp(0, last)
        below = times.floor().long()
        above = (below + 1).clamp(max=last)
        return torch.lerp(self.alpha[below].float(), self.alpha[above].float(), times - below).to(like.dtype)


class ResidualMLPDenoiser(ModelMixin, ConfigMixin):
    """Residual denoiser on flattened samples.

    Args:
        sample_shape: the shape of one sample, such as ``(32,)`` or ``(2, 7, 7)``.
        hidden_size: width.
        num_layers: number of residual blocks, two linear layers each.
        condition_dim: size of the timestep and class embeddings, even.
        num_classes: with a number, the denoiser takes class labels; label ``num_classes`` is the null class, which also
            stands in where no labels are given.
        dropout: in each block, while training.
    """

    _no_split_modules = ["_Block"]
    _repeated_blocks = ["_Block"]

    @register_to_config
    def __init__(
        self,
        sample_shape: tuple[int, ...] = (2, 7, 7),
        hidden_size: int = 640,
        num_layers: int = 5,
        condition_dim: int = 128,
        num_classes: int | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        size = math.prod(sample_shape)
        self.time_embedding = _TimeEmbedding(condition_dim)
        self.class_embedding = None if num_classes is None else nn.Embedding(num_classes + 1, condition_dim)
        self.activation = nn.SiLU()
        self.trunk = _Trunk(size, hidden_size, num_layers, condition_dim, dropout)
        self.output = nn.Linear(hidden_size, size)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> ResidualMLPDenoiserOutput | tuple[Tensor]:
        """Predict from noisy samples.

        Args:
            sample: (B, *sample_shape).
            timestep: any dtype, 0-d or (B,).
            class_labels: int64 (B,); only for a denoiser with ``num_classes``.
            return_dict: return an output object rather than a tuple.

        Raises:
            ValueError: labels for a denoiser without classes.
        """
        condition = self.time_embedding(timestep, sample)
        if self.class_embedding is not None:
            if class_labels is None:
                class_labels = torch.full((1,), self.config.num_classes, device=sample.device)
            condition = condition + self.class_embedding(class_labels)
        elif class_labels is not None:
            raise ValueError("class_labels were given, but this denoiser has no classes (num_classes=None).")
        features = self.trunk(sample, self.activation(condition))
        prediction = self.output(features).reshape(sample.shape)
        return ResidualMLPDenoiserOutput(sample=prediction) if return_dict else (prediction,)


class ResidualMLPClassifier(ModelMixin, ConfigMixin):
    """Residual noise-aware classifier p(y | x, t) on flattened samples.

    Its activations are smooth and it has no batch statistics, so its gradient is smooth and an image's gradient does
    not depend on its batch.

    Args:
        sample_shape: the shape of one sample.
        num_classes: number of classes.
        hidden_size: width.
        num_layers: number of residual blocks, two linear layers each.
        condition_dim: size of the timestep embedding, even.
        dropout: in each block, while training.
        noise_schedule: settings of the beta schedule, as ``DDPMScheduler`` takes them, or ``{"law": "flow",
            "num_train_timesteps": T}``; with them the classifier reads ``alpha(t) x``. None makes it read x as it is.
    """

    _no_split_modules = ["_Block"]
    _repeated_blocks = ["_Block"]

    @register_to_config
    def __init__(
        self,
        sample_shape: tuple[int, ...] = (2, 7, 7),
        num_classes: int = 10,
        hidden_size: int = 320,
        num_layers: int = 3,
        condition_dim: int = 128,
        dropout: float = 0.0,
        noise_schedule: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.gate = None if noise_schedule is None else _SignalGate(noise_schedule)
        self.time_embedding = _TimeEmbedding(condition_dim)
        self.activation = nn.SiLU()
        self.trunk = _Trunk(math.prod(sample_shape), hidden_size, num_layers, condition_dim, dropout)
        self.output = nn.Linear(hidden_size, num_classes)

    def forward(
        self, sample: Tensor, timestep: Tensor, return_dict: bool = True
    ) -> ResidualMLPClassifierOutput | tuple[Tensor]:
        """Class logits of noisy samples (B, *sample_shape) at ``timestep`` (any dtype, 0-d or (B,))."""
        condition = self.activation(self.time_embedding(timestep, sample))
        if self.gate is not None:
            sample = sample.flatten(1) * self.gate(timestep, sample)
        logits = self.output(self.trunk(sample, condition))
        return ResidualMLPClassifierOutput(logits=logits) if return_dict else (logits,)
