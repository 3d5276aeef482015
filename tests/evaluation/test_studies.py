"""Studies: DDPM without its noise against closed forms, faults that do what they say, and tables that are filed."""

import json
import shutil

import pytest
import torch
from datasets import ClassLabel, Features, Image
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from PIL import Image as PILImage

import mnist_guided_pipeline as mgp
from conftest import write_split
from mnist_guided_pipeline.cli import main
from mnist_guided_pipeline.data.posteriors import encode_images
from mnist_guided_pipeline.evaluation.fingerprints import fingerprint, public_config
from mnist_guided_pipeline.evaluation.records import read_runs
from mnist_guided_pipeline.evaluation.samples import SamplingSettings
from mnist_guided_pipeline.evaluation.studies import (
    SPACINGS,
    check_judge,
    eta_runs,
    mean_only_scheduler,
    scale_runs,
)
from mnist_guided_pipeline.evaluation.tables import render_document
from mnist_guided_pipeline.evaluation.training_time import training_stages
from mnist_guided_pipeline.training.checkpoints import read_averaged_weights
from mnist_guided_pipeline.training.history import training_seconds
from training_runs import SCRIPTS  # noqa: F401 - puts the training scripts on the path

pytest.importorskip("matplotlib")
pytest.importorskip("torchmetrics")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def tiny(tiny_pipeline_folder):
    pipe = mgp.ClassifierGuidedLatentPipeline.from_pretrained(tiny_pipeline_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def study(tiny_pipeline_folder, digits_folder, tmp_path):
    """Run a study of the tiny pipeline with its files in ``tmp_path``."""

    def run(name: str, *options: object) -> None:
        folders = ["--model", str(tiny_pipeline_folder), "--dataset_name", str(digits_folder)]
        folders += ["--output", str(tmp_path / "m.json"), "--cache_dir", str(tmp_path / "cache")]
        folders += ["--figure", str(tmp_path / f"{name}.png"), "--num_images", "100"]
        main(["study", name, *folders, *map(str, options)])

    return run


def refused(capsys, run, *arguments: object) -> str:
    """The one line of an error that ends the program with status 2."""
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    return " ".join(capsys.readouterr().err.split())


class TestMeanOnly:
    @pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
    def test_a_step_is_the_mean_of_the_posterior(self, prediction_type):
        """Of q(z_{t-1} | z_t, x0), written down by Bayes' rule for two Gaussians: precisions add."""
        pipe = gaussian_pipeline(prediction_type)
        scheduler = mean_only_scheduler(pipe)
        scheduler.set_timesteps(20)
        table = scheduler.alphas_cumprod.double()
        x0, eps = noise(7, 2, seed=1).double(), noise(7, 2, seed=2).double()
        for t, before in zip(scheduler.timesteps[:-1].tolist(), scheduler.timesteps[1:].tolist(), strict=True):
            a, a_before = table[t], table[before]
            z = a.sqrt() * x0 + (1 - a).sqrt() * eps
            outputs = {"epsilon": eps, "sample": x0, "v_prediction": a.sqrt() * eps - (1 - a).sqrt() * x0}
            found = scheduler.step(outputs[prediction_type], t, z, generator=torch.Generator().manual_seed(t))
            step = a / a_before  # z_t = sqrt(step) z_{t-1} + sqrt(1 - step) noise
            of_prior, of_likelihood = 1 / (1 - a_before), step / (1 - step)
            mean = (of_prior * a_before.sqrt() * x0 + of_likelihood * z / step.sqrt()) / (of_prior + of_likelihood)
            torch.testing.assert_close(found.prev_sample, mean, rtol=1e-3, atol=1e-5)

    def test_the_noise_is_what_keeps_the_variance(self):
        """Of standard Gaussian data and its exact denoiser, DDPM and DDIM give the variance, the mean alone less."""
        pipe = gaussian_pipeline("epsilon")
        spread = {}
        for name, scheduler in (
            ("ddpm", pipe.make_scheduler(DDPMScheduler)),
            ("ddim", pipe.make_scheduler(DDIMScheduler)),
            ("mean only", mean_only_scheduler(pipe)),
        ):
            pipe.scheduler = scheduler
            generator = torch.Generator().manual_seed(0)
            drawn = pipe(num_images_per_label=4000, num_inference_steps=200, generator=generator, output_type="latent")
            spread[name] = drawn.images.std().item()
        assert spread["ddpm"] == pytest.approx(1, abs=0.05)
        assert spread["ddim"] == pytest.approx(1, abs=0.05)
        assert spread["mean only"] < 0.5

    def test_is_known_from_ddpm(self, tiny):
        """Another key for the cache of samples, and the class itself is left alone."""
        keys = [fingerprint(public_config(make())) for make in (lambda: mean_only_scheduler(tiny), lambda: ddpm(tiny))]
        assert keys[0] != keys[1]
        assert ddpm(tiny)._get_variance(500) > 0


def ddpm(pipe):
    return pipe.make_scheduler(DDPMScheduler)


def gaussian_pipeline(prediction_type: str) -> mgp.ClassifierGuidedLatentPipeline:
    """Standard Gaussian data in the plane, with the exact denoiser."""
    scheduler = DDPMScheduler(prediction_type=prediction_type, clip_sample=False, timestep_spacing="trailing")
    denoiser = mgp.MixtureDenoiser([1.0], [[0.0, 0.0]], [[[1.0, 0.0], [0.0, 1.0]]], [0], prediction_type)
    pipe = mgp.ClassifierGuidedLatentPipeline(None, denoiser, None, scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


class TestSamplingStudies:
    def test_settings_differ_in_what_is_studied_alone(self):
        base = SamplingSettings(100, seed=3, num_inference_steps=7)
        etas = eta_runs(base, (0.0, 0.5), (4,))
        assert etas["study-eta/num_inference_steps=4,eta=0.5"] == SamplingSettings(100, 3, "DDIMScheduler", 4, eta=0.5)
        scales = scale_runs(base, (0.0, 2.0), (0.0, 1.0))
        assert scales["study-scale/cfg_scale=0,guidance_scale=2"] == SamplingSettings(
            100, 3, None, 7, guidance_scale=2.0, cfg_scale=0.0
        )
        assert len(scales) == 4

    def test_steps_prints_files_draws_and_continues(self, study, tmp_path, capsys):
        study("steps", "--num_inference_steps", 2, 3)
        printed = capsys.readouterr().out
        assert printed.count("| 100 generated") == 4
        assert list(read_runs(tmp_path / "m.json")) == [
            f"study-steps/scheduler={name}Scheduler,num_inference_steps={count}"
            for name in ("DDPM", "DDIM")
            for count in (2, 3)
        ]
        with PILImage.open(tmp_path / "steps.png") as picture:
            assert picture.size[0] > 1000
        study("steps", "--num_inference_steps", 2, 3, "--force")
        assert capsys.readouterr().out.count("already, kept") == 4

    def test_mean_only_names_its_own_line(self, study, tmp_path, capsys):
        study("mean-only", "--num_inference_steps", 3)
        runs = read_runs(tmp_path / "m.json")
        assert [run["settings"]["scheduler"] for run in runs.values()] == [
            "DDPMScheduler",
            "DDIMScheduler",
            "DDPM without its noise",
        ]
        assert runs["study-mean-only/ddpm-mean-only"]["command"].startswith("mnist-guided study mean-only")
        assert (tmp_path / "mean-only.png").is_file()
        assert "DDPM without its noise" in capsys.readouterr().out
        study("mean-only", "--num_inference_steps", 3, "--force")
        assert capsys.readouterr().out.count("already, kept") == 3

    def test_mistakes(self, study, tmp_path, capsys):
        assert "colours" in refused(capsys, main, ["study", "colours"])
        assert "at least two settings" in refused(capsys, study, "eta", "--values", 0.5, "--num_inference_steps", 2)
        assert "eta" in refused(capsys, study, "eta", "--values", 0, 2)
        assert "num_images must be at least 100" in refused(capsys, study, "eta", "--num_images", 50)
        assert "is not the folder of a judge" in refused(capsys, study, "scale", "--judge", tmp_path)
        (tmp_path / "eta.png").write_text("mine")
        assert "exists; overwrite it with --force" in refused(capsys, study, "eta")
        assert (tmp_path / "eta.png").read_text() == "mine"

    def test_a_judge_of_other_classes(self, study, tmp_path, capsys):
        features = Features({"image": Image(), "label": ClassLabel(names=["shirt", "boot"])})
        for split in ("train", "test"):
            write_split(tmp_path / "clothes", split, [PILImage.new("L", (28, 28))] * 2, [0, 1], features)
        line = refused(capsys, study, "eta", "--dataset_name", tmp_path / "clothes")
        assert "The judge names the classes 0, 1, 2" in line and "the data set shirt, boot" in line
        assert not (tmp_path / "m.json").exists()


class TestTrainingTime:
    def test_is_the_sum_over_the_history(self, tmp_path):
        lines = [
            {"step": 10, "images_per_second": 100.0},
            {"step": 10, "test/loss": 1.0},
            {"step": 30, "images_per_second": 50.0},
        ]
        settings = {"train_batch_size": 5, "gradient_accumulation_steps": 2}
        for step in ("vae", "denoiser"):
            folder = tmp_path / "pipeline" / "steps" / step
            folder.mkdir(parents=True)
            (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            (folder / "train_config.json").write_text(json.dumps(settings))
        seconds = 10 * 10 / 100 + 20 * 10 / 50
        assert training_seconds(tmp_path / "pipeline" / "steps" / "vae") == seconds
        assert training_seconds(tmp_path / "pipeline") == 2 * seconds
        shutil.rmtree(tmp_path / "pipeline" / "steps" / "vae")
        (tmp_path / "pipeline" / "steps" / "vae").mkdir()
        assert training_seconds(tmp_path / "pipeline") is None
        assert training_seconds(tmp_path) is None


class TestSystems:
    def test_side_by_side(self, tiny_pipeline_folder, digits_folder, tmp_path, capsys):
        torch.manual_seed(0)
        mgp.MLPVAE(latent_dim=3, hidden_size=8, variational=False).save_pretrained(tmp_path / "plain")
        mgp.MLPVAE(latent_dim=3, hidden_size=8).save_pretrained(tmp_path / "vae")
        generator = mgp.GANGenerator(latent_dim=4, hidden_sizes=[8], num_classes=10)
        generator.save_pretrained(tmp_path / "gan")
        denoiser = mgp.MLPDenoiser(sample_shape=(1, 28, 28), hidden_size=8, num_classes=10)
        scheduler = DDPMScheduler(prediction_type="sample", clip_sample=False)
        pixel = mgp.ClassifierGuidedLatentPipeline(None, denoiser, None, scheduler)
        pixel.register_to_config(sampling_defaults={"num_inference_steps": 2})
        pixel.save_pretrained(tmp_path / "pixel")
        output, figure = tmp_path / "m.json", tmp_path / "systems.png"
        options = ["--output", str(output), "--figure", str(figure), "--dataset_name", str(digits_folder)]
        options += ["--latent", str(tiny_pipeline_folder), "--cache_dir", str(tmp_path / "cache")]
        options += ["--num_images", "100"]
        for name, folder in (("autoencoder", "plain"), ("vae", "vae"), ("gan", "gan"), ("pixel", "pixel")):
            options += [f"--{name}", str(tmp_path / folder)]
        main(["study", "systems", *options])
        rows = read_runs(output)["study-systems"]["figures"]["rows"]
        assert list(rows) == [
            *("autoencoder plain", "VAE vae", "GAN gan", "pixel diffusion pixel", "latent diffusion tiny"),
            "real training images",
        ]
        assert rows["GAN gan"]["parameters"] == sum(weight.numel() for weight in generator.parameters())
        assert rows["pixel diffusion pixel"]["parameters"] == sum(weight.numel() for weight in denoiser.parameters())
        assert ["accuracy" in row for row in rows.values()] == [False, False, True, True, True, False]
        assert all(row["judge_fid"]["value"] > 0 for row in rows.values())
        assert str(tmp_path) not in output.read_text()
        assert figure.is_file()
        assert "| VAE vae" in capsys.readouterr().out

    def test_mistakes(self, tiny_pipeline_folder, tmp_path, capsys):
        systems = ["study", "systems", "--figure", str(tmp_path / "a.png"), "--output", str(tmp_path / "m.json")]
        assert "Give one of --autoencoder" in refused(capsys, main, systems)
        assert "no model_index.json" in refused(capsys, main, [*systems, "--pixel", str(tmp_path)])
        assert "no config.json" in refused(capsys, main, [*systems, "--vae", str(tmp_path)])


class TestFaults:
    def test_a_scale_of_each_step(self, tiny):
        """A constant one is the pipeline's own; the first step is too noisy to be guided in either."""
        from fault_hooks import scaled

        tiny.scheduler = tiny.make_scheduler(DDIMScheduler)
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
        last = tiny.scheduler.alphas_cumprod[tiny.scheduler.timesteps[-1]]
        assert seen == [pytest.approx((1 - last).sqrt().item())]

    def test_clamping_and_unit_range(self, tiny):
        from fault_hooks import clamped, images_in_unit_range

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
            "output": str(tmp_path / "m.json"),
            "dataset_name": str(digits_folder),
            "max_train_steps": 12,
            "max_train_samples": 300,
            "num_images": 100,
        }

    def test_variants_are_trained_once_and_measured_alike(self, common, tmp_path, monkeypatch, capsys):
        from run_study import StudyConfig
        from run_study import main as run
        from study_variants import STUDIES

        whole = STUDIES["schedules"]
        quick = {"": {"scheduler": "DDPMScheduler", "num_inference_steps": 3}}
        two = {name: whole.variants[name]._replace(drawings=quick) for name in ("linear", "sigmoid")}
        monkeypatch.setitem(STUDIES, "schedules", whole._replace(variants=two))
        run(StudyConfig("schedules", **common))
        printed = capsys.readouterr().out
        record = read_runs(tmp_path / "m.json")["study-schedules"]
        assert list(record["figures"]["rows"]) == ["linear", "sigmoid", "real training images"]
        settings = [
            json.loads((tmp_path / "study" / "variants" / name / "denoiser" / "train_config.json").read_text())
            for name in ("linear", "sigmoid")
        ]
        assert {key for key, value in settings[0].items() if settings[1][key] != value} == {
            "beta_schedule",
            "output_dir",
        }
        assert printed.count(": training") == 2
        run(StudyConfig("schedules", **common))
        again = capsys.readouterr().out
        assert again.count("finished before, kept") == 2
        assert read_runs(tmp_path / "m.json")["study-schedules"] == record
        text = "<!-- metrics:study-schedules rows --><!-- /metrics -->"
        assert "| sigmoid" in render_document(text, read_runs(tmp_path / "m.json"))
        assert (tmp_path / "study" / "study-schedules.png").is_file()
        assert str(tmp_path) not in (tmp_path / "m.json").read_text()

    def test_all_faults(self, common, tmp_path, capsys):
        from run_faults import FaultsConfig
        from run_faults import main as run

        run(FaultsConfig(num_inference_steps=3, **common))
        runs = read_runs(tmp_path / "m.json")
        assert len(runs["faults"]["figures"]["rows"]) == 8
        assert len(runs["faults-figures"]["figures"]["rows"]) == 11
        assert "| gradient subtracted" in capsys.readouterr().out
        assert (tmp_path / "study" / "study-faults.png").is_file()

    def test_every_variant_is_sound(self):
        """Settings that the scripts take, and drawings that the sampling takes; nothing is trained."""
        from study_variants import STUDIES

        for study in STUDIES.values():
            for variant in study.variants.values():
                for settings in filter(None, (variant.denoiser, variant.vae)):
                    settings.report_to = "none"
                    settings.check()
                for options in variant.drawings.values():
                    SamplingSettings(100, **options)

    def test_judges_of_other_classes_are_refused(self):
        from mnist_guided_pipeline.evaluation.judge import load_judge

        with pytest.raises(ValueError, match="the data set shirt, boot"):
            check_judge(load_judge(), ("shirt", "boot"))


@pytest.fixture(scope="module")
def trained(digits_folder, tmp_path_factory):
    """A short training with every checkpoint kept."""
    import train_pipeline

    folder = tmp_path_factory.mktemp("trained") / "pipeline"
    train_pipeline.main(
        train_pipeline.PipelineConfig(
            str(folder),
            preset="debug",
            dataset_name=str(digits_folder),
            checkpointing_steps=10,
            checkpoints_total_limit=None,
            report_to="none",
        )
    )
    return folder


class TestQualityAgainstTrainingTime:
    def test_the_averaged_weights_of_the_last_checkpoint_are_the_result(self, trained):
        """The run ends at a checkpoint, and what it saves is the average."""
        result = mgp.MLPDenoiser.from_pretrained(trained / "denoiser")
        network = mgp.MLPDenoiser.from_config(result.config)
        for update, same in ((10, False), (30, True)):
            checkpoint = trained / "steps" / "denoiser" / f"checkpoint-{update}"
            read_averaged_weights(checkpoint, "denoiser", network)
            pairs = zip(network.parameters(), result.parameters(), strict=True)
            assert all(torch.equal(found, expected) for found, expected in pairs) == same

    def test_minutes_are_of_all_networks_and_of_the_denoiser_so_far(self, trained):
        stages = training_stages(trained, 10)
        assert [stage.update for stage in stages] == [10, 20, 30]
        minutes = [stage.minutes for stage in stages]
        assert minutes == sorted(minutes) and minutes[0] > 0
        assert minutes[-1] == pytest.approx(training_seconds(trained) / 60)
        assert [stage.update for stage in training_stages(trained, 2)] == [10, 30]

    def test_the_study_files_every_stage(self, trained, digits_folder, tmp_path):
        output, figure = tmp_path / "m.json", tmp_path / "curve.png"
        options = ["--model", trained, "--dataset_name", digits_folder, "--output", output, "--figure", figure]
        options += ["--num_images", 100, "--cache_dir", tmp_path / "cache"]
        main(["study", "training-time", "--count", "3", *map(str, options)])
        records = read_runs(output)
        assert list(records) == [f"study-training-time/update={update}" for update in (10, 20, 30)]
        assert len({record["model"]["fingerprint"] for record in records.values()}) == 3
        assert all("study training-time" in record["command"] for record in records.values())
        assert figure.is_file()
        render_document("<!-- metrics:study-training-time -->\n<!-- /metrics -->", records)

    def test_a_folder_without_steps_is_refused(self, study, capsys):
        assert "must be a folder that train_pipeline.py wrote" in refused(capsys, study, "training-time")

    def test_checkpoints_that_were_not_kept_are_missed(self, trained, tmp_path):
        copy = tmp_path / "copy"
        shutil.copytree(trained, copy)
        for checkpoint in (copy / "steps" / "denoiser").glob("checkpoint-[12]0"):
            shutil.rmtree(checkpoint)
        with pytest.raises(ValueError, match="has 1 checkpoints, a curve takes two or more: train by"):
            training_stages(copy, 10)

    def test_weights_of_another_network_are_refused(self, trained):
        with pytest.raises(ValueError, match="has no averaged weights of this MLPDenoiser"):
            read_averaged_weights(
                trained / "steps" / "denoiser" / "checkpoint-10", "denoiser", mgp.MLPDenoiser((8,), hidden_size=65)
            )


class TestSpacing:
    def test_steps_lie_where_they_are_said_to(self, tiny):
        """All begin in noise and end near the data; those by noise are even in what they are named for."""
        places = {}
        for spacing, options in SPACINGS.items():
            scheduler = tiny.make_scheduler(DPMSolverMultistepScheduler, **options)
            scheduler.set_timesteps(10)
            places[spacing] = scheduler.sigmas[:10].double()
        assert all((sigmas.diff() < 0).all() for sigmas in places.values())
        gaps = {
            "karras": (places["karras"] ** (1 / 7)).diff(),
            "exponential": places["exponential"].log().diff(),
        }
        for gap in gaps.values():
            torch.testing.assert_close(gap, gap.mean().expand_as(gap), rtol=0.15, atol=0)  # timesteps are whole
        assert len({tuple(sigmas.tolist()) for sigmas in places.values()}) == len(places)

    def test_every_spacing_is_measured_and_filed(self, study, tmp_path, capsys):
        study("spacing", "--num_inference_steps", 2, 4)
        records = read_runs(tmp_path / "m.json")
        assert list(records) == [f"study-spacing/{spacing},{count}" for spacing in SPACINGS for count in (2, 4)]
        assert records["study-spacing/karras,2"]["scheduler_config"]["use_karras_sigmas"]
        assert not records["study-spacing/trailing,2"]["scheduler_config"]["use_karras_sigmas"]
        command = records["study-spacing/trailing,2"]["command"]
        assert command.startswith("mnist-guided study spacing --num_inference_steps 2 4")
        assert (tmp_path / "spacing.png").is_file()
        assert "DPM-Solver++, karras" in capsys.readouterr().out.replace("Scheduler", "")
