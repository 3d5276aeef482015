"""``figure NAME`` on tiny networks: every picture is drawn, depends on its seed alone, and mistakes are one line."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

import mnist_guided_pipeline as mgp


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Untrained networks, saved."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for name, network in {
        "plane": mgp.MLPVAE(latent_dim=2, hidden_size=16),
        "plain": mgp.MLPVAE(latent_dim=3, hidden_size=16, variational=False),
        "wide": mgp.MLPVAE(latent_dim=5, hidden_size=8),
        "denoiser": mgp.MLPDenoiser(sample_shape=(2,), hidden_size=8),
        "gan": mgp.GANGenerator(latent_dim=4, hidden_sizes=(8,)),
        "gan10": mgp.GANGenerator(latent_dim=4, hidden_sizes=(8,), num_classes=10),
        "discriminator": mgp.GANDiscriminator(hidden_sizes=(8,)),
    }.items():
        network.save_pretrained(root / name)
    return root


@pytest.mark.parametrize(
    ("name", "model", "options", "said"),
    [
        ("autoencoder --show reconstructions", "plane", "DATA", "12 test images"),
        ("autoencoder --show reconstructions", "plain", "DATA --num_images 3", "3 test images"),
        ("samples", "plane", "--num_rows 2", "24 images of a MLPVAE"),
        ("autoencoder --show manifold", "plane", "--num_images 5", "5 x 5 latents from -1.28 to 1.28"),
        ("autoencoder --show interpolation", "plain", "DATA --num_rows 2", "2 lines of 10 steps"),
        ("autoencoder --show latents", "plane", "DATA", "297 test images"),
        ("autoencoder --show latents", "wide", "DATA --num_images 50", "50 test images"),
        ("samples", "gan", "--num_rows 3 --num_columns 4", "12 images of a GANGenerator"),
        ("samples", "gan10", "--num_columns 4", "40 images"),
        ("forward_process", None, "DATA --num_levels 3", "10 images at 3 timesteps"),
    ],
)
def test_draws_and_says_so(models, digits_folder, tmp_path, typed, capsys, name, model, options, said):
    output = tmp_path / "figure.png"
    given = ["--model", models / model] if model else []
    options = options.replace("DATA", f"--dataset_name {digits_folder}").split()
    typed("figure", *name.split(), *given, *options, "--output", output)
    with Image.open(output) as picture:
        assert min(picture.size) > 100
        assert np.asarray(picture.convert("L")).std() > 5
    printed = capsys.readouterr().out
    assert str(output) in printed and said in " ".join(printed.split())


@pytest.mark.parametrize(("name", "model"), [("samples", "plane"), ("samples", "gan")])
def test_the_same_seed_gives_the_same_picture(models, tmp_path, typed, name, model):
    pictures = []
    for index, seed in enumerate((0, 0, 1)):
        output = tmp_path / f"{index}.png"
        typed("figure", name, "--model", models / model, "--output", output, "--seed", seed)
        pictures.append(output.read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


@pytest.mark.parametrize(
    ("name", "model", "options", "message"),
    [
        ("samples", "plain", "", "plain autoencoder .* no prior"),
        ("autoencoder --show manifold", "plain", "", "plain autoencoder .* no prior"),
        ("autoencoder --show manifold", "wide", "", r"latents of shape \(5,\)"),
        ("autoencoder --show reconstructions", "wide", "--num_images 0", "--num_images must be from 1 to 250, got 0"),
        ("autoencoder --show interpolation", "wide", "--num_images 1", "--num_images must be from 2 to 250, got 1"),
        ("autoencoder --show latents", "denoiser", "", "holds a MLPDenoiser, a denoiser, where a vae is needed"),
        ("samples", "discriminator", "", "holds a GANDiscriminator, which draws no images by itself"),
        ("samples", "gan", "--num_columns 1000000", "--num_columns must be from 1 to 250"),
    ],
)
def test_refusals(models, tmp_path, refused, name, model, options, message):
    line = refused("figure", *name.split(), "--model", models / model, *options.split(), "--output", tmp_path / "x.png")
    assert re.search(message, line)
    assert not (tmp_path / "x.png").exists()
