"""Sharpening a decoder: the latents stay, bit for bit, and the decoder learns from both of its losses."""

import json

import pytest
import torch
from safetensors.torch import load_file

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.data.images import load_images
from mnist_guided_pipeline.data.posteriors import encode_images, latent_statistics
from mnist_guided_pipeline.storage.assemble import keep_recipes
from mnist_guided_pipeline.storage.atomic import verify_manifest
from mnist_guided_pipeline.storage.pipelines import load_network
from mnist_guided_pipeline.training.history import read_history
from tiny import noise
from training_runs import make_config, train


@pytest.fixture(scope="module")
def vae_folder(digits_folder, tmp_path_factory):
    """An autoencoder whose latents are not of unit variance before they are normalised."""
    folder = tmp_path_factory.mktemp("decoder") / "vae"
    torch.manual_seed(0)
    vae = mgp.MLPVAE(latent_dim=8, hidden_size=32).eval()
    with torch.no_grad():
        vae.encoder[-1].weight.mul_(3.0)
        vae.encoder[-1].bias.fill_(-2.0)
    mean, std = latent_statistics(encode_images(vae, load_images(str(digits_folder), "train").images, progress=False))
    vae.register_to_config(latents_mean=mean, latents_std=std)
    vae.save_pretrained(folder)
    (folder / "train_config.json").write_text(json.dumps({"kl_weight": 0.25}))
    return folder


@pytest.fixture(scope="module")
def sharpened(vae_folder, digits_folder):
    folder = vae_folder.with_name("sharpened")
    settings = {"learning_rate": 1e-2, "lr_scheduler": "constant", "use_ema": False, "reconstruction_weight": 300.0}
    train("decoder", make_config("decoder", digits_folder, folder, vae_path=str(vae_folder), **settings))
    return folder


def test_only_the_decoder_changes(vae_folder, sharpened):
    before, after = (load_file(folder / "diffusion_pytorch_model.safetensors") for folder in (vae_folder, sharpened))
    assert before.keys() == after.keys()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed == {name for name in before if name.startswith("decoder.")}
    first, second = (json.loads((folder / "config.json").read_text()) for folder in (vae_folder, sharpened))
    assert first["latents_mean"] == second["latents_mean"] and first["latents_std"] == second["latents_std"]


def test_both_of_its_networks_learn(sharpened):
    lines = [line for line in read_history(sharpened) if "test/reconstruction" in line]
    assert lines[-1]["test/reconstruction"] < lines[0]["test/reconstruction"]
    assert lines[-1]["test/logits_real"] > lines[-1]["test/logits_fake"]


def test_an_untrained_decoder_takes_the_adversarial_loss_too(vae_folder, digits_folder, tmp_path):
    """Two runs that differ in the weight of the reconstruction alone end in other decoders."""
    weights = []
    for weight in (1e-6, 10.0):
        folder = tmp_path / f"{weight}"
        settings = {"vae_path": str(vae_folder), "max_train_steps": 5, "reconstruction_weight": weight}
        train("decoder", make_config("decoder", digits_folder, folder, **settings))
        weights.append(load_file(folder / "diffusion_pytorch_model.safetensors")["decoder.0.weight"])
    start = load_file(vae_folder / "diffusion_pytorch_model.safetensors")["decoder.0.weight"]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], start)


def test_the_discriminator_reads_what_the_encoder_makes_of_an_image(vae_folder, sharpened):
    from train_decoder import encoder_stages

    vae, discriminator = (mgp.MLPVAE.from_pretrained(vae_folder), load_network(sharpened, subfolder="discriminator"))
    images = noise(3, 1, 28, 28).clamp(-1, 1)
    stages = encoder_stages(vae.encoder, images)
    assert [tuple(stage.shape) for stage in stages] == [(3, 32), (3, 16)]
    assert torch.equal(stages[-1], vae.encoder(images))
    assert [tuple(shape) for shape in discriminator.config.feature_shapes] == [(32,), (16,)]
    labels = torch.arange(3)
    logits = discriminator(images, labels, features=stages).logits
    assert not torch.allclose(logits, discriminator(images, labels, features=[0 * stage for stage in stages]).logits)


def test_both_recipes_stay_beside_it(vae_folder, sharpened, tiny_pipeline_folder, tmp_path):
    assert json.loads((sharpened / "vae_train_config.json").read_text()) == {"kl_weight": 0.25}
    assert verify_manifest(sharpened, ["train_config.json", "vae_train_config.json"])
    pipe = mgp.ClassifierGuidedLatentPipeline.from_pretrained(tiny_pipeline_folder)
    pipe.save_pretrained(tmp_path / "pipeline")
    keep_recipes(tmp_path / "pipeline", {"vae": sharpened})
    kept = json.loads((tmp_path / "pipeline" / "vae" / "train_config.json").read_text())
    assert kept["vae_path"] == vae_folder.name and kept["reconstruction_weight"] == 300.0
    assert json.loads((tmp_path / "pipeline" / "vae" / "vae_train_config.json").read_text()) == {"kl_weight": 0.25}
    assert verify_manifest(tmp_path / "pipeline", ["vae/train_config.json", "vae/vae_train_config.json"])
