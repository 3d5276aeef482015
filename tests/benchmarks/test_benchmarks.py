"""Benchmarks: what is compared is the same work, counted exactly, and filed as it was measured. No speed is tested."""

import dataclasses
import json
import math
from functools import partial

import pytest
import torch
from diffusers import DDPMScheduler

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.benchmarks import sampling
from mnist_guided_pipeline.benchmarks import training as training_benchmark
from mnist_guided_pipeline.benchmarks.loops import plain_sampling
from mnist_guided_pipeline.benchmarks.timing import matrix_product, time_rounds
from mnist_guided_pipeline.evaluation.records import read_runs
from mnist_guided_pipeline.evaluation.tables import render_view
from mnist_guided_pipeline.training.history import read_history, training_seconds
from training_runs import train


@pytest.fixture
def few(monkeypatch):
    """As few images of everything as make a figure."""
    monkeypatch.setattr(sampling, "_PIXEL_IMAGES", 1)
    monkeypatch.setattr(sampling, "_PLAIN_IMAGES", 10)


class TestTiming:
    def test_tasks_take_turns_and_the_first_round_does_not_count(self):
        calls = []
        seconds = time_rounds({name: partial(calls.append, name) for name in "abc"}, rounds=3)
        assert "".join(calls) == "abc" * 4
        assert all(len(rounds) == 3 and min(rounds) >= 0 for rounds in seconds.values())

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


def test_sampling_is_filed(few, typed, tmp_path, tiny_pipeline_folder, capsys):
    file = tmp_path / "metrics.json"
    options = ["--model", tiny_pipeline_folder, "--num_images", 4, "--rounds", 1, "--device", "cpu"]
    typed("benchmark", "sampling", *options, "--output", file)
    record = read_runs(file)["benchmark-sampling"]
    rows, figures = record["figures"]["rows"], record["figures"]
    assert record["command"].startswith("mnist-guided benchmark sampling --model ")
    assert str(tmp_path) not in json.dumps(record)
    assert rows["pipeline"]["times_slower"] == pytest.approx(1.0)
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


def test_scripts_and_loops_are_scored_alike(digits_folder, tmp_path, monkeypatch):
    """The loss of a script's network is that of its own validation, and the ratios are of the seconds beside them."""

    def run(scripts, name, config, folder):
        changes = {"output_dir": str(folder), "checkpointing_steps": None, "lr_warmup_steps": 1}
        train(name, dataclasses.replace(config, **changes))
        return {"seconds": training_seconds(folder), "whole_seconds": 1.0}

    monkeypatch.setattr(training_benchmark, "_run_script", run)
    monkeypatch.setattr(training_benchmark, "_DRAWS", 300)
    rows = training_benchmark.benchmark_training(tmp_path, str(digits_folder), 2, 1, tmp_path)["rows"]
    assert rows.keys() == {"vae", "denoiser", "classifier"}
    for row in rows.values():
        assert row["times_faster"] == pytest.approx(row["plain_seconds"] / row["seconds"])
        assert row["whole_times_faster"] == pytest.approx(row["plain_seconds"])
    validated = [line for line in read_history(tmp_path / "denoiser") if "test/loss" in line][-1]["test/loss"]
    assert rows["denoiser"]["loss"] == pytest.approx(validated, rel=0.05)
