"""Settings that contradict each other end a script before any work, with one line that names both values."""

import importlib.util
import json

import pytest
import torch

from mnist_guided_pipeline.data.images import LabelledImages
from mnist_guided_pipeline.seeding import fingerprint
from mnist_guided_pipeline.training.config import (
    ClassifierConfig,
    DecoderConfig,
    DenoiserConfig,
    GANConfig,
    JudgeConfig,
    VAEConfig,
    parse,
)
from mnist_guided_pipeline.training.presets import AUTOENCODER_PRESETS
from training_runs import make_config, train, weights

CONTRADICTIONS = [
    (VAEConfig, "--max_train_steps 9 --lr_warmup_steps 10", "lr_warmup_steps 10 is more than the run has, 9 updates"),
    (VAEConfig, '--network_config {"variational":false} --kl_weight 1', "kl_weight 1.0 contradicts network_config"),
    (VAEConfig, "--dataset_name points:moons", "dataset_name 'points:moons' is one of points in the plane"),
    (VAEConfig, "--config nowhere.json", "No such file or directory: 'nowhere.json'"),
    (VAEConfig, "--config x.json --preset conv", "config 'x.json' and preset 'conv' are both a start"),
    (VAEConfig, "--preset nothing", "preset must be one of manifold"),
    (VAEConfig, "--learning_rate 0", "learning_rate must be positive, got 0"),
    (VAEConfig, "--kl_weight -1", "kl_weight must not be negative, got -1"),
    (VAEConfig, "--network_config {", "network_config must be a JSON object"),
    (VAEConfig, "--ema_decay 1", "ema_decay must be in [0, 1), got 1"),
    (VAEConfig, "--lr_warmup_steps -1", "lr_warmup_steps must not be negative, got -1"),
    (VAEConfig, "--resume_from_checkpoint nowhere", "resume_from_checkpoint 'nowhere' is not a folder"),
    (GANConfig, "--r1_gamma -1", "r1_gamma must not be negative, got -1"),
    (GANConfig, '--discriminator_config {"num_classes":10}', "give num_classes in network_config alone"),
    (DecoderConfig, "--r1_gamma 1", "vae_path is missing: give the folder of train_vae.py, or a Hub id"),
    (DecoderConfig, "--vae_path a/b --reconstruction_weight 0", "reconstruction_weight must be positive, got 0"),
    (DenoiserConfig, "--num_train_timesteps 1", "num_train_timesteps must be at least 2, got 1"),
    (DenoiserConfig, "--beta_end 2", "must satisfy 0 < beta_start < beta_end < 1"),
    (ClassifierConfig, "--score_matching_weight 1", "score_matching_weight 1.0 needs denoiser_path"),
    (DenoiserConfig, "--snr_gamma 0", "snr_gamma must be positive, got 0"),
    (DenoiserConfig, "--vae_path a/b --dataset_name points:moons", "'a/b' contradicts dataset_name 'points:moons'"),
    (
        ClassifierConfig,
        "--random_label_share 0.5",
        "0.5 is a share of the guided denoising loss, whose score_",
    ),
    (JudgeConfig, "--norm_batch_size 3 --train_batch_size 8", "norm_batch_size 3 must divide train_batch_size 8"),
]


def refusal(config_class, options, capsys, presets=None) -> str:
    with pytest.raises(SystemExit) as stop:
        parse(config_class, ["--output_dir", "unused", *options], presets=presets)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(("config_class", "options", "message"), CONTRADICTIONS)
def test_contradictions(config_class, options, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    presets = AUTOENCODER_PRESETS if config_class is VAEConfig else None
    assert message in refusal(config_class, options.split(), capsys, presets)
    assert not list(tmp_path.iterdir())


def test_the_default_warm_up_gives_way_to_a_short_run():
    assert VAEConfig("").warmup_updates(30) == 30
    with pytest.raises(ValueError, match="lr_warmup_steps 40 is more than the run has, 30 updates"):
        VAEConfig("", lr_warmup_steps=40).warmup_updates(30)


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_a_tracker_that_is_not_installed(tracker, capsys):
    if importlib.util.find_spec(tracker):
        pytest.skip(f"{tracker} is installed")
    line = refusal(VAEConfig, ["--report_to", tracker], capsys)
    assert f"report_to '{tracker}' needs the package {tracker}: pip install {tracker}" in line


def test_half_precision_on_a_cpu(capsys, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert "mixed_precision 'fp16' needs a GPU" in refusal(VAEConfig, ["--mixed_precision", "fp16"], capsys)


def test_a_batch_larger_than_the_data(digits_folder, tmp_path):
    config = make_config("vae", digits_folder, tmp_path / "vae", train_batch_size=121)
    with pytest.raises(ValueError, match="120 examples, fewer than one update takes: train_batch_size 121"):
        train("vae", config)
    assert not (tmp_path / "vae").exists()


class TestRunsOfBefore:
    def test_a_run_is_repeated_from_its_settings_bit_for_bit(self, digits_folder, tmp_path):
        train("vae", make_config("vae", digits_folder, tmp_path / "vae", max_train_steps=12, checkpointing_steps=10))
        words = ["--config", str(tmp_path / "vae" / "train_config.json"), "--output_dir", str(tmp_path / "again")]
        train("vae", parse(VAEConfig, words))
        first, second = (weights(tmp_path / name) for name in ("vae", "again"))
        assert first.keys() == second.keys()
        assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())

    def test_flags_win_over_the_file(self, tmp_path):
        file = tmp_path / "train_config.json"
        file.write_text(VAEConfig("old", kl_weight=0.5, seed=3, resume_from_checkpoint="latest").to_json())
        config = parse(VAEConfig, ["--config", str(file), "--output_dir", "new", "--seed", "4"])
        assert config == VAEConfig("new", kl_weight=0.5, seed=4)

    @pytest.mark.parametrize(
        ("config", "gone"),
        [
            (DecoderConfig, {"network": "", "network_config": "{}"}),
            (VAEConfig, {"kl_warmup_steps": 0}),
            (GANConfig, {"network": "GANGenerator"}),
            (JudgeConfig, {"network": "R", "max_rotation": 15, "max_shear": 0.2, "max_scaling": 0.15, "max_shift": 2}),
        ],
    )
    def test_settings_that_are_gone_are_passed_over(self, config, gone):
        assert config.from_json(json.dumps({"output_dir": "old", "seed": 3, **gone})) == config("old", seed=3)

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            *(("{", ""), ("[1]", ""), ('{"output_dir": "x", "unknown": 1}', "unknown")),
            ('{"output_dir": "x", "kl_warmup_steps": 500}', "kl_warmup_steps"),
        ],
    )
    def test_a_file_of_something_else_or_of_a_setting_that_no_longer_counts(self, tmp_path, text, named, capsys):
        (tmp_path / "it.json").write_text(text)
        line = refusal(VAEConfig, ["--config", str(tmp_path / "it.json")], capsys)
        assert "is not a train_config.json of VAEConfig" in line and named in line

    def test_checkpoints_are_not_overlooked(self, digits_folder, tmp_path):
        """A run that starts afresh among them would overwrite some and leave others."""
        settings = {"max_train_steps": 4, "checkpointing_steps": 2, "lr_warmup_steps": 0}
        train("vae", make_config("vae", digits_folder, tmp_path, **settings))
        with pytest.raises(ValueError, match="holds checkpoint-4 of an earlier run. Go on from it with --resume"):
            train("vae", make_config("vae", digits_folder, tmp_path, **settings))

    def test_a_finished_result_is_not_overwritten_in_silence(self, digits_folder, tmp_path):
        settings = {"max_train_steps": 4, "checkpointing_steps": None, "lr_warmup_steps": 0}
        train("vae", make_config("vae", digits_folder, tmp_path, **settings))
        for resume in (None, "latest"):
            with pytest.raises(ValueError, match="holds the config.json of a finished result. Choose .* with --force"):
                make_config("vae", digits_folder, tmp_path, **settings, resume_from_checkpoint=resume)
        train("vae", make_config("vae", digits_folder, tmp_path, **settings, force=True))

    def test_a_run_goes_on_in_another_layout_of_the_same_batch(self, digits_folder, tmp_path):
        train("vae", make_config("vae", digits_folder, tmp_path, checkpointing_steps=15))
        cut = {"resume_from_checkpoint": "latest", "checkpointing_steps": 15}
        config = make_config("vae", digits_folder, tmp_path, train_batch_size=2, gradient_accumulation_steps=4, **cut)
        train("vae", config)
        with pytest.raises(ValueError, match="made with global_batch_size = 8, this run has 16"):
            train("vae", make_config("vae", digits_folder, tmp_path, train_batch_size=16, **cut))

    def test_a_run_does_not_go_on_with_other_data(self, digits_folder, tmp_path, monkeypatch):
        settings = {"max_train_steps": 8, "resume_from_checkpoint": "latest"}
        train("vae", make_config("vae", digits_folder, tmp_path, **settings))
        other = property(lambda data: fingerprint(data.images, data.labels.flip(0)))
        monkeypatch.setattr(LabelledImages, "fingerprint", other)
        with pytest.raises(ValueError, match="checkpoint-7 was made with data = '[0-9a-f]{16}', this run has"):
            train("vae", make_config("vae", digits_folder, tmp_path, **settings))


def test_a_dry_run_prints_what_it_would_take_and_writes_nothing(digits_folder, tmp_path, capsys):
    config = make_config("gan", digits_folder, tmp_path / "gan", dry_run=True)
    with pytest.raises(SystemExit) as stop:
        train("gan", config)
    assert not stop.value.code
    printed = capsys.readouterr().out
    assert "generator: " in printed and "discriminator: " in printed and "ms an update" in printed
    assert not (tmp_path / "gan").exists()
