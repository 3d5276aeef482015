"""The guide report: closed forms where the guide is one, exact gradients as zero error, and a hacked guide caught."""

import json
import math

import numpy as np
import pytest
import torch
from diffusers import ConfigMixin, DDPMScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from PIL import Image
from torch import nn

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.data.images import LabelledImages
from mnist_guided_pipeline.evaluation.guide import (
    LEVELS,
    _errors_by_level,
    compare_scores,
    gradient_errors,
    guide_by_noise,
    guide_hacking,
    learned_scores,
    timesteps_and_levels,
)
from mnist_guided_pipeline.evaluation.judge import load_judge
from mnist_guided_pipeline.evaluation.oracle import COSINE, PLANE, exact_pipeline
from mnist_guided_pipeline.sampling.noise import add_noise, levels_at


class LinearGuide(ModelMixin, ConfigMixin):
    """Class logits ``W x + b``, whatever the noise: everything that the report says of it is known."""

    @register_to_config
    def __init__(self, sample_shape=(1, 28, 28), num_classes: int = 2):
        super().__init__()
        self.layer = nn.Linear(math.prod(sample_shape), num_classes)

    def forward(self, sample, timestep, return_dict=True):
        return (self.layer(sample.flatten(1)),)


@pytest.fixture
def linear() -> mgp.ClassifierGuidedLatentPipeline:
    torch.manual_seed(0)
    denoiser = mgp.MLPDenoiser(sample_shape=(1, 28, 28), hidden_size=8)
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False)
    return mgp.ClassifierGuidedLatentPipeline(None, denoiser, LinearGuide(), scheduler)


@pytest.fixture(scope="module")
def images() -> LabelledImages:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (60, 28, 28), dtype=torch.uint8, generator=generator)
    return LabelledImages(pixels, (torch.arange(60) % 3 == 0).long(), ("0", "1"))


class TestByNoise:
    def test_a_blind_guide_is_at_chance_and_does_not_pull(self, linear, images):
        with torch.no_grad():
            linear.classifier.layer.weight.zero_()
            linear.classifier.layer.bias.copy_(torch.tensor([2.0, 0.0]))
        confidence = torch.tensor(2.0).sigmoid().item()
        rows = guide_by_noise(linear, images, num_bins=4)
        assert [row["timesteps"] for row in rows] == [[0, 249], [250, 499], [500, 749], [750, 999]]
        for row in rows:
            assert row["accuracy"]["value"] == pytest.approx(40 / 60)  # always says 0, which two in three are
            assert row["confidence"]["value"] == pytest.approx(confidence, abs=1e-6)
            assert row["calibration_error"]["value"] == pytest.approx(confidence - 40 / 60, abs=1e-6)
            assert row["gradient_share"]["value"] == 0.0

    def test_the_share_of_a_linear_guide(self, linear, images):
        """Logits +-w x near 0 have the gradient +-w, so the share is sigma |w| / sqrt(d)."""
        weight = torch.randn(28 * 28, generator=torch.Generator().manual_seed(1)) * 1e-5
        with torch.no_grad():
            linear.classifier.layer.weight.copy_(torch.stack([weight, -weight]))
            linear.classifier.layer.bias.zero_()
        sigma = timesteps_and_levels(linear)[1].sigma.reshape(10, 100).mean(dim=1)
        rows = guide_by_noise(linear, images)
        for row, expected in zip(rows, sigma * weight.norm() / 28, strict=True):
            assert row["gradient_share"]["value"] == pytest.approx(expected.item(), rel=0.1)
        ratios = [row["ratio"] for row in rows]
        assert ratios == sorted(ratios)

    def test_needs_a_guide_and_a_law_with_timesteps(self, linear, images):
        linear.register_modules(classifier=None)
        with pytest.raises(ValueError, match="no classifier"):
            guide_by_noise(linear, images)
        with pytest.raises(ValueError, match="noise law 'edm'"):
            timesteps_and_levels(exact_pipeline(PLANE, "EDMEulerScheduler", "epsilon"))
        with pytest.raises(ValueError, match="measured against a denoiser that is told the label"):
            gradient_errors(exact_pipeline(PLANE, "DDIMScheduler", "v_prediction"), None)


class TestHacking:
    def test_a_guide_that_knows_nothing_is_caught(self, tiny_pipeline_folder):
        """Its own accuracy goes up with the scale as it would for a good guide; the judge's does not."""
        pipe = mgp.ClassifierGuidedLatentPipeline.from_pretrained(tiny_pipeline_folder)
        torch.manual_seed(0)
        guide = LinearGuide(sample_shape=(4,), num_classes=10)
        with torch.no_grad():
            guide.layer.weight.mul_(10.0)
        pipe.register_modules(classifier=guide)
        rows = guide_hacking(pipe, load_judge(), 100, (0.0, 4.0))
        assert [row["guidance_scale"] for row in rows] == [0.0, 4.0]
        none, strong = rows
        assert none["guide_accuracy"]["value"] < 0.3
        assert strong["guide_accuracy"]["value"] > 0.6
        assert strong["judge_accuracy"]["value"] < 0.3
        assert strong["gap"]["value"] > 0.4
        assert strong["guide_confidence"]["value"] > none["guide_confidence"]["value"]


class TestLearnedScores:
    def test_the_exact_classifier_has_no_error(self):
        exact = mgp.MixtureClassifier(**PLANE.parameters, schedule=COSINE).double()
        rows = compare_scores(exact, PLANE, COSINE)
        assert [row["ratio"] for row in rows] == pytest.approx(LEVELS, rel=0.15)
        for row in rows:
            assert row["relative_error"] < 1e-6
            assert row["clean_sample_error"] < 1e-6

    def test_no_gradient_at_all_is_an_error_of_one(self):
        flat = LinearGuide()
        flat.forward = lambda sample, timestep, return_dict: (0.0 * sample.sum(dim=1, keepdim=True).expand(-1, 2),)
        for row in compare_scores(flat, PLANE, COSINE):
            assert row["relative_error"] == pytest.approx(1.0, abs=1e-6)

    def test_the_gate_keeps_the_gradient_right_where_noise_is_large(self):
        plain, gated, pair = learned_scores(num_updates=150).values()
        assert gated[-1]["relative_error"] < 1.0 < plain[-1]["relative_error"]
        assert gated[-1]["clean_sample_error"] < plain[-1]["clean_sample_error"] / 10
        assert gated[4]["relative_error"] < 0.5  # and costs nothing elsewhere
        assert gated[4]["relative_error"] < 2 * plain[4]["relative_error"]
        for row, other in zip(pair[2:], gated[2:], strict=True):  # a teacher says what cross-entropy leaves free
            assert row["relative_error"] < other["relative_error"]


class TestGradientErrors:
    def states(self):
        x0 = torch.from_numpy(np.concatenate([PLANE.draw(label, 100, label) for label in (0, 1)]))
        times = torch.randint(50, 950, (200,), generator=torch.Generator().manual_seed(0))
        pipe = exact_pipeline(PLANE, "DDIMScheduler", "v_prediction", conditional=True)
        table = timesteps_and_levels(pipe)[1]
        noise = torch.randn(200, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        noisy = add_noise(x0, noise, levels_at(table, times, x0))
        return pipe, table, noisy, times, torch.arange(2).repeat_interleave(100)

    def test_exact_networks_have_none_and_a_gradient_of_half_the_length_is_wrong_by_half(self):
        pipe, table, *states = self.states()
        for row in _errors_by_level(pipe, table, *states):
            assert row["gradient_error"]["value"] < 1e-6 * max(row["wanted"]["value"], 1e-3)
            assert row["base_error"]["value"] < 1e-6
        exact = pipe.classifier.forward

        def half(sample, timestep, return_dict=True):
            logits = exact(sample, timestep).logits
            logits = torch.lerp(logits.detach(), logits, 0.5)  # the same beliefs
            return (logits,)

        pipe.classifier.forward = half
        for row in _errors_by_level(pipe, table, *states):
            assert row["gradient_error"]["value"] == pytest.approx(0.25 * row["wanted"]["value"], rel=1e-3, abs=1e-9)


class TestCommand:
    @pytest.fixture
    def words(self, tiny_pipeline_folder, digits_folder) -> list[object]:
        pytest.importorskip("matplotlib")
        few = ["--num_test_images", 30, "--num_images", 100, "--guidance_scale", 0, 2, "--num_updates", 5]
        return ["study", "guide", "--model", tiny_pipeline_folder, "--dataset_name", digits_folder, *few]

    def test_prints_draws_and_files(self, typed, words, tmp_path, capsys):
        typed(*words, "--figure", tmp_path / "guide.png", "--output", tmp_path / "metrics.json")
        printed = capsys.readouterr().out
        assert "gradient share" in printed and "judge accuracy" in printed and "| gated |" in printed
        with Image.open(tmp_path / "guide.png") as picture:
            assert picture.size[0] > 1000
            assert len(picture.convert("L").getcolors()) > 10
        record = json.loads((tmp_path / "metrics.json").read_text())["runs"]["guide-report"]
        assert len(record["figures"]["by_noise"]) == 10
        assert [row["guidance_scale"] for row in record["figures"]["hacking"]] == [0.0, 2.0]
        assert "/" not in record["command"] and record["model"]["name"] == "tiny"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--figure", "guide.txt"], "must end in .png"),
            (["--num_updates", "0"], "num_updates must be"),
            (["--guidance_scale", "-1"], "guidance_scale must be"),
        ],
    )
    def test_bad_options(self, words, refused, tmp_path, monkeypatch, options, message):
        monkeypatch.chdir(tmp_path)
        assert message in refused(*words, *options)
        assert not list(tmp_path.iterdir())
