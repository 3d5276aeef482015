"""What the networks share: outputs, embeddings of timestep and class, the signal gate, layers and checks of shapes.

It imports torch and diffusers only, and no other file of this package: an export puts it in front of each network, so
that a network's file can go alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, DDPMScheduler, ModelMixin
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.utils import BaseOutput
from torch import Tensor, nn

Layer = TypeVar("Layer", bound=nn.Module)


@dataclass
class DenoiserOutput(BaseOutput):
    """The prediction ``sample``, in the shape of the input; of a generator, its images (B, *image_shape)."""

    sample: Tensor


@dataclass
class ClassifierOutput(BaseOutput):
    """Class ``logits`` (B, num_classes); of a discriminator, one per image (B,)."""

    logits: Tensor


class Network(ModelMixin, ConfigMixin):
    """A diffusers model that says in its config what it works on, where that is images, as diffusers' own do.

    A saved config may hold settings of earlier versions that no longer exist.

    These arguments are the same in every network that has them. A constructor raises ValueError for a shape or width
    that does not fit the patches, layers or heads.

    Args:
        sample_shape: the shape of one sample, such as ``(16,)`` or ``(4, 7, 7)``; (C, H, W) where there are patches.
        image_shape: the shape of one image, (C, H, W), as :func:`check_image_shape` wants it; with convolutions that
            halve its sides twice, H and W are multiples of 4.
        patch_size: pixels of a patch's side that are folded into channels; divides H and W. 1 is full resolution.
        hidden_size: width of the hidden layers.
        time_embed_dim: size of the timestep's sinusoidal features, even.
        condition_dim: size of the embeddings of timestep and class, even.
        num_classes: number of classes. With it a denoiser takes class labels, and label ``num_classes`` is the null
            class, which also stands in where no labels are given.
        noise_schedule: settings of the beta schedule, as ``DDPMScheduler`` takes them, or ``{"law": "flow",
            "num_train_timesteps": T}``; with them a classifier reads ``alpha(t) x`` (:class:`SignalGate`). None makes
            it read x as it is.
    """

    retired_settings: ClassVar[tuple[str, ...]] = ("dropout",)
    _of_images: ClassVar[tuple[str, ...]] = ("in_channels", "out_channels", "sample_size")
    _no_split_modules = ["_Block", "_ResidualBlock", "_FiLMLayer", "_DiTBlock", "_Attention"]
    _repeated_blocks = _no_split_modules

    def __init__(self) -> None:
        super().__init__()
        shape = self.config.get("sample_shape")
        if shape is not None and len(shape) == 3:
            channels, height, width = shape
            size = height if height == width else [height, width]
            self.register_to_config(in_channels=channels, out_channels=channels, sample_size=size)

    def register_to_config(self, **settings: Any) -> None:
        """As in ``ConfigMixin``, numbers and arrays of NumPy and torch as Python's, which JSON can hold."""
        super().register_to_config(**{name: _plain(value) for name, value in settings.items()})

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in ``ConfigMixin``, without what the constructor does not take."""
        not_taken = (*cls.retired_settings, *cls._of_images)
        known = {name: value for name, value in config_dict.items() if name not in not_taken}
        return super().extract_init_dict(known, **kwargs)


def _plain(value: Any) -> Any:
    """A setting without NumPy and torch."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return type(value)(map(_plain, value)) if isinstance(value, (list, tuple)) else value


class Denoiser(Network):
    """What all denoisers share: samples are checked, labels embedded, and the prediction is wrapped.

    A denoiser has ``config.sample_shape``, a ``class_embedding``, whose last row is the null class, or None where it
    takes no class, and computes ``_predict``.
    """

    class_embedding: nn.Embedding | None

    def forward(
        self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> DenoiserOutput | tuple[Tensor]:
        """Predict from noisy samples.

        Args:
            sample: (B, *sample_shape).
            timestep: any dtype, 0-d or (B,).
            class_labels: int64 (B,), or class probabilities float (B, num_classes); only for a denoiser with
                ``num_classes``.
            return_dict: return an output object rather than a tuple.

        Raises:
            ValueError: samples of another shape, or labels for a denoiser without classes.
        """
        check_sample(sample, self.config.sample_shape)
        prediction = self._predict(sample, timestep, embed_labels(self.class_embedding, class_labels, sample))
        return DenoiserOutput(sample=prediction) if return_dict else (prediction,)

    def _predict(self, sample: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        """The prediction (B, *sample_shape); ``labels`` are embedded, (B, dim) or (1, dim), None without classes."""
        raise NotImplementedError

    def _condition(self, sample: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        """The embeddings of timestep and class, added and activated, (B, dim) or (1, dim)."""
        embedded = self.time_embedding(timestep, sample)
        return F.silu(embedded if labels is None else embedded + labels)


class Classifier(Network):
    """What noise-aware classifiers p(y | x, t) share: samples are checked and scaled, and the logits are wrapped.

    A classifier computes ``_logits``.
    """

    def __init__(self, noise_schedule: dict[str, Any] | None = None):
        super().__init__()
        self.gate = None if noise_schedule is None else SignalGate(noise_schedule)

    def forward(self, sample: Tensor, timestep: Tensor, return_dict: bool = True) -> ClassifierOutput | tuple[Tensor]:
        """Class logits of noisy samples (B, *sample_shape) at ``timestep`` (any dtype, 0-d or (B,)).

        Raises:
            ValueError: samples of another shape.
        """
        check_sample(sample, self.config.sample_shape)
        logits = self._logits(sample if self.gate is None else self.gate(timestep, sample), timestep)
        return ClassifierOutput(logits=logits) if return_dict else (logits,)

    def _logits(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """The logits (B, num_classes) of checked samples, scaled where there is a gate."""
        raise NotImplementedError


class TimeEmbedding(nn.Module):
    """Sinusoidal features of the timestep through a small network; (B, dim) or (1, dim)."""

    def __init__(self, dim: int):
        super().__init__()
        self.features = Timesteps(dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.network = TimestepEmbedding(dim, dim)

    def forward(self, timestep: Tensor, like: Tensor) -> Tensor:
        """Embed a timestep of any type, 0-d or (B,), in the type of ``like``."""
        times = torch.as_tensor(timestep, device=like.device).reshape(-1)
        return self.network(self.features(times).to(like.dtype))


class SignalGate(nn.Module):
    """``alpha(t) x``: the sample in the units in which the class-dependent part of the log-likelihood depends on it.

    Guidance moves the predicted clean sample by ``sigma^2 / alpha`` times the classifier's gradient, so where little
    signal is left any error of the gradient is multiplied without bound. Under Gaussian noise the class-dependent part
    of the log-likelihood depends on x through ``alpha x / sigma^2`` alone, so scaling the input by alpha loses nothing,
    and the chain rule gives the gradient the factor alpha that it ought to have.
    """

    alpha: Tensor

    def __init__(self, noise_schedule: dict[str, Any]):
        super().__init__()
        with torch.device("cpu"):  # from_pretrained builds networks on the meta device, where there are no values
            if noise_schedule.get("law") == "flow":
                table = torch.linspace(1.0, 0.0, noise_schedule["num_train_timesteps"] + 1)
            else:
                table = DDPMScheduler(**noise_schedule).alphas_cumprod.sqrt()
        self.register_buffer("alpha", table, persistent=False)

    def forward(self, timestep: Tensor, sample: Tensor) -> Tensor:
        """Scale samples (B, ...) by alpha at ``timestep``, linear between integer timesteps."""
        last = len(self.alpha) - 1
        times = torch.as_tensor(timestep, device=sample.device).reshape(-1).to(torch.float32).clamp(0, last)
        below = times.floor().long()
        above = (below + 1).clamp(max=last)
        alpha = torch.lerp(self.alpha[below].float(), self.alpha[above].float(), times - below)
        return sample * alpha.to(sample.dtype).reshape(-1, *(1,) * (sample.ndim - 1))


class _ResidualBlock(nn.Module):
    """Two convolutions, the second after adaptive group normalisation, added to their input.

    With ``zero_init`` the second starts at zero, and with it what is added.
    """

    def __init__(self, in_channels: int, out_channels: int, condition_dim: int, groups: int, zero_init: bool):
        super().__init__()
        self.norm = nn.GroupNorm(groups, in_channels)
        self.first = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.modulation = nn.Linear(condition_dim, 2 * out_channels)
        self.modulated_norm = nn.GroupNorm(groups, out_channels, affine=False)
        self.second = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)
        if zero_init:
            zeroed(self.second)

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
        inner = self.first(F.silu(self.norm(hidden)))
        inner = F.silu(torch.addcmul(shift, self.modulated_norm(inner), 1 + scale))
        return self.shortcut(hidden) + self.second(inner)


def zeroed(layer: Layer) -> Layer:
    """The layer, its weights and biases set to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def embed_labels(embedding: nn.Embedding | None, class_labels: Tensor | None, like: Tensor) -> Tensor | None:
    """The embedding of labels int64 (B,), or the mean embedding under class probabilities float (B, num_classes).

    Where none are given that of the null class, which is the last, (1, dim). Labels for a denoiser without classes are
    a ValueError.
    """
    if embedding is None:
        if class_labels is not None:
            raise ValueError("class_labels were given, but this denoiser has no classes; leave them None.")
        return None
    if class_labels is None:
        class_labels = torch.full((1,), embedding.num_embeddings - 1, device=like.device)
    if class_labels.is_floating_point():
        return class_labels.to(like.dtype) @ embedding.weight[:-1]
    return embedding(class_labels)


def check_image_shape(image_shape: Sequence[int], multiple: int = 1) -> tuple[int, int, int]:
    """A small image's shape (C, H, W), checked: 1 or 3 channels, sides from 8 to 64 in multiples of ``multiple``."""
    shape = tuple(image_shape)
    if len(shape) != 3 or shape[0] not in (1, 3) or any(not 8 <= side <= 64 or side % multiple for side in shape[1:]):
        step = f" in multiples of {multiple}" if multiple > 1 else ""
        raise ValueError(
            f"image_shape must be (channels, height, width) with 1 or 3 channels and sides from 8 to 64{step}, "
            f"got {shape}."
        )
    return shape[0], shape[1], shape[2]


def check_patches(sample_shape: Sequence[int], patch_size: int, levels: int = 1) -> None:
    """Refuse images (C, H, W) that cannot be cut into patches whose rows can be halved ``levels - 1`` times."""
    if len(sample_shape) != 3 or sample_shape[1] % patch_size or sample_shape[2] % patch_size:
        raise ValueError(
            f"sample_shape {tuple(sample_shape)} does not fit patch_size {patch_size}: it must be "
            "(channels, height, width) with a height and width that patch_size divides."
        )
    if levels > 1 and min(sample_shape[1:]) // patch_size <= 2 ** (levels - 2):
        raise ValueError(
            f"sample_shape {tuple(sample_shape)} in patches of {patch_size} cannot be halved {levels - 1} times: give "
            "fewer block_channels or a smaller patch_size."
        )


def check_sample(sample: Tensor, sample_shape: Sequence[int]) -> None:
    """Refuse samples that are not (B, *sample_shape)."""
    if tuple(sample.shape[1:]) != tuple(sample_shape):
        raise ValueError(f"sample must be (B, *{tuple(sample_shape)}), got {tuple(sample.shape)}.")
