"""What autoencoders keep, on tiny ones trained by the script: reconstructions, moments of latents, the study."""

import json
from pathlib import Path

import pytest
import torch

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.cli import main
from mnist_guided_pipeline.data.images import LabelledImages, load_images
from mnist_guided_pipeline.data.posteriors import reconstruct
from mnist_guided_pipeline.evaluation.autoencoders import fitted_draws, measure_autoencoder, prior_draws
from mnist_guided_pipeline.evaluation.judge import load_judge
from mnist_guided_pipeline.evaluation.records import read_runs
from mnist_guided_pipeline.evaluation.scores import Reference
from mnist_guided_pipeline.training.config import VAEConfig, parse
from mnist_guided_pipeline.training.presets import AUTOENCODER_PRESETS
from training_runs import train

PLAIN = '{"latent_dim": 3, "hidden_size": 32, "variational": false}'


@pytest.fixture(scope="session")
def runs(digits_folder, tmp_path_factory) -> Path:
    """A VAE with a plane for its latent, and a plain autoencoder, trained for a moment by documented options."""
    root = tmp_path_factory.mktemp("autoencoders")
    for name, options in {
        "manifold": ["--preset", "manifold", "--network_config", '{"latent_dim": 2, "hidden_size": 64}'],
        "plain": ["--preset", "mlp-plain", "--network_config", PLAIN],
    }.items():
        options += ["--dataset_name", str(digits_folder), "--output_dir", str(root / name)]
        options += ["--max_train_steps", "100", "--validation_steps", "50", "--lr_warmup_steps", "5"]
        train("vae", parse(VAEConfig, [*options, "--learning_rate", "5e-3"], presets=AUTOENCODER_PRESETS))
    return root


@pytest.fixture(scope="session")
def plain(runs) -> mgp.MLPVAE:
    return mgp.MLPVAE.from_pretrained(runs / "plain").eval()


@pytest.fixture(scope="session")
def splits(digits_folder) -> list[LabelledImages]:
    return [load_images(digits_folder, split) for split in ("train", "test")]


class TestMeasuring:
    def test_reconstruction_is_the_network_s_own(self, plain, splits):
        images = splits[1].images[:50]
        expected = plain(images[:, None].float() / 127.5 - 1).sample
        assert (reconstruct(plain, images).float() / 127.5 - 1 - expected[:, 0]).abs().max() < 1 / 127

    def test_fitted_draws_have_the_latents_moments(self, plain, splits):
        images = splits[0].images
        latents = plain.encode(images[:, None].float() / 127.5 - 1).latent_dist.mean.detach()
        draws = fitted_draws(plain, images, 100_000)
        scale = latents.std(0)
        torch.testing.assert_close(draws.mean(0) / scale, latents.mean(0) / scale, atol=0.03, rtol=0)
        torch.testing.assert_close(torch.cov(draws.T), torch.cov(latents.T), atol=0.03 * scale.max() ** 2, rtol=0)

    def test_a_plain_autoencoder_misses_its_latents_with_standard_draws(self, plain, splits):
        found = measure_autoencoder(plain, Reference(*splits, load_judge()), 300)
        assert "kl" not in found
        assert found["fitted_fid"]["value"] < found["prior_fid"]["value"]
        unit = splits[1].images.float() / 255
        mse = (reconstruct(plain, splits[1].images).float() / 255 - unit).square().mean()
        assert found["mse"]["value"] == pytest.approx(mse.item(), abs=1e-4)
        assert prior_draws(plain, 4).shape == (4, 3)

    def test_study_files_a_table_and_draws_it(self, runs, digits_folder, tmp_path, capsys):
        output, picture = tmp_path / "metrics.json", tmp_path / "runs.png"
        names = ["--model", str(runs / "manifold"), str(runs / "plain")]
        options = ["--output", str(output), "--figure", str(picture), "--num_images", "120"]
        main(["study", "autoencoders", *names, *options, "--dataset_name", str(digits_folder)])
        record = read_runs(output)["autoencoders"]
        rows = record["figures"]["rows"]
        assert list(rows) == ["manifold", "plain"]
        assert "kl" in rows["manifold"] and "kl" not in rows["plain"]
        assert rows["manifold"]["reconstruction_loss"] == "bce"
        assert str(runs) not in json.dumps(record)
        assert picture.is_file()
        assert "| manifold |" in capsys.readouterr().out

    def test_study_refuses_two_of_one_name(self, runs, tmp_path, refused):
        line = refused("study", "autoencoders", "--model", *[runs / "plain"] * 2, "--output", tmp_path / "m.json")
        assert "different names, got plain, plain" in line
