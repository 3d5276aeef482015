"""Presets of the training scripts: a preset is a row of settings, most of them another row with replacements."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, NamedTuple

from .config import ClassifierConfig, DecoderConfig, DenoiserConfig, GANConfig, PairConfig, VAEConfig


class Preset(NamedTuple):
    """Settings of a whole pipeline; ``output_dir`` and paths between the steps are filled in by the script.

    Attributes:
        denoiser: the step that every pipeline has.
        vae: comes first; None where the denoiser works on the data themselves.
        decoder: comes after ``vae`` and sharpens its decoder; None leaves it as the VAE's training made it.
        classifier: comes after the denoiser and also sees it; None for a pipeline without guidance.
        pair: comes last and trains these two together, so that the classifier alone can draw; None leaves them.
        sampling_defaults: the pipeline's own defaults, found by a sweep.
    """

    denoiser: DenoiserConfig
    vae: VAEConfig | None = None
    decoder: DecoderConfig | None = None
    classifier: ClassifierConfig | None = None
    pair: PairConfig | None = None
    sampling_defaults: dict[str, Any] = {}


def _of(network: str, **arguments: Any) -> dict[str, Any]:
    """The two settings that say which network."""
    return {"network": network, "network_config": json.dumps(arguments)}


# The notebook: plain Adam, and DDPM's noise schedule

_ADAM: dict[str, Any] = {"lr_scheduler": "constant", "lr_warmup_steps": 0, "adam_beta2": 0.999, "max_grad_norm": None}
_ADAM["use_ema"] = False
_DDPM: dict[str, Any] = {"prediction_type": "epsilon", "beta_schedule": "linear"}
_T20: dict[str, Any] = {"num_train_timesteps": 20, "beta_schedule": "linear"}

_NOTEBOOK_VAE = VAEConfig("", **_of("MLPVAE", latent_dim=16, hidden_size=400), reconstruction="mse", kl_weight=0.1)
_NOTEBOOK_VAE = replace(_NOTEBOOK_VAE, num_train_epochs=20, mixed_precision="bf16", **_ADAM)
_NOTEBOOK_DENOISER = DenoiserConfig("", **_of("MLPDenoiser", hidden_size=256), learning_rate=2e-4, **_DDPM, **_ADAM)
_NOTEBOOK_CLASSIFIER = ClassifierConfig("", **_of("MLPClassifier", hidden_size=256), num_train_epochs=10)
_NOTEBOOK_CLASSIFIER = replace(_NOTEBOOK_CLASSIFIER, **_DDPM, **_ADAM)

# The same networks, tuned: larger batches, and a rate that falls to zero

_FALLING: dict[str, Any] = {"lr_scheduler": "cosine", "lr_warmup_steps": 100, "adam_beta2": 0.99}
_TUNED_VAE = replace(_NOTEBOOK_VAE, **_FALLING, train_batch_size=256, learning_rate=8e-3, num_train_epochs=12)
_TUNED_VAE = replace(_TUNED_VAE, adam_beta2=0.9, lr_warmup_steps=300)
_TUNED = {**_FALLING, "train_batch_size": 512}
_TUNED_DENOISER = replace(_NOTEBOOK_DENOISER, **_TUNED, learning_rate=3e-3, num_train_epochs=10)
_TUNED_CLASSIFIER = replace(_NOTEBOOK_CLASSIFIER, **_TUNED, learning_rate=5e-3, num_train_epochs=6)

# What the package ships, and what is trained in its way

_VAE = VAEConfig("", **_of("ConvVAE", latent_dim=32), kl_weight=0.3, learning_rate=2e-3, mixed_precision="bf16")
_VAE = replace(_VAE, num_train_epochs=8)
_SPATIAL_VAE = replace(_VAE, **_of("ConvVAE", latent_channels=2))  # 7x7 positions, as convolutions want them
_DECODER = DecoderConfig(
    "", discriminator_config=json.dumps({"hidden_channels": [32, 64]}), num_train_epochs=4, mixed_precision="bf16"
)
_DENOISER = DenoiserConfig(
    "",
    **_of(
        "ResidualMLPDenoiser", hidden_size=512, num_layers=4, condition_dim=64, num_classes=10, activation_fn="swiglu"
    ),
    label_dropout=0.2,
    train_batch_size=512,
    learning_rate=2e-3,
    num_train_epochs=150,
    mixed_precision="bf16",
)
_CLASSIFIER = ClassifierConfig(
    "",
    **_of("ResidualMLPClassifier", hidden_size=320, num_layers=3, condition_dim=64),
    train_batch_size=512,
    learning_rate=2e-3,
    num_train_epochs=36,
    score_matching_weight=20.0,
    random_label_share=0.5,
    mixed_precision="bf16",
)
_PAIR = PairConfig("", max_train_steps=9_000, validation_steps=1_000, mixed_precision="bf16")
_ALONE = {"guidance_scale": 1.36, "cfg_scale": 0.0, "num_inference_steps": 5}
_TOLD = {"guidance_scale": 1.0, "guidance_interval": [0.0, 1.0], "num_inference_steps": 10}
# The networks of default, trained for some minutes.
_LAPTOP = Preset(
    replace(_DENOISER, num_train_epochs=9, validation_steps=351),
    replace(_VAE, num_train_epochs=2),
    replace(_DECODER, max_train_steps=350),
    replace(_CLASSIFIER, num_train_epochs=2),
    replace(_PAIR, max_train_steps=450, validation_steps=450),
    {**_ALONE, "guidance_scale": 2.2},  # a shorter training leaves the gradient shorter
)
_IMAGES = _LAPTOP._replace(  # networks that train_pair.py does not know
    vae=replace(_VAE, num_train_epochs=3),
    decoder=replace(_DECODER, num_train_epochs=1),
    classifier=replace(_CLASSIFIER, num_train_epochs=3),
    pair=None,
    sampling_defaults=_TOLD,
)
_IMAGE_DENOISER = replace(_DENOISER, num_train_epochs=8, mixed_precision="no")  # of spatial latents

# Pixels and points

_PIXEL_DENOISER = DenoiserConfig("", label_dropout=0.2, num_train_epochs=4)
_PIXEL_CLASSIFIER = ClassifierConfig(
    "", **_of("ConvClassifier", patch_size=4, block_channels=[64]), num_train_epochs=3, score_matching_weight=20.0
)
_POINTS: dict[str, Any] = {"learning_rate": 2e-3, "validation_steps": 1_000}
_POINT_DENOISER = DenoiserConfig("", **_of("PointDenoiser", hidden_size=128, num_layers=3), **_POINTS)
_POINT_DENOISER = replace(_POINT_DENOISER, train_batch_size=512, max_train_steps=5_000)

_SMALL = {"hidden_size": 64, "num_layers": 1, "condition_dim": 16}
_FEW: dict[str, Any] = {"max_train_steps": 30, "train_batch_size": 32}

PRESETS = {
    # A few updates of tiny networks, to see that everything runs; 32 images are enough.
    "debug": Preset(
        DenoiserConfig("", **_of("ResidualMLPDenoiser", num_classes=10, **_SMALL), **_FEW),
        VAEConfig("", **_of("MLPVAE", latent_dim=8, hidden_size=64), **_FEW),
        classifier=ClassifierConfig("", **_of("MLPClassifier", hidden_size=64), **_FEW),
        pair=PairConfig("", rollout_size=32, **_FEW),
        sampling_defaults={"cfg_scale": 0.0, "num_inference_steps": 10},
    ),
    # The networks and settings of the teaching notebook, on latents of unit variance and DDPM's noise schedule; at the
    # end of the cosine schedule there is too little signal for a prediction of epsilon.
    "notebook": Preset(
        _NOTEBOOK_DENOISER,
        _NOTEBOOK_VAE,
        classifier=_NOTEBOOK_CLASSIFIER,
        sampling_defaults={"guidance_scale": 8.0, "guidance_interval": [0.0, 5.0], "num_inference_steps": 25},
    ),
    # The networks of notebook, trained to its losses in less time.
    "notebook-tuned": Preset(
        _TUNED_DENOISER,
        _TUNED_VAE,
        classifier=_TUNED_CLASSIFIER,
        sampling_defaults={"guidance_scale": 8.0, "guidance_interval": [0.0, 5.0], "num_inference_steps": 25},
    ),
    # Like notebook, on the notebook's own noise schedule: T = 20 with betas up to 0.02 leaves most of the signal at its
    # end. To compare with, not to use.
    "notebook-t20": Preset(
        replace(_NOTEBOOK_DENOISER, **_T20),
        _NOTEBOOK_VAE,
        classifier=replace(_NOTEBOOK_CLASSIFIER, **_T20),
        sampling_defaults={"guidance_scale": 7.0, "num_inference_steps": 20},
    ),
    # What the package ships, trained for most of an hour: the classifier alone guides. The denoiser is told what it
    # believes of the present sample, never the wanted class.
    "default": _LAPTOP._replace(
        denoiser=_DENOISER, vae=_VAE, decoder=_DECODER, classifier=_CLASSIFIER, pair=_PAIR, sampling_defaults=_ALONE
    ),
    "laptop": _LAPTOP,
    # Like laptop, with a U-Net, 7x7 -> 4x4, on spatial latents.
    "latent-unet": _IMAGES._replace(
        vae=replace(_SPATIAL_VAE, num_train_epochs=3),
        denoiser=replace(
            _IMAGE_DENOISER,
            **_of("UNetDenoiser", patch_size=1, block_channels=[48, 96], attention=True, num_classes=10),
        ),
    ),
    # Like laptop, with a diffusion transformer of 49 tokens on spatial latents.
    "latent-dit": _IMAGES._replace(
        vae=replace(_SPATIAL_VAE, num_train_epochs=3),
        denoiser=replace(
            _IMAGE_DENOISER, **_of("DiTDenoiser", patch_size=1, hidden_size=96, num_layers=4, num_classes=10)
        ),
    ),
    # Like laptop, by flow matching: a velocity on straight lines, for the FlowMatch schedulers.
    "latent-flow": _IMAGES._replace(
        denoiser=replace(_DENOISER, num_train_epochs=20, prediction_type="flow_prediction"),
        classifier=replace(_CLASSIFIER, num_train_epochs=3, prediction_type="flow_prediction"),
    ),
    # Two-layer networks on the 784 pixels, without an autoencoder. They predict the clean image: the noise of 784
    # pixels does not fit through the hidden layers.
    "pixel-mlp": Preset(
        replace(
            _PIXEL_DENOISER,
            **_of("MLPDenoiser", hidden_size=1024, num_classes=10),
            prediction_type="sample",
            train_batch_size=256,
            num_train_epochs=40,
            mixed_precision="bf16",
        ),
        classifier=ClassifierConfig(
            "",
            **_of("MLPClassifier", hidden_size=512),
            prediction_type="sample",
            train_batch_size=256,
            num_train_epochs=10,
            score_matching_weight=20.0,
        ),
        # beyond, the gradient's factor is larger than it is exact
        sampling_defaults={"guidance_interval": [0.0, 20.0]},
    ),
    # A convolutional denoiser of pixels, modulated by FiLM.
    "pixel-film": Preset(
        replace(
            _PIXEL_DENOISER,
            **_of("FiLMConvDenoiser", patch_size=4, channels=64, num_layers=5, num_classes=10),
            learning_rate=2e-3,
            num_train_epochs=10,
        ),
        classifier=_PIXEL_CLASSIFIER,
    ),
    # A U-Net on pixels in patches of 4, 7x7 -> 4x4.
    "pixel-unet": Preset(
        replace(
            _PIXEL_DENOISER,
            **_of("UNetDenoiser", patch_size=4, block_channels=[48, 96], num_classes=10),
            learning_rate=2e-3,
        ),
        classifier=_PIXEL_CLASSIFIER,
    ),
    # A diffusion transformer on pixels.
    "pixel-dit": Preset(
        replace(
            _PIXEL_DENOISER,
            **_of("DiTDenoiser", patch_size=7, hidden_size=128, num_layers=4, num_heads=4, num_classes=10),
        ),
        classifier=_PIXEL_CLASSIFIER,
    ),
    # Points in the plane that make a dinosaur: no autoencoder and, with one class, no classifier.
    "points-dino": Preset(
        replace(_POINT_DENOISER, dataset_name="points:dino"), sampling_defaults={"num_inference_steps": 50}
    ),
    # Two half moons of points, one class each; good for any set of points with classes.
    "points-moons": Preset(
        replace(_POINT_DENOISER, dataset_name="points:moons"),
        classifier=ClassifierConfig(
            "",
            **_of("ResidualMLPClassifier", hidden_size=64, num_layers=2, condition_dim=32),
            dataset_name="points:moons",
            train_batch_size=256,
            max_train_steps=2_000,
            score_matching_weight=1.0,
            **_POINTS,
        ),
        sampling_defaults={"num_inference_steps": 25},
    ),
}

_CONV = VAEConfig("", **_of("ConvVAE", latent_dim=16, hidden_channels=[16, 32]), num_train_epochs=10)

AUTOENCODER_PRESETS = {
    # 2-D latent, so that its whole space can be drawn
    "manifold": VAEConfig("", **_of("MLPVAE", latent_dim=2, hidden_size=500), learning_rate=2e-3, num_train_epochs=60),
    "mlp": VAEConfig("", **_of("MLPVAE", latent_dim=16, hidden_size=400)),
    "mlp-plain": VAEConfig("", **_of("MLPVAE", latent_dim=16, hidden_size=400, variational=False)),
    "conv": _CONV,
    "conv-plain": replace(_CONV, **_of("ConvVAE", latent_dim=16, hidden_channels=[16, 32], variational=False)),
    "spatial": _SPATIAL_VAE,
    "spatial-plain": replace(_SPATIAL_VAE, **_of("ConvVAE", latent_channels=2, variational=False), kl_weight=None),
}
"""Of ``training/train_vae.py --preset NAME``; ``plain`` is an autoencoder without a KL term."""

GAN_PRESETS = {
    "default": GANConfig(
        "", network_config=json.dumps({"num_classes": 10}), r1_gamma=0.1, num_train_epochs=8, mixed_precision="bf16"
    ),
    # the networks and the optimizer of the teaching notebook, which takes one step, trained to the end
    "notebook": GANConfig(
        "",
        network_config=json.dumps({"latent_dim": 64, "hidden_sizes": [128, 256]}),
        discriminator_config=json.dumps({"hidden_sizes": [256, 128]}),
        r1_gamma=0.0,
        learning_rate=2e-4,
        adam_beta1=0.5,
        **_ADAM,
    ),
}
"""Of ``training/train_gan.py --preset NAME``."""
