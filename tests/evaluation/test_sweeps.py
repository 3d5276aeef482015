"""Sweeps: lines and axes follow from what varied, the best settings from the figures, and a pipeline takes them up."""

import json
import math

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from PIL import Image

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.cli import main
from mnist_guided_pipeline.evaluation.records import write_run
from mnist_guided_pipeline.evaluation.samples import SamplingSettings
from mnist_guided_pipeline.evaluation.sweeps import (
    best_defaults,
    check_sweep,
    seconds_per_thousand,
    store_defaults,
    sweep_lines,
    varied_settings,
)
from mnist_guided_pipeline.storage.atomic import verify_manifest, write_manifest


def record(fid: float, accuracy: float = 0.99, images: int = 2000, **settings) -> dict:
    """What ``evaluate`` files of a run, as far as sweeps read it."""
    chosen = {"num_images": images, "scheduler": "DDIMScheduler", "num_inference_steps": 20, "guidance_scale": 1.0}
    return {
        "settings": {**chosen, "guidance_interval": None, "cfg_scale": 1.0, "eta": 0.0, **settings},
        "figures": {
            "accuracy": {"value": accuracy, "interval": [accuracy - 0.005, accuracy + 0.005]},
            "judge_fid": {"value": fid},
            "judge_coverage": {"value": 0.9 - fid / 10},
            "images_per_second": {"value": 400.0},
        },
        "floors": {
            "judge": {"accuracy": {"value": 0.997}},
            "vae_reconstructions": {"accuracy": {"value": 0.994}, "judge_fid": {"value": 0.08}},
            "real_training_images": {"judge_fid": {"value": 0.03}},
        },
    }


@pytest.fixture
def scales() -> dict[str, dict]:
    """Two schedulers over three scales: agreement grows with the scale, and the distance has a valley."""
    figures = {0.0: (0.5, 0.96), 1.0: (0.2, 0.993), 4.0: (0.6, 0.999)}
    names = ("DDIMScheduler", "DDPMScheduler")
    return {
        f"scales/scheduler={name},guidance_scale={scale:g}": record(fid, accuracy, scheduler=name, guidance_scale=scale)
        for name in names
        for scale, (fid, accuracy) in figures.items()
    }


class TestLines:
    def test_what_varied(self, scales):
        assert varied_settings(scales) == ["scheduler", "guidance_scale"]
        older = record(0.1)
        del older["settings"]["eta"]
        assert varied_settings({"a": older, "b": record(0.2)}) == []

    def test_a_line_for_each_set_of_other_settings(self, scales):
        lines = sweep_lines(dict(reversed(scales.items())), "guidance_scale")
        assert lines.keys() == {"DDIM", "DDPM"}
        for line in lines.values():
            assert [run["settings"]["guidance_scale"] for run in line] == [0.0, 1.0, 4.0]
        one = sweep_lines({"a": record(0.1, num_inference_steps=5), "b": record(0.1)}, "num_inference_steps")
        assert list(one) == [""]

    def test_labels_name_steps_levels_and_options(self):
        runs = {
            str(index): record(0.1, **settings)
            for index, settings in enumerate(
                [
                    {"guidance_interval": [None, 5.0], "guidance_scale": 2.0},
                    {"num_inference_steps": 5, "guidance_rescale": 0.7},
                ]
            )
        }
        assert list(sweep_lines(runs, "guidance_scale")) == [
            "20 steps, levels 0-5, rescale 0",
            "5 steps, all levels, rescale 0.7",
        ]

    def test_time_is_of_a_thousand_images(self):
        assert seconds_per_thousand(record(0.1)) == 2.5

    def test_refuses_what_is_no_sweep(self, scales):
        with pytest.raises(ValueError, match="it is one run"):
            check_sweep({"a": record(0.1)}, "a")
        with pytest.raises(ValueError, match="have 1000, 2000 images"):
            check_sweep({**scales, "b": record(0.1, images=1000)}, "scales")
        with pytest.raises(ValueError, match="'table' is not of it"):
            check_sweep({**scales, "table": {"figures": {}, "settings": {}}}, "scales")


class TestBest:
    def test_the_smallest_distance_that_reads_well(self, scales):
        assert best_defaults(scales) == {
            name: {"guidance_scale": 1.0, "num_inference_steps": 20} for name in ("DDIMScheduler", "DDPMScheduler")
        }
        near = {"a": record(0.1, accuracy=0.98, guidance_scale=0.3), **scales}  # nearer, but often the wrong digit
        assert best_defaults(near)["DDIMScheduler"]["guidance_scale"] == 1.0

    def test_where_nothing_reads_well_the_distance_decides(self):
        runs = {"a": record(0.4, accuracy=0.9, guidance_scale=2.0), "b": record(0.5, accuracy=0.95)}
        assert best_defaults(runs)["DDIMScheduler"]["guidance_scale"] == 2.0

    def test_fewer_steps_where_more_do_not_help(self):
        fids = {5: 0.4, 10: 0.208, 20: 0.201, 50: 0.2}
        runs = {str(steps): record(fid, 0.994, num_inference_steps=steps) for steps, fid in fids.items()}
        assert best_defaults(runs)["DDIMScheduler"]["num_inference_steps"] == 10

    def test_an_open_interval_comes_back_as_numbers(self):
        runs = {"a": record(0.1, 0.995, guidance_interval=[0.2, None]), "b": record(0.3)}
        assert best_defaults(runs)["DDIMScheduler"]["guidance_interval"] == [0.2, math.inf]

    def test_options_are_no_defaults(self):
        runs = {"a": record(0.1, 0.995, eta=1.0), "b": record(0.3, 0.995)}
        assert best_defaults(runs)["DDIMScheduler"] == {"guidance_scale": 1.0, "num_inference_steps": 20}
        with pytest.raises(ValueError, match="Every run sets one of cfg_scale, eta"):
            best_defaults({"a": record(0.1, eta=1.0)})


class TestStored:
    @pytest.fixture
    def folder(self, tiny_pipeline_folder, tmp_path):
        mgp.ClassifierGuidedLatentPipeline.from_pretrained(tiny_pipeline_folder).save_pretrained(tmp_path / "pipe")
        return tmp_path / "pipe"

    def test_a_scheduler_brings_its_own_defaults(self, folder):
        write_manifest(folder)
        best = {"guidance_scale": 3.0, "num_inference_steps": 4, "guidance_interval": [0.0, 9.0]}
        store_defaults(folder, {"EulerDiscreteScheduler": best})
        store_defaults(folder, {"DDIMScheduler": {"guidance_scale": 2.0}})
        assert verify_manifest(folder)
        pipe = mgp.ClassifierGuidedLatentPipeline.from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        every = (0.0, math.inf)
        own = {"guidance_scale": 1.0, "num_inference_steps": 3, "guidance_interval": every}
        assert pipe.sampling_defaults == own
        assert pipe.sampling_defaults == {**own, "guidance_scale": 2.0}
        pipe.scheduler = pipe.make_scheduler(EulerDiscreteScheduler)
        noise = torch.randn(1, 4, generator=torch.Generator().manual_seed(0))
        by_default = pipe(3, latents=noise, output_type="latent").images
        assert pipe.num_timesteps == 4
        said = {**best, "guidance_interval": (0.0, 9.0)}
        assert torch.equal(by_default, pipe(3, latents=noise, output_type="latent", **said).images)

    def test_evaluation_resolves_as_the_pipeline_does(self, folder):
        store_defaults(folder, {"EulerDiscreteScheduler": {"guidance_scale": 3.0, "guidance_interval": [0.1, 9.0]}})
        pipe = mgp.ClassifierGuidedLatentPipeline.from_pretrained(folder)
        resolved = SamplingSettings(num_images=10, scheduler="EulerDiscreteScheduler").resolved(pipe)
        assert (resolved.guidance_scale, resolved.num_inference_steps) == (3.0, 3)
        assert resolved.guidance_interval == (0.1, 9.0)
        assert SamplingSettings(num_images=10).resolved(pipe).guidance_scale == 1.0
        every = SamplingSettings(10, scheduler="EulerDiscreteScheduler", guidance_interval=(0.0, math.inf))
        assert every.resolved(pipe).call_arguments()["guidance_interval"] == (0.0, math.inf)  # said aloud, it holds
        assert every.resolved(pipe).to_dict()["guidance_interval"] is None

    def test_no_classifier_no_scale(self, folder):
        pipe = mgp.ClassifierGuidedLatentPipeline.from_pretrained(folder, classifier=None)
        assert pipe.sampling_defaults["guidance_scale"] == 0.0


class TestFigure:
    @pytest.mark.parametrize(
        ("varied", "titles"),
        [
            (
                {"guidance_scale": [0.0, 1.0]},
                ["Accuracy against distance, by guidance scale", "Variety against guidance scale"],
            ),
            ({"num_inference_steps": [5, 10]}, ["Quality against steps", "Quality against time"]),
            ({"scheduler": ["A", "B"]}, ["Accuracy against distance", "Quality against time"]),
            (
                {"num_inference_steps": [5, 10], "guidance_scale": [0.0, 1.0]},
                [
                    "Quality against steps",
                    "Quality against time",
                    "Accuracy against distance, by guidance scale",
                    "Variety against guidance scale",
                ],
            ),
        ],
    )
    def test_axes_follow_from_what_varied(self, varied, titles):
        pytest.importorskip("matplotlib")
        from mnist_guided_pipeline.figures.sweeps import sweep_figure

        pairs = zip(*varied.values(), strict=True)
        runs = {f"s/{i}": record(0.1 + i, **dict(zip(varied, pair, strict=True))) for i, pair in enumerate(pairs)}
        assert [axes.get_title(loc="left") for axes in sweep_figure(runs).axes] == titles

    def test_draws_the_values(self, scales):
        pytest.importorskip("matplotlib")
        from mnist_guided_pipeline.figures.sweeps import sweep_figure

        left, right = sweep_figure(scales).axes
        lines = {line.get_label(): line for line in left.get_lines()}
        assert lines["DDPM"].get_xdata().tolist() == [0.5, 0.2, 0.6]
        assert lines["DDPM"].get_ydata().tolist() == [0.96, 0.993, 0.999]
        assert [line.get_label() for line in right.get_lines()] == ["DDIM", "DDPM"]


class TestCommands:
    @pytest.fixture
    def file(self, scales, tmp_path):
        for name, run in scales.items():
            write_run(tmp_path / "sweep.jsonl", name, run)
        return tmp_path / "sweep.jsonl"

    def test_sweep_draws(self, file, tmp_path, capsys):
        pytest.importorskip("matplotlib")
        main(["figure", "sweep", str(file), "--name", "scales", "--output", str(tmp_path / "scales.png")])
        assert "6 runs of scales" in capsys.readouterr().out
        with Image.open(tmp_path / "scales.png") as picture:
            assert picture.size[0] > 1000

    def test_tune_prints_and_stores(self, file, tiny_pipeline_folder, tmp_path, capsys):
        pipe = mgp.ClassifierGuidedLatentPipeline.from_pretrained(tiny_pipeline_folder)
        pipe.save_pretrained(tmp_path / "pipe")
        main(["tune", str(file), "--name", "scales"])
        assert "DDPMScheduler: guidance_scale 1.0, num_inference_steps 20" in capsys.readouterr().out
        assert "schedulers" not in json.loads((tmp_path / "pipe" / "model_index.json").read_text())["sampling_defaults"]
        main(["tune", str(file), "--name", "scales", "--model", str(tmp_path / "pipe")])
        tuned = mgp.ClassifierGuidedLatentPipeline.from_pretrained(tmp_path / "pipe")
        assert tuned.sampling_defaults["num_inference_steps"] == 20

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["tune", "nothing.json", "--name", "scales"], "There is no file of measurements"),
            (["tune", "sweep.jsonl", "--name", "steps"], "no run or group 'steps'"),
            (["tune", "sweep.jsonl", "--name", "scales", "--model", "nowhere"], "there is no folder"),
            (["figure", "sweep", "sweep.jsonl", "--name", "scales", "--output", "a.txt"], "suffix of an image format"),
            (["figure", "sweep", "no.json", "--name", "scales", "--output", "a.png"], "There is no file"),
        ],
    )
    def test_bad_options(self, file, tmp_path, monkeypatch, capsys, arguments, message):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert message in " ".join(capsys.readouterr().err.split())
        assert [path.name for path in tmp_path.iterdir()] == ["sweep.jsonl"]
