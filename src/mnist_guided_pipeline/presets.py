"""Presets of ``training/train_pipeline.py``: a small table of settings for all three networks."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from .config import ClassifierConfig, DenoiserConfig, VAEConfig

__all__ = ["PRESETS", "Preset"]


class Preset(NamedTuple):
    """Settings of a whole pipeline; ``output_dir`` and paths between the steps are filled in by the script.

    Attributes:
        description: what it is for.
        vae: first step.
        denoiser: second step.
        classifier: third step, which also sees the denoiser.
        sampling_defaults: the pipeline's own defaults, found by a sweep.
    """

    description: str
    vae: VAEConfig
    denoiser: DenoiserConfig
    classifier: ClassifierConfig
    sampling_defaults: dict[str, Any]


def _json(**arguments: Any) -> str:
    return json.dumps(arguments)


PRESETS = {
    "debug": Preset(
        "A few updates of tiny networks, to see that everything runs.",
        VAEConfig("", network="MLPVAE", network_config=_json(latent_dim=8, hidden_size=64), max_train_steps=30),
        DenoiserConfig("", network="MLPDenoiser", network_config=_json(hidden_size=64), max_train_steps=30),
        ClassifierConfig("", network="MLPClassifier", network_config=_json(hidden_size=64), max_train_steps=30),
        {},
    ),
    "seed": Preset(
        "The networks and settings of the teaching notebook, on latents of unit variance and a noise law that ends in "
        "noise.",
        VAEConfig(
            "",
            network="MLPVAE",
            network_config=_json(latent_dim=16, hidden_size=400),
            reconstruction="mse",
            kl_weight=0.1,
            num_train_epochs=20,
        ),
        DenoiserConfig(
            "",
            network="MLPDenoiser",
            network_config=_json(hidden_size=256),
            learning_rate=2e-4,
            num_train_epochs=20,
            prediction_type="epsilon",
        ),
        ClassifierConfig(
            "",
            network="MLPClassifier",
            network_config=_json(hidden_size=256),
            num_train_epochs=10,
            prediction_type="epsilon",
        ),
        {},
    ),
    "default": Preset(
        "What the package ships.",
        VAEConfig(
            "",
            network="ConvVAE",
            network_config=_json(latent_channels=2),
            kl_weight=0.3,
            learning_rate=2e-3,
            num_train_epochs=8,
            mixed_precision="bf16",
        ),
        DenoiserConfig(
            "",
            network="ResidualMLPDenoiser",
            network_config=_json(hidden_size=512, num_layers=4, condition_dim=64, num_classes=10),
            label_dropout=0.2,
            train_batch_size=512,
            learning_rate=2e-3,
            num_train_epochs=55,
            mixed_precision="bf16",
        ),
        ClassifierConfig(
            "",
            network="ResidualMLPClassifier",
            network_config=_json(hidden_size=320, num_layers=3, condition_dim=64),
            train_batch_size=512,
            num_train_epochs=12,
            score_matching_weight=20.0,
        ),
        {"guidance_scale": 0.7, "num_inference_steps": 20},
    ),
}
