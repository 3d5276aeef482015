"""The commands about autoencoders, on tiny ones trained by the script: pictures, tables, and one line for a mistake."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.cli import main
from mnist_guided_pipeline.data.images import LabelledImages, load_images
from mnist_guided_pipeline.evaluation.anomaly import CORRUPTIONS, detect, reconstruction_scores
from mnist_guided_pipeline.evaluation.autoencoders import fitted_draws, measure_autoencoder, prior_draws, reconstruct
from mnist_guided_pipeline.evaluation.judge import load_judge
from mnist_guided_pipeline.evaluation.records import read_runs
from mnist_guided_pipeline.evaluation.scores import Reference
from mnist_guided_pipeline.training.config import VAEConfig, parse
from mnist_guided_pipeline.training.presets import AUTOENCODER_PRESETS

SCRIPT = Path(__file__).parents[2] / "training" / "train_vae.py"
PLAIN = '{"latent_dim": 3, "hidden_size": 32, "variational": false}'


@pytest.fixture(scope="session")
def runs(digits_folder, tmp_path_factory) -> Path:
    """A VAE with a plane for its latent, and a plain autoencoder, trained for a moment by documented commands."""
    root = tmp_path_factory.mktemp("autoencoders")
    for name, options in {
        "manifold": ["--preset", "manifold", "--network_config", '{"latent_dim": 2, "hidden_size": 64}'],
        "plain": ["--preset", "mlp-plain", "--network_config", PLAIN],
    }.items():
        options += ["--dataset_name", str(digits_folder), "--output_dir", str(root / name), "--report_to", "none"]
        options += ["--max_train_steps", "100", "--validation_steps", "50", "--lr_warmup_steps", "5"]
        command = [sys.executable, str(SCRIPT), *options, "--learning_rate", "5e-3"]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="session")
def plain(runs) -> mgp.MLPVAE:
    return mgp.MLPVAE.from_pretrained(runs / "plain").eval()


@pytest.fixture(scope="session")
def splits(digits_folder) -> list[LabelledImages]:
    return [load_images(digits_folder, split) for split in ("train", "test")]


def refused(capsys, *arguments: object) -> str:
    """The one line of an error that ends the program with status 2."""
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, arguments)))
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return printed.err.strip().splitlines()[-1]


class TestPresets:
    @pytest.mark.parametrize("name", AUTOENCODER_PRESETS)
    def test_every_preset_is_consistent_and_builds(self, name):
        config = parse(VAEConfig, ["--preset", name, "--output_dir", "x"], AUTOENCODER_PRESETS)
        assert config.output_dir == "x"
        vae = getattr(mgp, config.network)(**config.network_arguments)
        assert vae(torch.zeros(2, 1, 28, 28)).sample.shape == (2, 1, 28, 28)
        assert vae.config.variational is ("plain" not in name)

    def test_a_flag_wins_over_its_preset(self):
        for text in ("--preset manifold --learning_rate 0.5", "--learning-rate=0.5 --preset=manifold"):
            config = parse(VAEConfig, [*text.split(), "--output_dir", "x"], AUTOENCODER_PRESETS)
            assert config.learning_rate == 0.5
            assert config.network_config == AUTOENCODER_PRESETS["manifold"].network_config
        assert AUTOENCODER_PRESETS["manifold"].output_dir == ""

    def test_without_a_preset_the_defaults_stay(self):
        assert parse(VAEConfig, ["--output_dir", "x"], AUTOENCODER_PRESETS) == VAEConfig("x")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--preset", "huge", "--output_dir", "x"], "preset must be one of manifold, .* got 'huge'"),
            (["--output_dir", "x", "--preset"], "preset must be one of .* got ''"),
            (["--preset", "mlp"], "--output-dir"),
            (
                ["--preset", "mlp-plain", "--output_dir", "x", "--kl_weight", "1"],
                "kl_weight 1.0 contradicts network_con",
            ),
            (
                ["--network_config", PLAIN, "--output_dir", "x", "--kl_warmup_steps", "5"],
                "kl_warmup_steps 5 contradicts",
            ),
        ],
    )
    def test_refusals(self, arguments, message, capsys):
        with pytest.raises(SystemExit) as stop:
            parse(VAEConfig, arguments, AUTOENCODER_PRESETS)
        assert stop.value.code == 2
        printed = capsys.readouterr()
        assert re.search(message, printed.err + printed.out)


class TestFigures:
    @pytest.mark.parametrize(
        ("name", "run", "with_data"),
        [
            ("reconstructions", "manifold", True),
            ("reconstructions", "plain", True),
            ("prior-samples", "manifold", False),
            ("manifold", "manifold", False),
            ("interpolation", "plain", True),
            ("latents", "manifold", True),
            ("latents", "plain", True),
            ("loss-curves", "manifold", False),
            ("loss-curves", "plain", False),
        ],
    )
    def test_draws_and_says_so(self, runs, digits_folder, tmp_path, capsys, name, run, with_data):
        output = tmp_path / "figure.png"
        data = ["--dataset_name", str(digits_folder)] if with_data else []
        given = [str(runs / run)] if name == "loss-curves" else ["--vae", str(runs / run)]
        main(["figure", name, *given, "--output", str(output), *data])
        with Image.open(output) as picture:
            assert min(picture.size) > 100
            assert np.asarray(picture.convert("L")).std() > 5
        assert str(output) in capsys.readouterr().out

    def test_the_same_seed_gives_the_same_picture(self, runs, tmp_path):
        pictures = []
        for seed in (0, 0, 1):
            output = tmp_path / f"{len(pictures)}.png"
            main(
                [
                    "figure",
                    "prior-samples",
                    "--vae",
                    str(runs / "manifold"),
                    "--output",
                    str(output),
                    "--seed",
                    str(seed),
                ]
            )
            pictures.append(output.read_bytes())
        assert pictures[0] == pictures[1] != pictures[2]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["prior-samples", "--vae", "{plain}"], "plain autoencoder .* no prior"),
            (["manifold", "--vae", "{plain}"], "plain autoencoder .* no prior"),
            (["manifold", "--vae", "{wide}"], r"latents of shape \(5,\)"),
            (["loss-curves", "{wide}"], "has no history.jsonl with losses"),
            (["latents", "--vae", "{empty}"], "--vae .* has no config.json"),
            (["latents", "--vae", "./nowhere"], "neither a folder nor a Hub id"),
            (["reconstructions", "--vae", "{wide}", "--num_images", "0"], "--num_images must be at least 1, got 0"),
            (["interpolation", "--vae", "{wide}", "--num_steps", "1"], "--num_steps must be at least 2, got 1"),
            (["prior-samples", "--vae", "{denoiser}"], "holds a MLPDenoiser, which is no autoencoder"),
        ],
    )
    def test_refusals(self, runs, tmp_path, capsys, options, message):
        mgp.MLPVAE(latent_dim=5, hidden_size=8).save_pretrained(tmp_path / "wide")
        mgp.MLPDenoiser(sample_shape=(2,), hidden_size=8).save_pretrained(tmp_path / "denoiser")
        (tmp_path / "empty").mkdir()
        places = {name: tmp_path / name for name in ("wide", "denoiser", "empty")} | {"plain": runs / "plain"}
        line = refused(capsys, "figure", *(o.format(**places) for o in options), "--output", tmp_path / "x.png")
        assert re.search(message, line)
        assert not (tmp_path / "x.png").exists()


class TestMeasuring:
    def test_reconstruction_is_the_network_s_own(self, plain, splits):
        images = splits[1].images[:50]
        expected = plain(images[:, None].float() / 127.5 - 1).sample
        assert (reconstruct(plain, images, batch_size=7).float() / 127.5 - 1 - expected[:, 0]).abs().max() < 1 / 127

    def test_fitted_draws_have_the_latents_moments(self, plain, splits):
        images = splits[0].images
        latents = plain.encode(images[:, None].float() / 127.5 - 1).latent_dist.mean.detach()
        draws = fitted_draws(plain, images, 100_000)
        scale = latents.std(0)
        torch.testing.assert_close(draws.mean(0) / scale, latents.mean(0) / scale, atol=0.03, rtol=0)
        torch.testing.assert_close(torch.cov(draws.T), torch.cov(latents.T), atol=0.03 * scale.max() ** 2, rtol=0)

    def test_a_plain_autoencoder_misses_its_latents_with_standard_draws(self, plain, splits):
        judge = load_judge()
        found = measure_autoencoder(plain, Reference.of(*splits, judge), judge, 300)
        assert "kl" not in found
        assert found["fitted_fid"]["value"] < found["prior_fid"]["value"]
        unit = splits[1].images.float() / 255
        mse = (reconstruct(plain, splits[1].images).float() / 255 - unit).square().mean()
        assert found["mse"]["value"] == pytest.approx(mse.item(), abs=1e-4)
        assert prior_draws(plain, 4).shape == (4, 3)

    def test_study_files_a_table_and_draws_it(self, runs, digits_folder, tmp_path, capsys):
        output, picture = tmp_path / "metrics.json", tmp_path / "runs.png"
        names = [str(runs / "manifold"), str(runs / "plain")]
        options = ["--output", str(output), "--picture", str(picture), "--num_images", "120"]
        main(["study", "autoencoders", *names, *options, "--dataset_name", str(digits_folder)])
        record = read_runs(output)["autoencoders"]
        assert list(record["figures"]) == ["manifold", "plain"]
        assert "kl" in record["figures"]["manifold"]
        assert str(runs) not in json.dumps(record)
        assert picture.is_file()
        printed = capsys.readouterr().out
        assert "| manifold |" in printed
        assert "bce + 1 KL" in printed

    def test_study_refuses_two_of_one_name(self, runs, tmp_path, capsys):
        line = refused(capsys, "study", "autoencoders", runs / "plain", runs / "plain", "--output", tmp_path / "m.json")
        assert "different names, got plain, plain" in line


class TestAnomaly:
    def test_area_is_that_of_the_ranks(self):
        known, odd = torch.tensor([0.1, 0.2, 0.4, 0.4]), torch.tensor([0.3, 0.4, 0.9])
        pairs = [(o > k).double() + 0.5 * (o == k) for o in odd for k in known]
        found = detect(known, odd)
        assert found.auc == pytest.approx(torch.stack(pairs).mean().item())
        assert found.auc == pytest.approx(roc_auc_score([0] * 4 + [1] * 3, torch.cat([known, odd])))
        assert found.caught == pytest.approx(1 / 3)

    def test_corruptions(self, digits_folder):
        images = load_images(digits_folder, "test").images[:20]
        corrupted = {name: corrupt(images, 0) for name, corrupt in CORRUPTIONS.items()}
        for name, result in corrupted.items():
            assert result.dtype == torch.uint8 and result.shape == images.shape
            assert torch.equal(result, CORRUPTIONS[name](images, 0))
            assert not torch.equal(result, images)
        assert torch.equal(corrupted["inverted"].int() + images, torch.full_like(images, 255).int())
        assert torch.equal(
            corrupted["shuffled blocks"].flatten(1).sort(1).values, images.flatten(1).sort(1).values
        )  # the same pixels
        assert torch.equal(corrupted["upside down"][:, 0], images[:, 27])

    def test_scores_are_the_squared_error(self, plain, digits_folder):
        images = load_images(digits_folder, "test").images[:30]
        own = plain(images[:, None].float() / 127.5 - 1).sample.detach()
        expected = ((own + 1) / 2 - images[:, None] / 255).square().flatten(1).mean(1)
        torch.testing.assert_close(
            reconstruction_scores(plain, images, batch_size=7).float(), expected, atol=1e-6, rtol=1e-4
        )

    def test_command_prints_a_table(self, runs, digits_folder, tmp_path, capsys):
        common = ["figure", "anomaly", "--vae", str(runs / "plain"), "--dataset_name", str(digits_folder)]
        main([*common, "--output", str(tmp_path / "a.png")])
        printed = capsys.readouterr().out
        inverted = next(line for line in printed.splitlines() if line.startswith("| inverted"))
        assert float(inverted.split("|")[4]) > 0.99
        main([*common, "--output", str(tmp_path / "b.png"), "--other_dataset_name", str(digits_folder)])
        same = next(line for line in capsys.readouterr().out.splitlines()[3:] if line.startswith("| digits"))
        assert float(same.split("|")[4]) == 0.5  # its own images are no anomalies
        assert (tmp_path / "b.png").is_file()
