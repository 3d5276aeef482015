"""``num_particles`` in a call: exact at any scale, each sample by itself, and refused where there is no such rule."""

import json
import math

import numpy as np
import pytest
import torch

from mnist_guided_pipeline.evaluation.oracle import PLANE, even_noise, exact_pipeline, tilted_density
from mnist_guided_pipeline.sampling import particle_call

EXACT = [
    ("DDPMScheduler", {}),
    ("EulerAncestralDiscreteScheduler", {}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 1}),
]


def seeds(*values):
    return [torch.Generator().manual_seed(value) for value in values]


def pipeline(name="DDPMScheduler", options=(), kind="v_prediction", **more):
    pipe = exact_pipeline(
        PLANE, name, kind if name != "EulerAncestralDiscreteScheduler" else "epsilon", **dict(options), **more
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, labels, num_particles=4, **call):
    call = {"guidance_scale": 2.0, "num_inference_steps": 6, "output_type": "latent", **call}
    return pipe(labels, num_particles=num_particles, **call).images


def tilted(scale, label=1, told=False):
    """Mean and covariance of p(x) p(label | x)^scale, or of p(x | label) p(label | x)^scale."""
    points, weights = map(torch.from_numpy, tilted_density(scale, label, told))
    mean = weights @ points
    return mean, (weights[:, None] * (points - mean)).T @ (points - mean)


def errors(samples, mean, covariance):
    """Of the mean in standard deviations, and of the covariance relative to its norm."""
    samples = samples.double()
    found = torch.cov(samples.T)
    mean_error = ((samples.mean(dim=0) - mean).abs() / covariance.diagonal().sqrt()).max()
    return float(mean_error), float((found - covariance).norm() / covariance.norm())


@pytest.mark.parametrize(("name", "options"), EXACT, ids=[name for name, _ in EXACT])
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_samples_are_of_the_density_to_that_power(name, options, scale):
    truth = tilted(scale)
    call = {"guidance_scale": scale, "num_inference_steps": 60, "generator": torch.Generator().manual_seed(0)}
    weighted, plain = (errors(draw(pipeline(name, options), [1] * 1500, count, **call), *truth) for count in (16, 1))
    assert weighted[0] < 0.1 and weighted[1] < 0.15  # of 1,500 random samples
    assert math.hypot(*weighted) < 0.6 * math.hypot(*plain)


def test_a_told_denoiser_draws_its_own_density_to_that_power():
    truth = tilted(2.0, told=True)
    call = {"guidance_scale": 2.0, "num_inference_steps": 60, "generator": torch.Generator().manual_seed(0)}
    weighted, plain = (errors(draw(pipeline(conditional=True), [1] * 1500, count, **call), *truth) for count in (16, 1))
    assert weighted[0] < 0.1 and weighted[1] < 0.15
    assert math.hypot(*weighted) < 0.6 * math.hypot(*plain)


@pytest.mark.parametrize(("name", "options"), EXACT, ids=[name for name, _ in EXACT])
def test_at_scale_one_they_are_the_rows_of_the_unweighted_sampler_bit_for_bit(name, options):
    pipe, rows = pipeline(name, options), []
    draw(
        pipe,
        [0, 1],
        3,
        guidance_scale=1.0,
        generator=seeds(0, 1),
        callback_on_step_end=lambda p, i, t, x: rows.append(x["latents"]) or {},
    )
    each = [generator for generator in seeds(0, 1) for _ in range(3)]
    plain = draw(pipe, [0, 0, 0, 1, 1, 1], 1, guidance_scale=1.0, generator=each)
    assert torch.equal(rows[-1], plain)


def test_a_sample_does_not_depend_on_its_batch_nor_on_how_it_is_split(monkeypatch):
    pipe, labels = pipeline(), [0, 1, 1, 0]
    whole = draw(pipe, labels, generator=seeds(0, 1, 2, 3))
    parts = [draw(pipe, [labels[i] for i in part], generator=seeds(*part)) for part in ([0], [1, 2, 3])]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-6, atol=1e-6)
    monkeypatch.setattr(particle_call, "_MOST_ROWS", 8)
    assert particle_call.ParticleCall.groups_at_a_time(4) == 2
    scales = {"guidance_scale": [0.5, 1.0, 2.0, 4.0]}
    split = draw(pipe, labels, generator=seeds(0, 1, 2, 3), **scales)
    monkeypatch.undo()
    torch.testing.assert_close(split, draw(pipe, labels, generator=seeds(0, 1, 2, 3), **scales), rtol=1e-6, atol=1e-6)


def test_samples_of_a_batch_are_independent():
    found = draw(pipeline(), [1] * 2000, 4, num_inference_steps=20, generator=torch.Generator().manual_seed(0)).numpy()
    assert np.abs(np.corrcoef(found[:-1].T, found[1:].T)[:2, 2:]).max() < 0.08


def test_resampling_takes_no_number_from_the_calls_generator():
    pipe, left = pipeline(), []
    for scale in (1.0, 4.0):
        (generator,) = seeds(0)
        draw(pipe, [1], generator=generator, guidance_scale=scale)
        left.append(generator.get_state())
    assert torch.equal(*left)


@pytest.mark.parametrize(
    "call",
    [
        {"guidance_interval": (0.1, 2.0)},
        {"classifier_temperature": 2.0},
        {"guidance_scale": [0.0, 5.0]},
        {"guidance_scale": 0.0},
        {"latents": even_noise(8, 2)},
    ],
    ids=str,
)
def test_it_goes_with_the_other_arguments(call):
    plain, weighted = (draw(pipeline(), [0, 1], generator=seeds(0, 1), **call) for _ in range(2))
    assert torch.equal(plain, weighted) and weighted.shape == (2, 2) and weighted.isfinite().all()


def test_not_this_class_is_the_other_one():
    by_label = draw(pipeline(), [1], num_images_per_label=3, generator=seeds(0, 1, 2))
    excluded = draw(pipeline(), None, num_images_per_label=3, negative_class_labels=[0], generator=seeds(0, 1, 2))
    torch.testing.assert_close(excluded, by_label, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "call", "message"),
    [
        ("DDIMScheduler", {}, "DDIMScheduler with its settings is none. Use DDPMScheduler"),
        ("DPMSolverMultistepScheduler", {}, "algorithm_type='sde-dpmsolver.*' and solver_order=1"),
        ("HeunDiscreteScheduler", {}, "reverse process"),
        ("DDPMScheduler", {"class_labels": None}, "weighs by the wanted class"),
        ("DDPMScheduler", {"cfg_scale": 2.0}, "cfg_scale is 2.0, for which particles have no weights"),
        ("DDPMScheduler", {"guidance_rescale": 0.5}, "guidance_rescale is 0.5"),
        ("DDPMScheduler", {"num_particles": 0}, "num_particles must be an integer of at least 1"),
        ("DDPMScheduler", {"generator": seeds(0)}, "generator is a list of 1, but 2 samples"),
        ("DDPMScheduler", {"latents": torch.zeros(2, 2)}, r"latents must have shape \(8, 2\)"),
    ],
)
def test_what_has_no_such_rule_is_refused_by_name(name, call, message):
    call = {"class_labels": [0, 1], "num_particles": 4, "output_type": "latent", **call}
    pipe = pipeline(name, conditional=call.get("cfg_scale") == 2.0)
    with pytest.raises(ValueError, match=message):
        pipe(**call)


def test_the_study_of_scales_files_errors_and_draws(typed, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    few = ["--num_samples", 60, "--num_particles", 4, "--num_inference_steps", 10, "--guidance_scale", 1, 3]
    typed("study", "scales", *few, "--output", tmp_path / "metrics.json", "--figure", tmp_path / "scales.png")
    assert "particles covariance error" in capsys.readouterr().out
    rows = json.loads((tmp_path / "metrics.json").read_text())["runs"]["study-scales"]["figures"]["rows"]
    assert (
        len(rows) == 4 and rows["s = 3, class 1"]["plain_mean_error"] > rows["s = 3, class 1"]["particles_mean_error"]
    )
    assert (tmp_path / "scales.png").stat().st_size > 10_000
