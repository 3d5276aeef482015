"""Latents of unit variance: applying and undoing the normalisation.

``vae.config.latents_mean`` and ``vae.config.latents_std`` (one entry a channel, or a dimension of a vector latent) are
the only place where the statistics live; where they were not fitted, ``shift_factor`` and ``scaling_factor`` stand for
them as in ``AutoencoderKL``: the normalised latent is ``(z - shift_factor) * scaling_factor``. The denoiser and the
classifier see normalised latents, the VAE's decoder does not.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def normalise(latents: Tensor, vae_config: Any) -> Tensor:
    """VAE latents (B, C, ...) to latents of zero mean and unit variance a channel."""
    mean, std = latent_mean_std(latents, vae_config)
    return (latents - mean) / std


def denormalise(latents: Tensor, vae_config: Any) -> Tensor:
    """Undo :func:`normalise`: what the VAE's decoder takes."""
    mean, std = latent_mean_std(latents, vae_config)
    return latents * std + mean


def latent_mean_std(latents: Tensor, vae_config: Any) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation from the config, shaped to broadcast; 0 and 1 where it says nothing."""
    shape = (1, -1, *(1,) * (latents.ndim - 2))
    names = ("latents_mean", "latents_std", "shift_factor", "scaling_factor")
    mean, std, shift, scaling = (getattr(vae_config, name, None) for name in names)
    if mean is None or std is None:
        mean, std = [shift or 0.0], [1.0 / (scaling or 1.0)]
    return latents.new_tensor(mean).reshape(shape), latents.new_tensor(std).reshape(shape)
