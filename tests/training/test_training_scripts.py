"""The scripts as a user runs them: the loss falls, and what they write loads and fits together."""

import dataclasses
import importlib
import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.training.config import ClassifierConfig, DenoiserConfig, VAEConfig, parse
from mnist_guided_pipeline.training.history import read_history
from training_runs import make_config, own_signals, train

NOISE = ("--num_train_timesteps", "200", "--prediction_type", "epsilon")


@pytest.fixture(scope="session")
def runs(digits_folder, tmp_path_factory) -> dict[str, Path]:
    """Every script on the digits, with tiny networks: name to output folder."""
    root = tmp_path_factory.mktemp("runs")
    latent = ("--vae_path", root / "vae", *NOISE)
    matching = ("--denoiser_path", root / "denoiser", "--score_matching_weight", 1)
    for name, script, config_class, network, options in (
        ("vae", "vae", VAEConfig, "MLPVAE", ("--kl_weight", 0.1)),
        ("denoiser", "denoiser", DenoiserConfig, "MLPDenoiser", latent),
        ("plain", "classifier", ClassifierConfig, "MLPClassifier", latent),
        ("classifier", "classifier", ClassifierConfig, "MLPClassifier", (*latent, *matching)),
    ):
        arguments = (
            *("--dataset_name", digits_folder, "--output_dir", root / name),
            *("--network", network, "--network_config", '{"hidden_size": 64}', "--learning_rate", "3e-3"),
            *("--train_batch_size", 128, "--max_train_steps", 100, "--validation_steps", 20, "--lr_warmup_steps", 5),
            *options,
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The noise schedule ends at alpha")
            train(script, parse(config_class, [str(argument) for argument in arguments]))
    return {name: root / name for name in ("vae", "denoiser", "plain", "classifier")}


def logged(folder: Path, name: str) -> list[float]:
    """One value of the validations, in order."""
    return [line[name] for line in read_history(folder) if name in line]


class TestLearning:
    def test_autoencoder(self, runs):
        losses = logged(runs["vae"], "test/reconstruction")
        assert len(losses) == 5
        assert losses[-1] < 0.9 * losses[0]

    def test_denoiser(self, runs):
        losses = logged(runs["denoiser"], "test/loss")
        assert losses[-1] < 0.9 * losses[0]

    @pytest.mark.parametrize("name", ["plain", "classifier"])
    def test_classifier_reads_better_where_there_is_less_noise(self, runs, name):
        least, most = (logged(runs[name], f"test/accuracy_t{i}of10") for i in (0, 9))
        assert least[-1] > least[0]
        assert least[-1] > 0.6 > most[-1]

    def test_guidance_helps_the_denoiser(self, runs):
        guided, unguided = (
            logged(runs["classifier"], f"test/denoising_loss_{kind}")[-1] for kind in ("guided", "unguided")
        )
        assert guided < unguided


class TestResults:
    def test_both_latent_networks_keep_the_noise_schedule(self, runs):
        schedules = [
            json.loads((runs[name] / "scheduler" / "scheduler_config.json").read_text())
            for name in ("denoiser", "classifier", "plain")
        ]
        assert schedules[0] == schedules[1] == schedules[2]
        assert schedules[0]["num_train_timesteps"] == 200
        assert schedules[0]["prediction_type"] == "epsilon"


@pytest.mark.parametrize("name", ["denoiser", "classifier", "gan"])
def test_other_classes_than_the_datas(digits_folder, tmp_path, name):
    changes = {"network_config": '{"num_classes": 9}'}
    if name == "classifier":
        changes["score_matching_weight"] = 0.0
    with pytest.raises(ValueError, match="makes num_classes 9, the data set has 10 classes: give that number"):
        train(name, make_config(name, digits_folder, tmp_path / name, **changes))
    assert not (tmp_path / name).exists()


class TestWholePipeline:
    def test_preset_trains_and_assembles_and_keeps_what_is_done(self, digits_folder, tmp_path, capsys):
        script = importlib.import_module("train_pipeline")
        settings = {"preset": "debug", "dataset_name": str(digits_folder), "report_to": "tensorboard"}
        config = script.PipelineConfig(str(tmp_path / "pipeline"), **settings)
        with own_signals():
            script.main(config)
        pipe = mgp.ClassifierGuidedLatentPipeline.from_pretrained(tmp_path / "pipeline")
        assert len(pipe([3, "7"], num_inference_steps=2).images) == 2
        assert list((tmp_path / "pipeline").rglob("events.out.tfevents*"))
        weights = load_file(tmp_path / "pipeline" / "denoiser" / "diffusion_pytorch_model.safetensors")

        capsys.readouterr()
        script.main(dataclasses.replace(config, report_to="none"))
        assert capsys.readouterr().out.count("finished before, kept") == 4
        kept = load_file(tmp_path / "pipeline" / "denoiser" / "diffusion_pytorch_model.safetensors")
        assert all(torch.equal(kept[name], weights[name]) for name in weights)
        for file in (tmp_path / "pipeline").glob("*/config.json"):
            assert str(tmp_path) not in file.read_text()  # a shared pipeline does not say where it was made
        with pytest.raises(ValueError, match="holds a pipeline of other settings.* replace it with --force"):
            script.main(dataclasses.replace(config, seed=1))
        # a step that is trained anew takes the later ones with it, whose own settings are as they were
        recipe = tmp_path / "pipeline" / "steps" / "denoiser" / "train_config.json"
        recipe.write_text(recipe.read_text().replace('"learning_rate": ', '"learning_rate": 9'))
        capsys.readouterr()
        with own_signals():
            script.main(dataclasses.replace(config, report_to="none", force=True))
        lines = [line for line in capsys.readouterr().out.splitlines() if line.split(":")[0] in script.SCRIPTS]
        assert [line.split(": ")[1].split()[0] for line in lines] == ["finished", "training", "training", "training"]
