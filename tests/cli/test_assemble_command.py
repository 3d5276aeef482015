"""Folders of pipelines: assembled of networks that fit, and nothing replaced unasked."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.cli import main
from mnist_guided_pipeline.storage.atomic import verify_manifest


@pytest.fixture
def trained(tmp_path) -> dict[str, Path]:
    """Untrained networks in the folders that the training scripts write."""
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False)
    networks = {
        "vae": mgp.ConvVAE(latent_channels=2, hidden_channels=(8, 8), latents_mean=[0.0] * 2, latents_std=[1.0] * 2),
        "denoiser": mgp.MLPDenoiser(sample_shape=(2, 7, 7), hidden_size=16),
        "classifier": mgp.MLPClassifier(sample_shape=(2, 7, 7), hidden_size=16, num_classes=3),
    }
    for name, network in networks.items():
        network.save_pretrained(tmp_path / name)
        if name != "vae":
            scheduler.save_pretrained(tmp_path / name / "scheduler")
    return {name: tmp_path / name for name in networks}


@pytest.fixture
def command(trained, tmp_path) -> list[str]:
    """The line that assembles the three folders."""
    folders = [text for name, folder in trained.items() for text in (f"--{name}", str(folder))]
    return ["assemble", *folders, "--output", str(tmp_path / "pipeline")]


def test_makes_a_pipeline_that_loads(command, trained, tmp_path):
    main(command)
    pipe = mgp.ClassifierGuidedLatentPipeline.from_pretrained(tmp_path / "pipeline")
    assert pipe([0, 2], output_type="pt", num_inference_steps=2).images.shape == (2, 1, 28, 28)
    original = mgp.MLPDenoiser.from_pretrained(trained["denoiser"]).state_dict()
    assert all(torch.equal(pipe.denoiser.state_dict()[name], value) for name, value in original.items())
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    assert pipe.id2label == {0: "0", 1: "1", 2: "2"}


def test_each_network_keeps_its_recipe_without_paths(command, trained, tmp_path):
    settings = {"seed": 3, "dataset_name": "/home/somebody/mnist", "vae_path": str(trained["vae"])}
    (trained["denoiser"] / "train_config.json").write_text(json.dumps(settings))
    main(command)
    kept = json.loads((tmp_path / "pipeline" / "denoiser" / "train_config.json").read_text())
    assert kept == {"seed": 3, "dataset_name": "mnist", "vae_path": "vae"}
    assert not (tmp_path / "pipeline" / "vae" / "train_config.json").exists()
    assert verify_manifest(tmp_path / "pipeline", ["denoiser/train_config.json", "model_index.json"])
    texts = "".join(file.read_text() for file in (tmp_path / "pipeline").rglob("*.json"))
    assert "somebody" not in texts and str(tmp_path) not in texts


def test_half_precision_and_names(command, tmp_path):
    main([*command, "--dtype", "float16", "--class_names", "shirt", "boot", "bag"])
    pipe = mgp.ClassifierGuidedLatentPipeline.from_pretrained(tmp_path / "pipeline")
    stored = load_file(tmp_path / "pipeline" / "denoiser" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert pipe.denoiser.dtype == torch.float32
    assert pipe.id2label == {0: "shirt", 1: "boot", 2: "bag"}


def test_replaces_only_a_pipeline_and_only_when_forced(command, tmp_path, refused):
    main(command)
    assert "exists; replace it with --force" in refused(*command)
    main([*command, "--force"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    assert "holds no pipeline" in refused(*command, "--output", tmp_path / "mine", "--force")
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_refuses_a_classifier_of_another_noise(command, trained, refused):
    DDPMScheduler(beta_schedule="linear").save_pretrained(trained["classifier"] / "scheduler")
    line = refused(*command)
    assert "trained on different noise" in line
    assert "beta_schedule 'squaredcos_cap_v2' and 'linear'" in line


def test_refuses_networks_of_other_shapes(command, trained, refused):
    mgp.MLPVAE(latent_dim=4, hidden_size=8).save_pretrained(trained["vae"])
    assert "samples of shape (2, 7, 7), the vae on (4,)" in refused(*command)


def test_refuses_too_few_names(command, refused):
    assert "2 names for the classifier's 3 classes" in refused(*command, "--class_names", "a", "b")


def test_refuses_missing_folders(command, trained, tmp_path, refused):
    assert "--vae: there is no folder" in refused(*command, "--vae", tmp_path / "nothing")
    line = refused(*command, "--denoiser", trained["vae"])
    assert "holds a ConvVAE, a vae, where a denoiser is needed" in line
