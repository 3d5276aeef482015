"""Benchmarks: what is compared is the same work, counted exactly, and filed as it was measured. No speed is tested."""

import json
import math
import subprocess
import sys
import threading
from functools import partial
from multiprocessing import Pipe

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.benchmarks import sampling, workers
from mnist_guided_pipeline.benchmarks.cost import CostGrid, benchmark_cost, fit_line, knee
from mnist_guided_pipeline.benchmarks.loops import plain_sampling
from mnist_guided_pipeline.benchmarks.plan import plan_images
from mnist_guided_pipeline.benchmarks.timing import Timing, matrix_product, time_rounds
from mnist_guided_pipeline.cli import main
from mnist_guided_pipeline.evaluation.records import read_runs
from mnist_guided_pipeline.evaluation.tables import render_view
from mnist_guided_pipeline.figures.cost import cost_figure


@pytest.fixture
def few(monkeypatch):
    """As few images of everything as make a figure."""
    monkeypatch.setattr(sampling, "_PIXEL_IMAGES", 1)
    monkeypatch.setattr(sampling, "_PLAIN_IMAGES", 10)


class TestTiming:
    def test_tasks_take_turns_and_the_first_rounds_do_not_count(self):
        calls = []
        timings = time_rounds({name: partial(calls.append, name) for name in "abc"}, rounds=3, warm_up=2)
        assert "".join(calls) == "abc" * 5
        assert {timing.rounds for timing in timings.values()} == {3}
        assert all(0 <= timing.low <= timing.median <= timing.high for timing in timings.values())

    def test_median_and_spread(self):
        assert Timing.of([5.0, 1.0, 2.0]) == (2.0, 1.0, 5.0, 3)
        with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
            time_rounds({}, rounds=0)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_matrix_product_has_the_operations_it_says(self, dtype):
        product, operations = matrix_product(dtype, torch.device("cpu"), size=16)
        assert product().dtype == dtype
        assert operations == sampling.count_flops(product) == 2 * 16**3


def test_plain_loop_is_the_same_sampler():
    """On the same noise the yardstick draws the images that the pipeline draws, so the ratio compares equal work."""
    pipe = sampling.small_networks()
    scheduler = DDPMScheduler(20, beta_end=0.3, beta_schedule="linear", variance_type="fixed_large", clip_sample=False)
    pipe = mgp.ClassifierGuidedLatentPipeline(pipe.vae, pipe.denoiser, pipe.classifier, scheduler)
    pipe.set_progress_bar_config(disable=True)
    labels = torch.arange(10)
    torch.manual_seed(1)
    ours = pipe(labels, guidance_scale=2.0, num_inference_steps=20, output_type="pt").images
    torch.manual_seed(1)
    plain = plain_sampling(pipe.denoiser, pipe.classifier, pipe.vae, scheduler.alphas_cumprod, labels, 2.0)
    torch.testing.assert_close(ours, (plain * 0.5 + 0.5).clamp(0, 1), rtol=1e-4, atol=1e-5)
    assert ours.std() > 1e-3


def test_operations_of_an_image_are_those_of_its_layers():
    """Every step the denoiser forwards; where alpha is above the guard, the classifier forwards and backwards."""
    pipe = sampling.small_networks()
    guided = int((pipe.scheduler.alphas_cumprod.sqrt() >= 5e-3).sum())
    sizes = {
        network: sum(layer.weight.numel() for layer in network.modules() if isinstance(layer, torch.nn.Linear))
        for network in (pipe.denoiser, pipe.classifier, pipe.vae.decoder)
    }
    denoiser, classifier, decoder = sizes.values()
    assert 0 < guided < 20
    assert sampling.flops_per_image(pipe, 20) == 2 * (20 * denoiser + guided * 2 * classifier + decoder)


class TestWorkers:
    @pytest.mark.parametrize(("total", "parts"), [(10_000, 2), (7, 3), (2, 5), (1, 1)])
    def test_shares_are_as_equal_as_can_be(self, total, parts):
        shares = [workers.share(total, parts, index) for index in range(parts)]
        assert sum(shares) == total
        assert max(shares) - min(shares) <= 1

    def test_draws_every_image_once_and_every_class_alike(self):
        class Recorder:
            vae, id2label, calls = object(), {index: str(index) for index in range(10)}, []

            def __call__(self, labels, **options):
                self.calls.append((labels, options["num_inference_steps"]))

        workers.draw(Recorder(), 25, 10, steps=3)
        assert [len(labels) for labels, _ in Recorder.calls] == [10, 10, 5]
        drawn = [label for labels, _ in Recorder.calls for label in labels]
        assert drawn == [index % 10 for index in range(25)]
        assert {steps for _, steps in Recorder.calls} == {3}

    def test_a_process_draws_what_it_is_asked_for_and_stops_when_nobody_asks(self, monkeypatch):
        drawn = []
        monkeypatch.setattr(workers, "draw", lambda pipe, *request: drawn.append(request))
        ours, theirs = Pipe()
        before = torch.get_num_threads()
        thread = threading.Thread(target=workers._serve, args=(sampling.small_networks, theirs))
        thread.start()
        try:
            for request in [(5, 2), (0, 2)]:
                ours.send(request)
                assert ours.recv() is None
        finally:
            ours.close()
            thread.join()
            torch.set_num_threads(before)
        assert drawn == [(5, 2), (0, 2)]

    def test_refuses_no_process(self):
        with pytest.raises(ValueError, match="num_processes must be at least 1, got 0"):
            workers.DrawingProcesses(sampling.small_networks, 0)


class TestCost:
    def test_line_through_points_on_a_line(self):
        fit = fit_line([5, 10, 80], [0.5 + 0.02 * x for x in (5, 10, 80)])
        np.testing.assert_allclose([fit.fixed, fit.each, fit.residual], [0.5, 0.02, 0.0], atol=1e-9)

    def test_residual_is_the_largest_share(self):
        fit = fit_line([1, 2, 3], [1.0, 2.2, 3.0])
        line = [fit.fixed + fit.each * x for x in (1, 2, 3)]
        assert fit.residual == pytest.approx(max(abs(y / at - 1) for y, at in zip([1.0, 2.2, 3.0], line, strict=True)))
        assert fit.residual > 0.01

    def test_knee_is_the_first_within_a_quarter_of_the_best(self):
        cost = {1: 10.0, 10: 1.3, 100: 1.25, 1000: 1.0, 2000: 1.1}
        assert knee(list(cost), [size * each for size, each in cost.items()]) == 100
        assert knee([4], [1.0]) == 4

    def test_record_and_figure(self, tmp_path, capsys, tiny_pipeline_folder):
        pipe = mgp.ClassifierGuidedLatentPipeline.from_pretrained(tiny_pipeline_folder)
        grid = CostGrid((2, 4), 2, (2, 3), ((1, 2, 2), (2, 2, 2)), (1, 2, 4), 2)
        figures = benchmark_cost(pipe, 1, grid)
        points = figures["points"]
        assert [points[name]["x"] for name in points] == [[2, 4], [2, 3], [4, 8], [1, 2, 4]]
        assert figures["rows"]["images at a time"]["knee"] in (1, 2, 4)
        axes = cost_figure(figures).axes
        assert [panel.get_xlabel() for panel in axes] == [*list(points)[:3], "images at a time (log)"]
        for panel, (name, measured) in zip(axes, points.items(), strict=True):
            dots = panel.containers[0].lines[0]
            scale = 1e3 / np.asarray(measured["x"]) if name == "images at a time" else 1.0
            np.testing.assert_array_equal(dots.get_xdata(), measured["x"])
            np.testing.assert_allclose(dots.get_ydata(), np.asarray(measured["seconds"]) * scale)

        file = tmp_path / "metrics.json"
        file.write_text(json.dumps({"runs": {"benchmark-cost": {"figures": figures}, "other": {"figures": {}}}}))
        main(["figure", "cost", str(file), "--output", str(tmp_path / "cost.png")])
        assert (tmp_path / "cost.png").stat().st_size > 1000
        with pytest.raises(SystemExit):
            main(["figure", "cost", str(file), "--name", "other", "--output", str(tmp_path / "other.png")])
        assert "was not filed by mnist-guided benchmark cost" in capsys.readouterr().err


class TestPlan:
    def test_core_hours_are_work_and_starts(self):
        rows = plan_images(100.0, 36.0, 300.0, num_images=3_600_000, cores=(1, 10))["rows"]
        one, ten = rows["1 core"], rows["10 cores"]
        assert one["minutes"] == pytest.approx((36_000 + 36) / 60)
        assert ten["minutes"] == pytest.approx((3_600 + 36) / 60)
        assert one["core_hours"] == pytest.approx(10.01)
        assert ten["core_hours"] == pytest.approx(10.1)
        assert ten["share_spent_starting"] == "1.0 %"
        assert ten["images_a_process"] == 360_000
        assert plan_images(100.0, 0.0, 1.0, 1000, (3,), 500)["rows"]["3 cores"]["images_a_process"] == 500
        assert one["GB_as_uint8"] == pytest.approx(3.6 * 0.784)
        assert one["GB_as_PNG"] == pytest.approx(3.6 * 0.3)

    def test_needs_what_is_measured(self, tmp_path, capsys):
        with pytest.raises(SystemExit):
            main(["benchmark", "plan", "--output", str(tmp_path / "metrics.json")])
        assert "has no images_per_second_a_core; measure it on a CPU: mnist-guided benchmark sampling" in (
            capsys.readouterr().err.replace("\n", " ")
        )


def test_sampling_is_filed_and_planned_from(few, tmp_path, tiny_pipeline_folder, capsys):
    file = tmp_path / "metrics.json"
    model = ["--model", str(tiny_pipeline_folder)]
    options = ["--num_images", "4", "--rounds", "1", "--num_processes", "1", "--device", "cpu"]
    main(["benchmark", "sampling", *model, *options, "--output", str(file)])
    record = read_runs(file)["benchmark-sampling"]
    rows, figures = record["figures"]["rows"], record["figures"]
    assert record["command"].startswith("mnist-guided benchmark sampling --model ")
    assert str(tmp_path) not in json.dumps(record)
    assert rows[figures["fastest"]]["times_slower"] == pytest.approx(1.0)
    assert rows["matrix product, float32"]["share_of_float32_rate"] == pytest.approx(1.0)
    for row in rows.values():
        assert row["fastest_round"] <= row["seconds"] <= row["slowest_round"]
        assert math.isclose(row["GFLOP/s"] * 1e9, row["share_of_float32_rate"] * figures["matmul_flops_per_second"])
        if "images" in row:
            assert math.isclose(row["images_per_second"], row["images"] / row["seconds"])
    table = render_view(read_runs(file), "benchmark-sampling", "rows")
    assert table in capsys.readouterr().out
    assert table.count("\n") == len(rows) + 1
    timed = render_view(read_runs(file), "benchmark-sampling", "provenance")
    assert record["command"] in timed and "rounds 1" in timed and torch.__version__ in timed


def test_every_public_name_has_a_home():
    assert sorted(mgp._HOME_OF) == sorted(mgp.__all__)
    assert set(mgp.__all__) <= set(dir(mgp))
    assert not hasattr(mgp, "no_such_name")


_COLD = """
import json, sys
import mnist_guided_pipeline.cli
assert not {{"torch", "diffusers", "numpy"}} & set(sys.modules), "the command line waits for what it does not need"
mnist_guided_pipeline.cli.main(["generate", "--model", {folder!r}, "--output", {picture!r}])
loaded = list(sys.modules)
from mnist_guided_pipeline.storage.pipelines import ClassifierGuidedLatentPipeline
pipe = ClassifierGuidedLatentPipeline.from_pretrained({folder!r})
pipe.save_pretrained({saved!r})
assert json.load(open({saved!r} + "/model_index.json"))["denoiser"][0] == "mnist_guided_pipeline"
import torchvision, transformers  # hidden from diffusers, and there for anyone else
print(*loaded)
"""


def test_cold_command_imports_nothing_needless(tiny_pipeline_folder, tmp_path):
    """The command line needs no torch, classes by their modules are saved by the package's name, and drawing needs
    neither data sets nor figures nor judges, nor what diffusers would import because it is there."""
    code = _COLD.format(
        folder=str(tiny_pipeline_folder), saved=str(tmp_path / "saved"), picture=str(tmp_path / "digits.png")
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules = set(done.stdout.splitlines()[-1].split())
    needless = {"datasets", "matplotlib", "sklearn", "torchmetrics", "gradio", "tensorboard", "pandas", "pyarrow"}
    needless |= {"transformers", "torchvision"}
    assert not needless & modules
    ours = {name for name in modules if name.startswith("mnist_guided_pipeline.")}
    assert not {f"mnist_guided_pipeline.{name}" for name in ("data", "evaluation", "plots", "runtime", "demo")} & ours
