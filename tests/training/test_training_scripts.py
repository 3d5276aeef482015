"""The scripts as a user runs them: the loss falls, and what they write loads and fits together."""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.cli import main
from mnist_guided_pipeline.training.command_line import parse
from mnist_guided_pipeline.training.config import ClassifierConfig, DenoiserConfig, VAEConfig

SCRIPTS = Path(__file__).parents[2] / "training"
NOISE = ("--num_train_timesteps", "200", "--prediction_type", "epsilon")


def launch(script: str, *options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPTS / script), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="session")
def runs(digits_folder, tmp_path_factory) -> dict[str, tuple[Path, str]]:
    """Every script on the digits, with tiny networks: name to output folder and what was printed."""
    root = tmp_path_factory.mktemp("runs")

    def train(name: str, script: str, network: str, *options: object) -> tuple[str, tuple[Path, str]]:
        done = launch(
            script,
            *("--dataset_name", digits_folder, "--output_dir", root / name, "--report_to", "none"),
            *("--network", network, "--network_config", '{"hidden_size": 64}', "--learning_rate", "3e-3"),
            *("--train_batch_size", 128, "--max_train_steps", 100, "--validation_steps", 20, "--lr_warmup_steps", 5),
            *options,
        )
        assert done.returncode == 0, done.stderr
        return name, (root / name, done.stdout + done.stderr)

    finished = dict([train("vae", "train_vae.py", "MLPVAE", "--kl_weight", 0.1)])
    latent = ("--vae_path", root / "vae", *NOISE)
    with ThreadPoolExecutor(2) as both:
        denoiser = both.submit(train, "denoiser", "train_denoiser.py", "MLPDenoiser", *latent)
        plain = both.submit(train, "plain", "train_classifier.py", "MLPClassifier", *latent)
        finished |= dict([denoiser.result(), plain.result()])
    matching = ("--denoiser_path", root / "denoiser", "--score_matching_weight", 1)
    return finished | dict([train("classifier", "train_classifier.py", "MLPClassifier", *latent, *matching)])


def figures(printed: str, name: str) -> list[float]:
    """The values of one figure in the lines of the validations, in order."""
    return [float(value) for value in re.findall(rf"{re.escape(name)} (-?[\d.]+)", printed)]


class TestLearning:
    def test_autoencoder(self, runs):
        losses = figures(runs["vae"][1], "test/reconstruction")
        assert len(losses) == 5
        assert losses[-1] < 0.9 * losses[0]

    def test_denoiser(self, runs):
        losses = figures(runs["denoiser"][1], "test/loss")
        assert losses[-1] < 0.9 * losses[0]

    @pytest.mark.parametrize("name", ["plain", "classifier"])
    def test_classifier_reads_better_where_there_is_less_noise(self, runs, name):
        least, most = (figures(runs[name][1], f"test/accuracy_t{i}of10") for i in (0, 9))
        assert least[-1] > least[0]
        assert least[-1] > 0.6 > most[-1]

    def test_guidance_helps_the_denoiser(self, runs):
        printed = runs["classifier"][1]
        assert figures(printed, "denoising_loss_guided")[-1] < figures(printed, "denoising_loss_unguided")[-1]


class TestResults:
    def test_networks_load(self, runs):
        classes = {"vae": "MLPVAE", "denoiser": "MLPDenoiser", "plain": "MLPClassifier", "classifier": "MLPClassifier"}
        for name, network_class in classes.items():
            network = getattr(mgp, network_class).from_pretrained(runs[name][0])
            stored = load_file(runs[name][0] / "diffusion_pytorch_model.safetensors")
            assert all(torch.equal(tensor, stored[key]) for key, tensor in network.state_dict().items())
            assert all(torch.isfinite(tensor).all() for tensor in stored.values())

    def test_settings_are_beside_the_weights(self, runs):
        for name, config_class in (("vae", VAEConfig), ("denoiser", DenoiserConfig), ("classifier", ClassifierConfig)):
            text = (runs[name][0] / "train_config.json").read_text()
            assert config_class.from_json(text).to_json() == text

    def test_latent_statistics_are_fitted(self, runs):
        config = mgp.MLPVAE.from_pretrained(runs["vae"][0]).config
        assert len(config.latents_mean) == len(config.latents_std) == config.latent_dim
        assert min(config.latents_std) > 0

    def test_both_latent_networks_keep_the_noise_law(self, runs):
        laws = [
            json.loads((runs[name][0] / "scheduler" / "scheduler_config.json").read_text())
            for name in ("denoiser", "classifier", "plain")
        ]
        assert laws[0] == laws[1] == laws[2]
        assert laws[0]["num_train_timesteps"] == 200
        assert laws[0]["prediction_type"] == "epsilon"

    def test_they_make_a_pipeline(self, runs, tmp_path):
        folders = [text for name in ("vae", "denoiser", "classifier") for text in (f"--{name}", str(runs[name][0]))]
        main(["assemble", *folders, "--output", str(tmp_path / "pipeline")])
        pipe = mgp.ClassifierGuidedLatentPipeline.from_pretrained(tmp_path / "pipeline")
        images = pipe(["3", "7"], num_images_per_label=2, num_inference_steps=5, output_type="pt").images
        assert images.shape == (4, 1, 28, 28)
        assert 0 <= images.min() < images.max() <= 1
        latents = pipe([3], num_inference_steps=5, output_type="latent").images
        assert latents.shape == (1, *pipe.denoiser.config.sample_shape)


class TestRefusals:
    def test_bad_setting_ends_a_script_with_status_2(self, digits_folder, tmp_path):
        done = launch(
            "train_vae.py",
            *("--dataset_name", digits_folder, "--output_dir", tmp_path / "vae", "--train_batch_size", 0),
        )
        assert done.returncode == 2
        assert done.stderr.strip().splitlines()[-1] == "error: train_batch_size must be positive, got 0."
        assert not (tmp_path / "vae").exists()

    @pytest.mark.parametrize(
        ("config_class", "options", "message"),
        [
            (VAEConfig, ["--learning_rate", "0"], "learning_rate must be positive, got 0"),
            (VAEConfig, ["--learning_rate", "nan"], "learning_rate must be positive, got nan"),
            (VAEConfig, ["--kl_weight", "-1"], "kl_weight must not be negative, got -1"),
            (VAEConfig, ["--network_config", "{"], "network_config must be a JSON object"),
            (VAEConfig, ["--network_config", "3"], "network_config must be a JSON object"),
            (VAEConfig, ["--ema_decay", "1"], "ema_decay must be in [0, 1), got 1"),
            (VAEConfig, ["--lr_warmup_steps", "-1"], "lr_warmup_steps must not be negative, got -1"),
            (VAEConfig, ["--resume_from_checkpoint", "nowhere"], "resume_from_checkpoint 'nowhere' is not a folder"),
            (DenoiserConfig, ["--num_train_timesteps", "1"], "num_train_timesteps must be at least 2, got 1"),
            (DenoiserConfig, ["--beta_end", "2"], "must satisfy 0 < beta_start < beta_end < 1"),
            (ClassifierConfig, ["--score_matching_weight", "1"], "score_matching_weight 1.0 needs denoiser_path"),
        ],
    )
    def test_bad_settings(self, config_class, options, message, capsys):
        with pytest.raises(SystemExit) as stop:
            parse(config_class, ["--output_dir", "unused", *options])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


class TestWholePipeline:
    def test_preset_trains_and_assembles_and_keeps_what_is_done(self, digits_folder, tmp_path):
        options = ("--preset", "debug", "--dataset_name", digits_folder, "--output_dir", tmp_path / "pipeline")
        first = launch("train_pipeline.py", *options)
        assert first.returncode == 0, first.stderr
        pipe = mgp.ClassifierGuidedLatentPipeline.from_pretrained(tmp_path / "pipeline")
        pipe.set_progress_bar_config(disable=True)
        assert len(pipe([3, "7"], num_inference_steps=2).images) == 2
        assert list((tmp_path / "pipeline").rglob("events.out.tfevents*"))  # TensorBoard is the default tracker
        weights = load_file(tmp_path / "pipeline" / "denoiser" / "diffusion_pytorch_model.safetensors")

        again = launch("train_pipeline.py", *options)
        assert again.returncode == 0, again.stderr
        assert again.stdout.count("finished before, kept") == 3
        kept = load_file(tmp_path / "pipeline" / "denoiser" / "diffusion_pytorch_model.safetensors")
        assert all(torch.equal(kept[name], weights[name]) for name in weights)
        for config in (tmp_path / "pipeline").glob("*/config.json"):
            assert str(tmp_path) not in config.read_text()  # a shared pipeline does not tell where it was made
