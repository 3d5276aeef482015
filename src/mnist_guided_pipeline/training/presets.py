"""Presets of ``training/train_pipeline.py``: a small table of settings for all three networks."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, NamedTuple

from .config import ClassifierConfig, DecoderConfig, DenoiserConfig, GANConfig, VAEConfig

__all__ = ["AUTOENCODER_PRESETS", "GAN_PRESETS", "PRESETS", "Preset"]


class Preset(NamedTuple):
    """Settings of a whole pipeline; ``output_dir`` and paths between the steps are filled in by the script.

    Attributes:
        description: what it is for.
        vae: first step; None where the denoiser works on the data themselves.
        denoiser: second step.
        classifier: third step, which also sees the denoiser; None for a pipeline without guidance.
        sampling_defaults: the pipeline's own defaults, found by a sweep.
        decoder: comes after ``vae`` and sharpens its decoder; None leaves it as the VAE's training made it.
    """

    description: str
    vae: VAEConfig | None
    denoiser: DenoiserConfig
    classifier: ClassifierConfig | None
    sampling_defaults: dict[str, Any]
    decoder: DecoderConfig | None = None


def _json(**arguments: Any) -> str:
    return json.dumps(arguments)


def _point_denoiser(dataset_name: str) -> DenoiserConfig:
    return DenoiserConfig(
        "",
        network="PointDenoiser",
        network_config=_json(hidden_size=128, num_layers=3),
        dataset_name=dataset_name,
        train_batch_size=512,
        learning_rate=2e-3,
        max_train_steps=5_000,
        validation_steps=1_000,
    )


_PIXEL_CLASSIFIER = ClassifierConfig(
    "",
    network="ConvClassifier",
    network_config=_json(patch_size=4, block_channels=[64]),
    num_train_epochs=3,
    score_matching_weight=20.0,
)

_NOTEBOOK_OPTIMIZER: dict[str, Any] = {  # plain Adam
    "lr_scheduler": "constant",
    "lr_warmup_steps": 0,
    "adam_beta2": 0.999,
    "max_grad_norm": None,
    "use_ema": False,
}

PRESETS = {
    "debug": Preset(
        "A few updates of tiny networks, to see that everything runs.",
        VAEConfig("", network="MLPVAE", network_config=_json(latent_dim=8, hidden_size=64), max_train_steps=30),
        DenoiserConfig("", network="MLPDenoiser", network_config=_json(hidden_size=64), max_train_steps=30),
        ClassifierConfig("", network="MLPClassifier", network_config=_json(hidden_size=64), max_train_steps=30),
        {},
    ),
    "seed": Preset(
        "The networks and settings of the teaching notebook, on latents of unit variance and DDPM's noise law; at the "
        "end of the cosine law there is too little signal for a prediction of epsilon.",
        VAEConfig(
            "",
            network="MLPVAE",
            network_config=_json(latent_dim=16, hidden_size=400),
            reconstruction="mse",
            kl_weight=0.1,
            num_train_epochs=20,
            mixed_precision="bf16",
            **_NOTEBOOK_OPTIMIZER,
        ),
        DenoiserConfig(
            "",
            network="MLPDenoiser",
            network_config=_json(hidden_size=256),
            learning_rate=2e-4,
            num_train_epochs=20,
            prediction_type="epsilon",
            beta_schedule="linear",
            **_NOTEBOOK_OPTIMIZER,
        ),
        ClassifierConfig(
            "",
            network="MLPClassifier",
            network_config=_json(hidden_size=256),
            num_train_epochs=10,
            prediction_type="epsilon",
            beta_schedule="linear",
            **_NOTEBOOK_OPTIMIZER,
        ),
        {"guidance_scale": 8.0, "guidance_interval": [0.0, 5.0], "num_inference_steps": 25},
    ),
    "default": Preset(
        "What the package ships.",
        VAEConfig(
            "",
            network="ConvVAE",
            network_config=_json(latent_dim=32),
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
            num_train_epochs=150,
            mixed_precision="bf16",
        ),
        ClassifierConfig(
            "",
            network="ResidualMLPClassifier",
            network_config=_json(hidden_size=320, num_layers=3, condition_dim=64),
            train_batch_size=512,
            learning_rate=2e-3,
            num_train_epochs=36,
            score_matching_weight=20.0,
            random_label_share=0.5,
        ),
        {"guidance_scale": 1.0, "guidance_interval": [0.0, 1.0], "num_inference_steps": 20},
        DecoderConfig(
            "",
            discriminator_config=_json(hidden_channels=[32, 64]),
            num_train_epochs=4,
            mixed_precision="bf16",
        ),
    ),
    "pixel-mlp": Preset(
        "Two-layer networks on the 784 pixels, without an autoencoder. They predict the clean image: the noise of 784 "
        "pixels does not fit through the hidden layers.",
        None,
        DenoiserConfig(
            "",
            network="MLPDenoiser",
            network_config=_json(hidden_size=1024, num_classes=10),
            prediction_type="sample",
            label_dropout=0.2,
            train_batch_size=256,
            num_train_epochs=40,
            mixed_precision="bf16",
        ),
        ClassifierConfig(
            "",
            network="MLPClassifier",
            network_config=_json(hidden_size=512),
            prediction_type="sample",
            train_batch_size=256,
            num_train_epochs=10,
            score_matching_weight=20.0,
        ),
        # beyond, the factor of the gradient is larger than it is exact
        {"guidance_interval": [0.0, 20.0], "classifier_alone": {"guidance_interval": [0.0, 20.0]}},
    ),
    "pixel-film": Preset(
        "A convolutional denoiser of pixels, modulated by FiLM.",
        None,
        DenoiserConfig(
            "",
            network="FiLMConvDenoiser",
            network_config=_json(patch_size=4, channels=64, num_layers=5, num_classes=10),
            label_dropout=0.2,
            learning_rate=2e-3,
            num_train_epochs=10,
        ),
        _PIXEL_CLASSIFIER,
        {},
    ),
    "pixel-unet": Preset(
        "A U-Net on pixels in patches of 4, 7x7 -> 4x4.",
        None,
        DenoiserConfig(
            "",
            network="UNetDenoiser",
            network_config=_json(patch_size=4, block_channels=[48, 96], num_classes=10),
            label_dropout=0.2,
            learning_rate=2e-3,
            num_train_epochs=4,
        ),
        _PIXEL_CLASSIFIER,
        {},
    ),
    "pixel-dit": Preset(
        "A diffusion transformer on pixels.",
        None,
        DenoiserConfig(
            "",
            network="DiTDenoiser",
            network_config=_json(patch_size=7, hidden_size=128, num_layers=4, num_heads=4, num_classes=10),
            label_dropout=0.2,
            num_train_epochs=4,
        ),
        _PIXEL_CLASSIFIER,
        {},
    ),
    "points-dino": Preset(
        "Points in the plane that make a dinosaur: no autoencoder and, with one class, no classifier.",
        None,
        _point_denoiser("points:dino"),
        None,
        {"num_inference_steps": 50},
    ),
    "points-moons": Preset(
        "Two half moons of points, a class each; good for any set of points with classes.",
        None,
        _point_denoiser("points:moons"),
        ClassifierConfig(
            "",
            network="ResidualMLPClassifier",
            network_config=_json(hidden_size=64, num_layers=2, condition_dim=32),
            dataset_name="points:moons",
            train_batch_size=256,
            learning_rate=2e-3,
            max_train_steps=2_000,
            validation_steps=1_000,
            score_matching_weight=1.0,
        ),
        {"num_inference_steps": 25},
    ),
}

_SEED, _DEFAULT = PRESETS["seed"], PRESETS["default"]
assert _DEFAULT.vae and _DEFAULT.decoder and _DEFAULT.classifier and _SEED.classifier  # for type checkers
_LAPTOP = _DEFAULT._replace(
    description="The networks of default, trained for a few minutes.",
    vae=replace(_DEFAULT.vae, num_train_epochs=3),
    decoder=replace(_DEFAULT.decoder, num_train_epochs=1),
    denoiser=replace(_DEFAULT.denoiser, num_train_epochs=20),
    classifier=replace(_DEFAULT.classifier, num_train_epochs=3),
)
assert _LAPTOP.vae and _LAPTOP.classifier  # likewise
_SPATIAL = replace(_DEFAULT.vae, network_config=_json(latent_channels=2))  # 7x7 positions, as convolutions want them
_TEXT_NOISE: dict[str, Any] = {"num_train_timesteps": 20, "beta_schedule": "linear"}

PRESETS |= {
    "laptop": _LAPTOP,
    "text": _SEED._replace(
        description="Like seed, on the notebook's own noise law: T = 20 with betas up to 0.02 leaves most of the "
        "signal at its end. To compare with, not to use.",
        denoiser=replace(_SEED.denoiser, **_TEXT_NOISE),
        classifier=replace(_SEED.classifier, **_TEXT_NOISE),
        sampling_defaults={"guidance_scale": 7.0, "num_inference_steps": 20},
    ),
    "latent-unet": _LAPTOP._replace(
        description="Like laptop, with a U-Net, 7x7 -> 4x4, on spatial latents.",
        vae=replace(_SPATIAL, num_train_epochs=3),
        denoiser=replace(
            _DEFAULT.denoiser,
            network="UNetDenoiser",
            network_config=_json(patch_size=1, block_channels=[48, 96], attention=True, num_classes=10),
            num_train_epochs=8,
            mixed_precision="no",
        ),
    ),
    "latent-dit": _LAPTOP._replace(
        description="Like laptop, with a diffusion transformer of 49 tokens on spatial latents.",
        vae=replace(_SPATIAL, num_train_epochs=3),
        denoiser=replace(
            _DEFAULT.denoiser,
            network="DiTDenoiser",
            network_config=_json(patch_size=1, hidden_size=96, num_layers=4, num_classes=10),
            num_train_epochs=8,
            mixed_precision="no",
        ),
    ),
    "latent-flow": _LAPTOP._replace(
        description="Like laptop, by flow matching: a velocity on straight lines, for the FlowMatch schedulers.",
        denoiser=replace(_LAPTOP.denoiser, prediction_type="flow_prediction"),
        classifier=replace(_LAPTOP.classifier, prediction_type="flow_prediction"),
    ),
}

AUTOENCODER_PRESETS = {
    # 2-D latent, so that its whole space can be drawn
    "manifold": VAEConfig(
        "",
        network="MLPVAE",
        network_config=_json(latent_dim=2, hidden_size=500),
        learning_rate=2e-3,
        num_train_epochs=60,
    ),
    "mlp": VAEConfig("", network="MLPVAE", network_config=_json(latent_dim=16, hidden_size=400)),
    "mlp-plain": VAEConfig(
        "", network="MLPVAE", network_config=_json(latent_dim=16, hidden_size=400, variational=False)
    ),
    "conv": VAEConfig(
        "",
        network="ConvVAE",
        network_config=_json(latent_dim=16, hidden_channels=[16, 32]),
        num_train_epochs=10,
    ),
    "conv-plain": VAEConfig(
        "",
        network="ConvVAE",
        network_config=_json(latent_dim=16, hidden_channels=[16, 32], variational=False),
        num_train_epochs=10,
    ),
    "spatial": _SPATIAL,
    "spatial-plain": replace(_SPATIAL, network_config=_json(latent_channels=2, variational=False), kl_weight=None),
}
"""Of ``training/train_vae.py --preset NAME``; ``plain`` is an autoencoder without a KL term."""

GAN_PRESETS = {
    "default": GANConfig(
        "",
        network_config=_json(num_classes=10),
        r1_gamma=0.1,
        num_train_epochs=8,
        mixed_precision="bf16",
    ),
    # the networks and the optimizer of the teaching notebook, which takes one step, trained to the end
    "text": GANConfig(
        "",
        network_config=_json(latent_dim=64, hidden_sizes=[128, 256]),
        discriminator_config=_json(hidden_sizes=[256, 128]),
        r1_gamma=0.0,
        learning_rate=2e-4,
        adam_beta1=0.5,
        **_NOTEBOOK_OPTIMIZER,
    ),
}
"""Of ``training/train_gan.py --preset NAME``."""
