"""What sampling asks of a network: its sample shape, its classes, and how it is called.

Three interfaces are known, by what ``config`` holds, so that a wrapped or an exported class does as well:

=====================  ======================================  =============================  ==========================
interface              sample shape                            classes                        where no label is told
=====================  ======================================  =============================  ==========================
this package           ``sample_shape``                        ``num_classes`` or None        nothing, or the posterior
``UNet2DModel``        ``in_channels``, ``sample_size``        ``num_class_embeds`` or None   the class after the last
``DiTTransformer2D``   ``in_channels``, ``sample_size``        ``num_embeds_ada_norm``        the class after the last
=====================  ======================================  =============================  ==========================

``UNet2DModel`` has no null class of its own. One that was trained with an embedding more than there are classes says so
by ``num_classes`` in its config (:func:`note_classes`); any other cannot be called without a label.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Wrapper(nn.Module):
    """What wraps a denoiser computes in its type and on its device."""

    denoiser: Any

    @property
    def dtype(self) -> torch.dtype:
        """The denoiser's type."""
        return self.denoiser.dtype

    @property
    def device(self) -> torch.device:
        """The denoiser's device."""
        return self.denoiser.device


def sample_shape(denoiser: Any) -> tuple[int, ...]:
    """The shape of one sample, (D,) or (channels, height, width).

    A config of neither interface, or with sizes that the network cannot halve or cut into patches, is a ValueError.
    """
    shape = _setting(denoiser, "sample_shape")
    if shape is not None:
        return tuple(shape)
    channels, size = _setting(denoiser, "in_channels"), _setting(denoiser, "sample_size")
    if channels is None or size is None:
        raise ValueError(
            f"{type(denoiser).__name__} does not say what it samples: its config has neither sample_shape nor both of "
            "in_channels and sample_size, as UNet2DModel has them; register_to_config(sample_shape=...) adds it."
        )
    height, width = (size, size) if isinstance(size, int) else size
    levels = len(_setting(denoiser, "block_out_channels") or (1,))
    multiple = (_setting(denoiser, "patch_size") or 1) * 2 ** (levels - 1)
    if height % multiple or width % multiple:
        raise ValueError(
            f"{type(denoiser).__name__} of {levels} levels has sample_size {size}, but height and width must be "
            f"multiples of {multiple} for it to halve or cut them: give another sample_size, or fewer levels."
        )
    return int(channels), int(height), int(width)


def check_space(name: str, network: Any, denoiser: Any) -> None:
    """Refuse a classifier, other denoiser or autoencoder in another space than the denoiser's.

    The error calls it ``name``. One that does not say its own passes; an autoencoder of diffusers says its channels
    alone.
    """
    wanted = _said_shape(denoiser)
    own = _setting(network, "sample_shape") if name == "classifier" else _said_shape(network)
    if hasattr(network, "decode") and wanted is not None:
        channels = _setting(network, "latent_channels")
        own = getattr(network, "latent_shape", channels and (channels, *(wanted[1:] or ("height", "width"))))
    if own is not None and wanted is not None and tuple(own) != wanted:
        raise ValueError(
            f"the denoiser works on samples of shape {wanted}, the {name} on {tuple(own)}; train denoiser and "
            "classifier on the latents of the same VAE."
        )


def _said_shape(network: Any) -> tuple[int, ...] | None:
    says = any(_setting(network, size) is not None for size in ("sample_shape", "sample_size"))
    return sample_shape(network) if says and not hasattr(network, "decode") else None


def num_classes(network: Any) -> int | None:
    """How many classes a denoiser or classifier knows; None for one without."""
    names = ("num_classes", "num_class_embeds", "num_embeds_ada_norm")
    return next((int(count) for name in names if (count := _setting(network, name)) is not None), None)


def is_conditional(denoiser: Any) -> bool:
    """Whether a denoiser takes class labels."""
    return num_classes(denoiser) is not None


def needs_posterior(denoiser: Any) -> bool:
    """Whether a denoiser is told class probabilities where it is told no label."""
    return getattr(denoiser, "needs_posterior", False)


def null_label(denoiser: Any) -> int | None:
    """The label that stands for none, of a class-conditional denoiser that has one; it follows the classes."""
    count, embeddings = num_classes(denoiser), _setting(denoiser, "num_class_embeds")
    if needs_posterior(denoiser) or (embeddings is not None and embeddings == count):
        return None
    return count


def note_classes(denoiser: Any, classes: int) -> None:
    """Note in a ``UNet2DModel``'s config that the last of its ``classes + 1`` embeddings is the null class."""
    if _setting(denoiser, "num_class_embeds") == classes + 1:
        denoiser.register_to_config(num_classes=classes)


def predicts_variance(denoiser: Any) -> bool:
    """Whether a denoiser's output has a variance beside the prediction, as many channels again."""
    channels, outputs = _setting(denoiser, "in_channels"), _setting(denoiser, "out_channels")
    return channels is not None and outputs == 2 * channels


def arguments_for(network_class: type, shape: Sequence[int]) -> dict[str, Any]:
    """What the constructor of a denoiser or classifier takes to work on samples of a shape.

    A network of images for samples that are none is a ValueError.
    """
    parameters = inspect.signature(network_class).parameters
    if "sample_shape" in parameters:
        return {"sample_shape": tuple(shape)}
    if len(shape) != 3:
        raise ValueError(
            f"{network_class.__name__} is for images (channels, height, width), and the samples have shape "
            f"{tuple(shape)}; use a network for vectors, such as ResidualMLPDenoiser."
        )
    channels, height, width = shape
    if height != width and "num_embeds_ada_norm" in parameters:
        raise ValueError(f"{network_class.__name__} is for square images, and these are {height}x{width}.")
    size = height if height == width else [height, width]
    return {"sample_size": size, "in_channels": channels, "out_channels": channels}


def predict(denoiser: Any, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Any:
    """Call a denoiser of any interface; its own output object, with ``.sample``.

    Args:
        denoiser: the network.
        sample: (B, *sample_shape), in the network's type.
        timestep: 0-d or (B,).
        class_labels: int64 (B,), class probabilities (B, num_classes) where it takes them, or None.

    Raises:
        ValueError: no labels for a network that has no way to be told none.
    """
    of_diffusers = [_setting(denoiser, name) is not None for name in ("num_class_embeds", "num_embeds_ada_norm")]
    if any(of_diffusers) and class_labels is None:
        label = null_label(denoiser)
        if label is None:
            raise ValueError(
                f"{type(denoiser).__name__} has no null class, so it always needs class_labels; train it with one "
                "embedding more than there are classes."
            )
        class_labels = torch.full((len(sample),), label, device=sample.device)
    if of_diffusers[1]:  # a transformer's embedding wants one timestep per sample
        timestep = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
    return denoiser(sample, timestep) if class_labels is None else denoiser(sample, timestep, class_labels=class_labels)


def mean_prediction(prediction: Tensor, sample: Tensor) -> Tensor:
    """A denoiser's output (B, C, ...) or (B, 2C, ...) for a sample (B, C, ...), without a learned variance."""
    return prediction[:, : sample.shape[1]]


def _setting(network: Any, name: str) -> Any:
    """An entry of a network's config, or None."""
    return getattr(getattr(network, "config", None), name, None)
