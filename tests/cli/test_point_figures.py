"""From a set of points to a film of them: training, figures, and refusals."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.cli import main
from mnist_guided_pipeline.evaluation.records import read_runs
from mnist_guided_pipeline.evaluation.tables import render_view
from mnist_guided_pipeline.training.history import read_history, training_seconds
from mnist_guided_pipeline.training.presets import PRESETS
from mnist_guided_pipeline.weights import DEFAULT_FOLDER
from training_runs import own_signals


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """Two pipelines as ``train_pipeline.py`` leaves them, of fewer updates: one shape, and classes with a guide."""
    import train_pipeline

    root = tmp_path_factory.mktemp("points")
    short = {"max_train_steps": 300, "validation_steps": 150, "lr_warmup_steps": 10, "train_batch_size": 128}
    with pytest.MonkeyPatch.context() as patch:
        for preset, dataset_name in (("points-dino", None), ("points-moons", "points:mixture")):
            steps = {name: getattr(PRESETS[preset], name) for name in ("denoiser", "classifier")}
            fewer = {name: dataclasses.replace(step, ema_decay=0.98, **short) for name, step in steps.items() if step}
            patch.setitem(PRESETS, preset, PRESETS[preset]._replace(**fewer))
            config = train_pipeline.PipelineConfig(
                output_dir=str(root / preset), preset=preset, dataset_name=dataset_name, report_to="none"
            )
            with own_signals():
                train_pipeline.main(config)
            history = read_history(root / preset / "steps" / "denoiser")
            first, last = (event["test/loss"] for event in history if "test/loss" in event)
            assert last < first
    return {"dino": root / "points-dino", "mixture": root / "points-moons"}


def figure(*arguments: object) -> None:
    main(["figure", *map(str, arguments)])


def rows_of(printed: str) -> list[list[str]]:
    """The cells of a printed table, without its head."""
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


class TestTraining:
    def test_pipelines_are_what_the_preset_says(self, runs):
        dino = mgp.ClassifierGuidedLatentPipeline.from_pretrained(runs["dino"])
        assert dino.vae is None
        assert dino.classifier is None
        assert dino.id2label == {0: "dino"}
        mixture = mgp.ClassifierGuidedLatentPipeline.from_pretrained(runs["mixture"])
        assert isinstance(mixture.denoiser, mgp.PointDenoiser)
        assert mixture.classifier.config.num_classes == 8
        assert mixture.id2label[2] == "N"


class TestFigures:
    def test_samples_over_data_and_their_distance(self, runs, tmp_path, capsys):
        figure("points", "--model", runs["dino"], "--output", tmp_path / "dino.png", "--num_points", 500)
        with Image.open(tmp_path / "dino.png") as picture:
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 2
        ((title, count, distance, floor),) = rows_of(capsys.readouterr().out)
        assert (title, count) == ("", "500")
        assert 0 < float(floor) < float(distance) < 1

    def test_a_row_a_guidance_scale(self, runs, tmp_path, capsys):
        options = ("--guidance_scale", 0, 1, "--num_points", 400, "--num_inference_steps", 20)
        figure("points", "--model", runs["mixture"], "--output", tmp_path / "mixture.png", *options)
        off, on = rows_of(capsys.readouterr().out)
        assert (off[0], on[0]) == ("guidance_scale 0", "guidance_scale 1")
        assert float(on[2]) < float(off[2])
        unguided, guided, real = (float(cell) for cell in (off[4], on[4], on[5]))
        assert unguided < 0.3 < 0.7 < guided
        assert real > 0.98

    def test_trajectory(self, runs, tmp_path, capsys):
        options = ("--show", "trajectory", "--num_frames", 3, "--num_points", 1000)
        figure("points", "--model", runs["mixture"], "--output", tmp_path / "steps.png", *options)
        assert "3 panels of 1000 points" in capsys.readouterr().out
        with Image.open(tmp_path / "steps.png") as picture:
            assert picture.width > 2 * picture.height

    def test_film(self, runs, tmp_path, capsys):
        output = tmp_path / "dino.gif"
        options = ("--num_frames", 8, "--num_inference_steps", 30, "--num_points", 200, "--fps", 10)
        figure("points", "--show", "animation", "--model", runs["dino"], "--output", output, *options)
        frames = int(re.search(r"(\d+) frames", capsys.readouterr().out).group(1))
        assert 4 <= frames <= 8
        with Image.open(output) as picture:
            film = [np.asarray(frame.convert("L"), dtype=int) for frame in ImageSequence.Iterator(picture)]
            assert film[0].shape == (480, 480) and np.abs(film[0] - film[-1]).mean() > 1
            assert len(film) == frames and picture.info["duration"] == 1600  # the last stays for 1.5 s more
            picture.seek(0)
            assert picture.info["duration"] == 100

    def test_data_set_is_needed_where_the_folder_does_not_tell(self, runs, tmp_path, refused):
        mgp.ClassifierGuidedLatentPipeline.from_pretrained(runs["dino"]).save_pretrained(tmp_path / "bare")
        options = ("points", "--model", tmp_path / "bare", "--output", tmp_path / "dino.png", "--num_points", 100)
        assert "--dataset_name is needed" in refused("figure", *options)
        figure(*options, "--dataset_name", "points:dino")
        assert (tmp_path / "dino.png").is_file()

    @pytest.mark.parametrize(
        ("model", "options", "message"),
        [
            ("dino", "a.png --guidance_scale 2", "has no classifier; leave it out"),
            ("dino", "a.png --num_points 0", "--num_points must be at least 1"),
            ("mixture", "a.png --num_points 7", "--num_points must be at least 8"),
            ("mixture", "a.png --dataset_name points:moons", "has the classes upper, lower"),
            ("dino", "a.png --dataset_name ylecun/mnist", "is not one of points"),
            ("dino", "a.png --show trajectory --num_frames 1", "--num_frames must be at least 2"),
            ("mixture", "a.png --show trajectory --guidance_scale 0 1", "of a trajectory is one number, got 2"),
            ("dino", "a.png --show animation", "must end in .gif"),
            ("dino", "a.gif --show animation --fps 0", "--fps must be from 1 to 50, got 0"),
        ],
    )
    def test_refusals(self, runs, tmp_path, monkeypatch, refused, model, options, message):
        monkeypatch.chdir(tmp_path)
        assert message in refused("figure", "points", "--model", runs[model], "--output", *options.split())
        assert not list(tmp_path.iterdir())

    def test_images_are_no_points(self, tiny_pipeline_folder, tmp_path, refused):
        options = ("--model", tiny_pipeline_folder, "--output", tmp_path / "a.png", "--dataset_name", "points:dino")
        assert "makes samples of shape (4,), not points in the plane" in refused("figure", "points", *options)


class TestStudy:
    def test_a_row_a_pipeline_with_its_floor(self, runs, tmp_path, capsys):
        output = tmp_path / "m.json"
        main(["study", "systems", "--model", *map(str, runs.values()), "--num_images", "200", "--output", str(output)])
        record = read_runs(output)["study-points"]
        rows = record["figures"]["rows"]
        assert list(rows) == [folder.name for folder in runs.values()]
        for name, row in rows.items():
            assert 0 < row["sliced_Wasserstein, real points"] < 0.5
            folder = next(path for path in runs.values() if path.name == name)
            assert row["training_minutes"] == pytest.approx(training_seconds(folder) / 60)
            assert row["points"] == 200 and row["seconds"] > 0
        assert render_view({"study-points": record}, "study-points", "rows") in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("models", "message"),
        [
            (["dino", "dino"], "of different names, got points-dino, points-dino"),
            (["dino", "mixture", str(DEFAULT_FOLDER)], "makes points; leave out --figure, and models of images"),
        ],
    )
    def test_refusals(self, runs, tmp_path, refused, models, message):
        models = [runs.get(model, model) for model in models]
        assert message in refused("study", "systems", "--model", *models, "--output", tmp_path / "m.json")
