"""Whose latents a network was trained on: noted in its config, and compared wherever it meets an autoencoder."""

from __future__ import annotations

from typing import Any

import torch

from ..sampling.latents import latent_mean_std
from ..seeding import fingerprint

LATENTS_OF = "_latents_of"
"""In the config of a network: :func:`autoencoder_fingerprint` of the VAE whose latents it was trained on."""


def autoencoder_fingerprint(vae: Any) -> str:
    """A hash of what makes latents, encoder and normalisation; another decoder or float16 does not change it."""
    state = vae.state_dict().items()
    encoder = [tensor.half() for name, tensor in state if not name.startswith(("decoder.", "post_quant_conv."))]
    return fingerprint(*encoder, *latent_mean_std(torch.zeros(1, 1), vae.config))


def check_latents(network: Any, vae: Any | None, name: str) -> None:
    """Refuse a network that was trained on the latents of another VAE, or of one where there is none here.

    Networks of earlier versions do not say of which. In bfloat16 a VAE cannot be told from others. The error calls the
    network ``name``.
    """
    seen = network.config.get(LATENTS_OF)
    if seen is None or (vae is not None and vae.dtype == torch.bfloat16):
        return
    made = None if vae is None else autoencoder_fingerprint(vae)
    if seen != made:
        here = "here are none" if made is None else f"here are those of another VAE (fingerprint {made})"
        raise ValueError(
            f"{name} was trained on the latents of a VAE (fingerprint {seen}), {here}: give the VAE of its vae_path."
        )


def note_latents(network: Any, vae: Any | None) -> None:
    """Note in a network's config on whose latents it is trained; nothing for pixels and points."""
    if vae is not None:
        network.register_to_config(**{LATENTS_OF: autoencoder_fingerprint(vae)})
