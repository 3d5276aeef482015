"""Every preset of one network is consistent, and a flag wins over it."""

import pytest
import torch

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.training.config import GANConfig, VAEConfig, parse
from mnist_guided_pipeline.training.presets import AUTOENCODER_PRESETS, GAN_PRESETS


@pytest.mark.parametrize("name", AUTOENCODER_PRESETS)
def test_every_autoencoder_is_consistent_and_builds(name):
    config = parse(VAEConfig, ["--preset", name, "--output_dir", "x"], AUTOENCODER_PRESETS)
    assert config.output_dir == "x"
    vae = getattr(mgp, config.network)(**config.network_arguments)
    assert vae(torch.zeros(2, 1, 28, 28)).sample.shape == (2, 1, 28, 28)
    assert vae.config.variational is ("plain" not in name)


@pytest.mark.parametrize("name", GAN_PRESETS)
def test_every_gan_is_consistent_and_builds(name):
    config = parse(GANConfig, ["--preset", name, "--output_dir", "x"], presets=GAN_PRESETS)
    generator = mgp.GANGenerator(**config.network_arguments)
    classes = generator.config.num_classes
    discriminator = mgp.GANDiscriminator(**{"num_classes": classes, **config.discriminator_arguments})
    labels = None if classes is None else torch.arange(2)
    images = generator(torch.zeros(2, generator.config.latent_dim), labels).sample
    assert discriminator(images, labels).logits.shape == (2,)


def test_a_flag_wins_over_its_preset():
    for text in ("--preset manifold --learning_rate 0.5", "--learning-rate=0.5 --preset=manifold"):
        config = parse(VAEConfig, [*text.split(), "--output_dir", "x"], AUTOENCODER_PRESETS)
        assert config.learning_rate == 0.5
        assert config.network_config == AUTOENCODER_PRESETS["manifold"].network_config
    assert AUTOENCODER_PRESETS["manifold"].output_dir == ""
    assert parse(VAEConfig, ["--output_dir", "x"], AUTOENCODER_PRESETS) == VAEConfig("x")  # and the defaults without
