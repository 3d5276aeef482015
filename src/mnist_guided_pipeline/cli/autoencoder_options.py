"""What the commands about autoencoders share: loading one, and what its folder says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..storage.places import find_folder

__all__ = ["check_autoencoder_path", "check_has_prior", "load_autoencoder", "training_settings"]


def check_autoencoder_path(path: str, argument: str = "--vae") -> None:
    """A folder must hold an autoencoder, or a pipeline that has one; anything else is left to the Hub."""
    folder = find_folder(path, argument)
    if folder and not any((folder / name).is_file() for name in ("config.json", "vae/config.json")):
        raise FileNotFoundError(f"{argument} {path!r} has no config.json: it is not the folder of an autoencoder.")


def load_autoencoder(path: str, argument: str = "--vae", device: str | None = None) -> Any:
    """An autoencoder of this package in float32, from its own folder or a pipeline's, or from the Hub."""
    import torch
    from diffusers.utils import logging

    from ..storage.pipelines import load_network

    check_autoencoder_path(path, argument)
    logging.disable_progress_bar()
    vae = load_network(path, "vae")
    if not hasattr(vae, "decode_logits"):
        raise ValueError(f"{argument} {path!r} holds a {type(vae).__name__}, which is no autoencoder of this package.")
    return vae.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def check_has_prior(vae: Any, argument: str = "--vae") -> None:
    """Refuse a plain autoencoder where latents are drawn from N(0, I)."""
    if not vae.config.variational:
        raise ValueError(
            f"{argument} is a plain autoencoder (variational is false in its config): it has no prior to draw from. "
            "Give a variational one."
        )


def training_settings(path: str) -> dict[str, Any]:
    """What ``train_config.json`` beside the weights says; empty where there is none."""
    for file in (Path(path) / "train_config.json", Path(path) / "vae" / "train_config.json"):
        if file.is_file():
            return json.loads(file.read_text())
    return {}
