"""Residual MLPs on flattened samples: the networks of the shipped default.

Each block normalises its input, modulates it with a shift and a scale made from the timestep, and adds its result
through a factor that starts at zero, as the adaLN-Zero blocks of DiT do (Peebles and Xie 2023,
https://arxiv.org/abs/2212.09748, section 3.2). On a latent of few numbers (32 in the shipped default) this is far
cheaper than a convolution or attention and mixes all positions at once.

Where one timestep serves the whole batch, as in sampling, it is embedded once, and the modulation made once, unless
labels or posteriors come along.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.activations import SwiGLU
from torch import Tensor, nn

from .layers import Classifier, Denoiser, DenoiserOutput, TimeEmbedding, zeroed


class _Block(nn.Module):
    """``h + factor * layers(norm(h) * (1 + scale) + shift)`` with shift, scale, factor from the condition.

    The layers are two linear ones with SiLU between them, or SwiGLU (Shazeer 2020, https://arxiv.org/abs/2002.05202):
    one half of the first one's outputs multiplies the SiLU of the other, in as many weights.
    """

    def __init__(self, hidden_size: int, condition_dim: int, activation_fn: str):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.modulation = zeroed(nn.Linear(condition_dim, 3 * hidden_size))
        if activation_fn == "swiglu":
            inner = 32 * max(1, round(2 * hidden_size / 96))
            self.layers = nn.Sequential(SwiGLU(hidden_size, inner), nn.Linear(inner, hidden_size))
        elif activation_fn == "silu":
            self.layers = nn.Sequential(
                nn.Linear(hidden_size, hidden_size),
                nn.SiLU(),
                nn.Identity(),  # keeps the names of saved weights
                nn.Linear(hidden_size, hidden_size),
            )
        else:
            raise ValueError(f"activation_fn must be 'silu' or 'swiglu', got {activation_fn!r}.")

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        shift, scale, factor = self.modulation(condition).chunk(3, dim=-1)
        return hidden + factor * self.layers(torch.addcmul(shift, self.norm(hidden), 1 + scale))


class _Trunk(nn.Module):
    """Flattened sample to features, modulated by a condition throughout."""

    def __init__(
        self, in_features: int, hidden_size: int, num_layers: int, condition_dim: int, activation_fn: str = "silu"
    ):
        super().__init__()
        self.input = nn.Linear(in_features, hidden_size)
        self.input_modulation = nn.Linear(condition_dim, 2 * hidden_size)
        self.blocks = nn.ModuleList(_Block(hidden_size, condition_dim, activation_fn) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)

    def forward(self, sample: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.input_modulation(condition).chunk(2, dim=-1)
        hidden = torch.addcmul(shift, self.input(sample.flatten(1)), 1 + scale)
        for block in self.blocks:
            hidden = block(hidden, condition)
        return self.norm(hidden)


class ResidualMLPDenoiser(Denoiser):
    """Residual denoiser on flattened samples; arguments not named here as in :class:`~.layers.Network`.

    Args:
        num_layers: number of residual blocks, two linear layers each.
        activation_fn: of the blocks, ``"silu"`` or ``"swiglu"``, which learns in fewer updates.
    """

    @register_to_config
    def __init__(
        self,
        sample_shape: tuple[int, ...] = (2, 7, 7),
        hidden_size: int = 640,
        num_layers: int = 5,
        condition_dim: int = 128,
        num_classes: int | None = None,
        activation_fn: str = "silu",
    ):
        super().__init__()
        size = math.prod(sample_shape)
        self.time_embedding = TimeEmbedding(condition_dim)
        self.class_embedding = None if num_classes is None else nn.Embedding(num_classes + 1, condition_dim)
        self.trunk = _Trunk(size, hidden_size, num_layers, condition_dim, activation_fn)
        self.output = zeroed(nn.Linear(hidden_size, size))

    def _predict(self, sample: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        condition = self._condition(sample, timestep, labels)
        return self.output(self.trunk(sample, condition)).reshape(sample.shape)


class PosteriorResidualMLPDenoiser(ResidualMLPDenoiser):
    """A residual denoiser that is told the posterior ``p(y | x, t)`` where it is not told the label.

    The unconditional prediction is the mean of the conditional ones, ``sum_y p(y | x, t) D(x, t, y)``. With a null
    class a network has to find out for itself which class a sample is of, and turn sharply from one class to the next
    where little noise is left; it does so badly. Here a classifier says it, and the network is told the mean of the
    classes' embeddings: one denoiser for sampling without a label, with one, and for classifier-free guidance.
    """

    needs_posterior: ClassVar[bool] = True

    def forward(
        self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> DenoiserOutput | tuple[Tensor]:
        """As for :class:`ResidualMLPDenoiser`; labels that are missing are a ValueError."""
        if class_labels is None:
            raise ValueError(
                f"{type(self).__name__} is told a class or class probabilities, and class_labels is None; where no "
                "label is known, give it the softmax of a classifier's logits for the same sample and timestep."
            )
        return super().forward(sample, timestep, class_labels, return_dict)


class ResidualMLPClassifier(Classifier):
    """Residual noise-aware classifier p(y | x, t) on flattened samples; arguments as in :class:`~.layers.Network`.

    Its activations are smooth and it has no batch statistics, so its gradient is smooth and an image's gradient does
    not depend on its batch. ``num_layers`` is the number of residual blocks, two linear layers each.
    """

    @register_to_config
    def __init__(
        self,
        sample_shape: tuple[int, ...] = (2, 7, 7),
        num_classes: int = 10,
        hidden_size: int = 320,
        num_layers: int = 3,
        condition_dim: int = 128,
        noise_schedule: dict[str, Any] | None = None,
    ):
        super().__init__(noise_schedule)
        self.time_embedding = TimeEmbedding(condition_dim)
        self.activation = nn.SiLU()
        self.trunk = _Trunk(math.prod(sample_shape), hidden_size, num_layers, condition_dim)
        self.output = nn.Linear(hidden_size, num_classes)

    def _logits(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return self.output(self.trunk(sample, self.activation(self.time_embedding(timestep, sample))))


class GatedResidualMLPDenoiser(Denoiser):
    """An unconditional denoiser that sorts samples into components of its own, with no label in training.

    A classifier inside says which of ``num_components`` a sample belongs to, and a denoiser is told those
    probabilities; both learn from the denoising loss alone. What :class:`PosteriorResidualMLPDenoiser` is told by a
    guide, this one finds for itself, as the gate of a mixture of experts does (Jacobs et al. 1991).

    Arguments not named here are those of :class:`ResidualMLPDenoiser`, of the denoiser inside.

    Args:
        num_components: K.
        gate_size: width of the classifier, the gate; no :class:`~.layers.SignalGate`, which scales a sample.
        gate_layers: number of its residual blocks.
    """

    @register_to_config
    def __init__(
        self,
        sample_shape: tuple[int, ...] = (2, 7, 7),
        hidden_size: int = 640,
        num_layers: int = 5,
        condition_dim: int = 128,
        num_components: int = 10,
        gate_size: int = 320,
        gate_layers: int = 3,
    ):
        super().__init__()
        self.class_embedding = None
        self.gate = ResidualMLPClassifier(sample_shape, num_components, gate_size, gate_layers, condition_dim)
        self.denoiser = ResidualMLPDenoiser(sample_shape, hidden_size, num_layers, condition_dim, num_components)

    def _predict(self, sample: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        probabilities = self.gate(sample, timestep).logits.softmax(dim=-1)
        return self.denoiser(sample, timestep, probabilities).sample
