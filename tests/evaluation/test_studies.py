"""Studies: grids and lines, DDPM without its noise, faults that do what they say, tables filed."""

import json

import pytest
import torch
from datasets import ClassLabel, Features, Image
from diffusers import DDIMScheduler, DDPMScheduler
from PIL import Image as PILImage

import mnist_guided_pipeline as mgp
from conftest import write_split
from mnist_guided_pipeline.cli.options import MeasuringOptions
from mnist_guided_pipeline.data.posteriors import encode_images
from mnist_guided_pipeline.evaluation.records import read_runs
from mnist_guided_pipeline.evaluation.samples import SamplingSettings
from mnist_guided_pipeline.evaluation.studies import grid
from mnist_guided_pipeline.evaluation.tables import render_document
from tiny import noise, seeds
from training_runs import SCRIPTS  # noqa: F401 - puts the training scripts on the path

pytest.importorskip("matplotlib")


class TestGrid:
    def test_is_named_by_what_varies(self):
        base = SamplingSettings(num_images=10)
        assert grid(base, {}) == {"default": base}
        assert list(grid(base, {"guidance_scale": [2.0], "eta": ()}, "high")) == ["high"]
        axes = {"scheduler": ["DDIMScheduler"], "num_inference_steps": [10, 20], "guidance_scale": [1.0, 2.5]}
        runs = grid(base, axes, "sweep")
        assert list(runs)[1] == "sweep/num_inference_steps=10,guidance_scale=2.5"
        assert len(runs) == 4
        assert runs["sweep/num_inference_steps=20,guidance_scale=1"] == SamplingSettings(
            10, scheduler="DDIMScheduler", num_inference_steps=20, guidance_scale=1.0
        )
        options = ({}, {"use_karras_sigmas": True}, {"timestep_spacing": "leading"})
        names = [name.partition("=")[2] for name in grid(base, {"scheduler_options": options})]
        assert names == ["none", "use_karras_sigmas", "timestep_spacing=leading"]
        with pytest.raises(ValueError, match="name must be letters"):
            grid(base, {}, "two words")


def test_a_data_set_of_other_classes_is_refused(tmp_path):
    features = Features({"image": Image(), "label": ClassLabel(names=["shirt", "boot"])})
    for split in ("train", "test"):
        write_split(tmp_path, split, [PILImage.new("L", (28, 28))] * 20, [0, 1] * 10, features)
    with pytest.raises(ValueError, match=r"The judge names the classes 0, 1, 2.* the data set shirt, boot"):
        MeasuringOptions(dataset_name=str(tmp_path)).reference()


class TestSystems:
    def test_side_by_side(self, typed, tiny_pipeline_folder, digits_folder, tmp_path, capsys):
        torch.manual_seed(0)
        mgp.MLPVAE(latent_dim=3, hidden_size=8, variational=False).save_pretrained(tmp_path / "plain")
        mgp.MLPVAE(latent_dim=3, hidden_size=8).save_pretrained(tmp_path / "vae")
        generator = mgp.GANGenerator(latent_dim=4, hidden_sizes=[8], num_classes=10)
        generator.save_pretrained(tmp_path / "gan")
        (tmp_path / "gan" / "history.jsonl").write_text('{"step": 10, "seconds_per_update": 0.1}\n')
        denoiser = mgp.MLPDenoiser(sample_shape=(1, 28, 28), hidden_size=8, num_classes=10)
        scheduler = DDPMScheduler(prediction_type="sample", clip_sample=False)
        pixel = mgp.ClassifierGuidedLatentPipeline(None, denoiser, None, scheduler)
        pixel.register_to_config(sampling_defaults={"num_inference_steps": 2})
        pixel.save_pretrained(tmp_path / "pixel")
        output, figure = tmp_path / "m.json", tmp_path / "systems.png"
        models = [tmp_path / name for name in ("plain", "vae", "gan", "pixel")]
        options = ["--output", output, "--figure", figure, "--dataset_name", digits_folder, "--num_images", 100]
        typed("study", "systems", "--model", *models, tiny_pipeline_folder, *options)
        rows = read_runs(output)["study-systems"]["figures"]["rows"]
        systems = ["autoencoder plain", "VAE vae", "GAN gan", "pixel diffusion pixel", "latent diffusion tiny"]
        assert list(rows) == [*systems, "real training images"]
        assert rows["GAN gan"]["parameters"] == sum(weight.numel() for weight in generator.parameters())
        assert rows["pixel diffusion pixel"]["parameters"] == sum(weight.numel() for weight in denoiser.parameters())
        assert rows["GAN gan"]["training_minutes"] == pytest.approx(1 / 60)
        assert "training_minutes" not in rows["VAE vae"]
        assert ["accuracy" in row for row in rows.values()] == [False, False, True, True, True, False]
        assert all(row["judge_fid"]["value"] > 0 for row in rows.values())
        assert str(tmp_path) not in output.read_text()
        assert figure.is_file()
        assert "| VAE vae" in capsys.readouterr().out


def test_scales_are_filed_and_drawn(typed, tmp_path, capsys):
    few = ["--num_samples", 60, "--num_particles", 4, "--num_inference_steps", 10, "--guidance_scale", 1, 3]
    typed("study", "scales", *few, "--output", tmp_path / "m.json", "--figure", tmp_path / "scales.png")
    rows = read_runs(tmp_path / "m.json")["study-scales"]["figures"]["rows"]
    assert list(rows) == [f"s = {scale}, class {label}" for scale in (1, 3) for label in (0, 1)]
    assert rows["s = 3, class 1"]["plain_mean_error"] > rows["s = 3, class 1"]["particles_mean_error"]
    assert "particles covariance error" in capsys.readouterr().out and (tmp_path / "scales.png").is_file()


class TestFaults:
    def test_ddpm_without_its_noise_takes_the_mean_of_its_steps(self, tiny):
        from run_faults import mean_only_scheduler

        quiet, noisy = mean_only_scheduler(tiny), tiny.make_scheduler(DDPMScheduler)
        for scheduler in (quiet, noisy):
            scheduler.set_timesteps(20)
        z, output, t = noise(1, 4).expand(20_000, 4), noise(1, 4, seed=1).expand(20_000, 4), quiet.timesteps[10]
        means, draws = (scheduler.step(output, t, z, generator=seeds(0)[0])[0] for scheduler in (quiet, noisy))
        assert means.unique(dim=0).shape == (1, 4) and draws.std(dim=0).min() > 0.05
        torch.testing.assert_close(draws.mean(dim=0), means[0], rtol=0, atol=0.01)

    def test_a_scale_of_each_step(self, tiny):
        """A constant one is the pipeline's own; the first step is too noisy to be guided in either."""
        from run_faults import scaled

        tiny.scheduler = tiny.make_scheduler(DDIMScheduler, timestep_spacing="trailing")
        given = {"latents": noise(1, 4), "num_inference_steps": 2, "output_type": "latent"}

        def run(**options):
            return tiny(3, **given, **options).images

        plain, pushed = run(guidance_scale=0.0), run(guidance_scale=1.5)
        assert torch.equal(run(guidance_scale=0.0, callback_on_step_end=scaled(lambda sigma: 1.5)), pushed)
        back = run(guidance_scale=0.0, callback_on_step_end=scaled(lambda sigma: -1.5))
        torch.testing.assert_close(back - plain, plain - pushed, rtol=1e-3, atol=1e-5)  # one guided step, mirrored
        assert (pushed - plain).abs().max() > 1e-4
        seen = []
        run(guidance_scale=0.0, callback_on_step_end=scaled(lambda sigma: seen.append(sigma) or 1.0))
        tiny.scheduler.set_timesteps(2)
        last = tiny.scheduler.alphas_cumprod[tiny.scheduler.timesteps[-1]]
        assert seen == [pytest.approx((1 - last).sqrt().item())]

    def test_clamping_and_unit_range(self, tiny):
        from run_faults import clamped, images_in_unit_range

        given = {"latents": 3 * noise(8, 4), "num_inference_steps": 2, "output_type": "latent"}
        drawn = tiny([3] * 8, generator=torch.Generator().manual_seed(0), callback_on_step_end=clamped, **given).images
        assert drawn.abs().max() == 1
        images = torch.arange(256, dtype=torch.uint8).repeat(7)[: 2 * 784].reshape(2, 28, 28)
        with pytest.raises(RuntimeError, match="stop"), images_in_unit_range():
            inside = encode_images(None, images).mean
            raise RuntimeError("stop")
        assert inside.min() == 0 and inside.max() == 1
        assert encode_images(None, images).mean.min() == -1


class TestTrainedStudies:
    @pytest.fixture
    def common(self, digits_folder, tmp_path):
        return {
            "output_dir": str(tmp_path / "study"),
            "max_train_steps": 12,
            "max_train_samples": 300,
            "measuring": MeasuringOptions(tmp_path / "m.json", 100, dataset_name=str(digits_folder), force=True),
        }

    def test_variants_are_trained_once_and_measured_alike(self, common, tmp_path, monkeypatch, capsys):
        from run_study import STUDIES, StudyConfig
        from run_study import main as run

        whole = STUDIES["targets"]
        quick = {"": {"num_inference_steps": 3}}
        two = {name: whole.variants[name]._replace(drawings=quick) for name in ("flow", "v,cosine")}
        monkeypatch.setitem(STUDIES, "targets", whole._replace(variants=two))
        run(StudyConfig("targets", **common))
        printed = capsys.readouterr().out
        record = read_runs(tmp_path / "m.json")["study-targets"]
        assert list(record["figures"]["rows"]) == ["flow", "v, cosine", "real training images"]
        folders = [tmp_path / "study" / "variants" / name / "denoiser" for name in ("flow", "v,cosine")]
        first, second = (json.loads((folder / "train_config.json").read_text()) for folder in folders)
        assert {key for key in first if first[key] != second[key]} == {"prediction_type", "output_dir"}
        assert printed.count(": training") == 2
        run(StudyConfig("targets", **common))
        again = capsys.readouterr().out
        assert again.count("finished before, kept") == 2
        rows = read_runs(tmp_path / "m.json")["study-targets"]["figures"]["rows"]
        assert all(row["judge_fid"] == record["figures"]["rows"][name]["judge_fid"] for name, row in rows.items())
        text = "<!-- metrics:study-targets rows --><!-- /metrics -->"
        assert "| v, cosine" in render_document(text, read_runs(tmp_path / "m.json"))
        assert (tmp_path / "study" / "study-targets.png").is_file()
        assert str(tmp_path) not in (tmp_path / "m.json").read_text()

    def test_all_faults(self, common, tmp_path, capsys):
        from run_faults import FaultsConfig
        from run_faults import main as run

        run(FaultsConfig(num_inference_steps=3, **common))
        runs = read_runs(tmp_path / "m.json")
        assert len(runs["faults"]["figures"]["rows"]) == 9
        assert len(runs["faults-figures"]["figures"]["rows"]) == 12
        assert "| gradient subtracted" in capsys.readouterr().out
        assert (tmp_path / "study" / "study-faults.png").is_file()

    def test_every_variant_is_sound(self):
        """Settings that the scripts take, and drawings that the sampling takes; nothing is trained."""
        from run_study import STUDIES

        for study in STUDIES.values():
            for variant in study.variants.values():
                variant.denoiser.check()
                for options in variant.drawings.values():
                    SamplingSettings(100, **options)
