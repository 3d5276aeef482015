"""Images to latents and back: a data set is encoded once, and its posteriors give fresh latents for every epoch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..sampling.latents import latent_mean_std, normalise
from ..seeding import fingerprint
from .images import LabelledImages, to_model_range, to_uint8
from .points import PointSet

_BATCH = 1000
_KEPT = 2  # sets of images whose encodings are kept: the training and the test set of one pipeline's steps
_encodings: dict[str, tuple[Tensor, Tensor]] = {}


class PosteriorTable(NamedTuple):
    """What a denoiser is trained on: a Gaussian for every image, whose draws are clean samples.

    Attributes:
        mean: (N, *sample_shape).
        std: (N, *sample_shape), or None for pixels, which are points.
    """

    mean: Tensor
    std: Tensor | None

    def draw(self, indices: Tensor, noise: Tensor) -> Tensor:
        """Fresh samples of the images at ``indices`` (B,), from standard Gaussian ``noise`` (B, *sample_shape)."""
        indices = indices.to(self.mean.device)
        if self.std is None:
            return self.mean[indices]
        return posterior_draw(self.mean[indices], self.std[indices], noise)

    def to(self, device: torch.device) -> PosteriorTable:
        """The table on another device."""
        return PosteriorTable(self.mean.to(device), None if self.std is None else self.std.to(device))

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.mean.shape[1:])


def posterior_draw(mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
    """``mean + std * noise``: a draw of the Gaussian from a standard one, shapes broadcast."""
    return torch.addcmul(mean, std, noise)


def latent_statistics(posteriors: PosteriorTable) -> tuple[list[float], list[float]]:
    """``latents_mean`` and ``latents_std`` of posterior *samples* of the training set, per channel, in closed form.

    The variance of a sample is the variance of the means plus the mean of the variances. A channel that is constant
    cannot be brought to unit variance, and is a ValueError.
    """
    reduced = [dim for dim in range(posteriors.mean.ndim) if dim != 1]
    mean = posteriors.mean.double().mean(dim=reduced)
    own_variance = 0.0 if posteriors.std is None else posteriors.std.double() ** 2
    second_moment = (posteriors.mean.double() ** 2 + own_variance).mean(dim=reduced)
    std = (second_moment - mean**2).clamp_min(0.0).sqrt()
    if (std < 1e-6).any():
        raise ValueError(f"Latent channels {torch.nonzero(std < 1e-6).flatten().tolist()} are constant.")
    return mean.tolist(), std.tolist()


def clean_samples(data: LabelledImages | PointSet, vae: Any | None, *, progress: bool = True) -> PosteriorTable:
    """What denoiser and classifier are trained on: points with their jitter, or images by :func:`encode_images`."""
    if isinstance(data, PointSet):
        return PosteriorTable(data.points, torch.full_like(data.points, data.jitter) if data.jitter else None)
    return encode_images(vae, data.images, progress=progress)


def sample_shape_of(data: LabelledImages | PointSet, vae: Any | None) -> tuple[int, ...]:
    """The shape of a sample of :func:`clean_samples`, of which it makes one."""
    if isinstance(data, PointSet):
        return tuple(data.points.shape[1:])
    return encode_images(vae, data.images[:1], progress=False).sample_shape


def encode_images(vae: Any | None, images: Tensor, *, progress: bool = True) -> PosteriorTable:
    """Encode images uint8 (N, H, W) or (N, 3, H, W) once; kept in memory, they give fresh latents for every epoch.

    The VAE is of this package, ``AutoencoderKL`` or ``AutoencoderTiny``; its latents are normalised as ``latents.py``
    says. None gives pixels in model range.

    Returns:
        float32 tables on the VAE's device.
    """
    if vae is None:
        return PosteriorTable(to_model_range(images), None)
    mean, std = _encoded(vae, images, progress)
    if not std.any():  # no autoencoder of distributions
        return PosteriorTable(normalise(mean, vae.config), None)
    return PosteriorTable(normalise(mean, vae.config), std / latent_mean_std(std, vae.config)[1])


@torch.no_grad()
def check_images(vae: Any, images: Tensor) -> None:
    """Refuse images uint8 (N, H, W) or (N, 3, H, W) of other channels or another size than an autoencoder's own."""
    shape = tuple(to_model_range(images[:1]).shape[1:])
    own = vae.config.get("image_shape") or (vae.config.get("in_channels", shape[0]), *shape[1:])
    if shape == tuple(own) and "image_shape" not in vae.config:  # one of diffusers takes any size, and rounds it
        own = vae.decode(_posterior(vae, images[:1])[0]).sample.shape[1:]
    if shape != tuple(own):
        raise ValueError(
            f"images have the shape {shape}, the {type(vae).__name__} is for {tuple(own)}: give a resolution that "
            "resizes them, or train an autoencoder on this data set."
        )


def encode_latents(vae: Any, images: Tensor, noise: Tensor | None = None) -> Tensor:
    """Latents float32 (N, *latent_shape), not normalised, on the CPU: means, or draws made of ``noise``."""
    mean, std = (values.cpu() for values in _encoded(vae, images, progress=False))
    return mean if noise is None else posterior_draw(mean, std, noise)


@torch.no_grad()
def decode_images(vae: Any, latents: Tensor) -> Tensor:
    """Latents (N, *latent_shape), not normalised, to images uint8 (N, H, W) or (N, 3, H, W) on the CPU."""
    parts = (vae.decode(batch.to(vae.device, vae.dtype)).sample for batch in latents.split(_BATCH))
    return torch.cat([to_uint8(part.float().cpu()) for part in parts])


def reconstruct(vae: Any, images: Tensor, noise: Tensor | None = None) -> Tensor:
    """Images uint8 (N, H, W) or (N, 3, H, W), encoded and decoded: from the mean, or a draw made of ``noise``."""
    return decode_images(vae, encode_latents(vae, images, noise))


@torch.no_grad()
def _encoded(vae: Any, images: Tensor, progress: bool) -> tuple[Tensor, Tensor]:
    """Means and deviations float32 (N, *latent_shape), not normalised, on the VAE's device; the newest are kept."""
    check_images(vae, images)
    weights = vae.state_dict().items()
    encoder = [value.float() for name, value in weights if not name.startswith(("decoder.", "post_quant_conv."))]
    settings = {name: value for name, value in vae.config.items() if name != "_name_or_path"}
    key = f"{fingerprint(images, *encoder)} {type(vae).__name__} {settings} {vae.dtype} {vae.device}"
    if key not in _encodings:
        hidden = None if progress else True
        parts = tqdm(images.split(_BATCH), desc="encoding images", unit="batch", disable=hidden, leave=False)
        means, stds = zip(*(_posterior(vae, part) for part in parts), strict=True)
        _encodings[key] = torch.cat(means).float(), torch.cat(stds).float()
        for oldest in list(_encodings)[:-_KEPT]:
            del _encodings[oldest]
    return _encodings[key]


def _posterior(vae: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    encoded = vae.encode(to_model_range(images).to(vae.device, vae.dtype))
    if hasattr(encoded, "latent_dist"):
        return encoded.latent_dist.mean, encoded.latent_dist.std
    return encoded.latents, torch.zeros_like(encoded.latents)  # AutoencoderTiny has no distribution
