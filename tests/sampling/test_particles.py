"""Weighted particles against the truth: p(x) p(y | x)^s of classes in the plane, summed over a fine grid."""

import math

import numpy as np
import pytest
import torch

import tiny
from mnist_guided_pipeline.evaluation.oracle import PLANE, even_noise, exact_pipeline, tilted_density
from mnist_guided_pipeline.sampling import particles as particles_module
from mnist_guided_pipeline.sampling.noise import NoiseLevel
from mnist_guided_pipeline.sampling.particles import (
    Particles,
    effective_sample_size,
    log_kernel_ratio,
    systematic_resampling,
)
from tiny import seeds

EXACT = [
    ("DDPMScheduler", {}),
    ("EulerAncestralDiscreteScheduler", {}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 1}),
]


def pipeline(name="DDPMScheduler", options=(), **more):
    kind = "epsilon" if name == "EulerAncestralDiscreteScheduler" else "v_prediction"
    return exact_pipeline(PLANE, name, kind, **dict(options), **more)


def draw(pipe, labels, num_particles=4, **call):
    call = {"guidance_scale": 2.0, "num_inference_steps": 6, "output_type": "latent", **call}
    return pipe(labels, num_particles=num_particles, **call).images


def moments(points, weights):
    mean = weights @ points
    return mean, (weights[:, None] * (points - mean)).T @ (points - mean)


def errors(samples, scale, told=False, weights=None):
    """Largest error of the mean in standard deviations, and of the covariance relative to its norm.

    The truth is p(x) p(1 | x)^scale, or p(x | 1) p(1 | x)^scale where ``told``.
    """
    mean, covariance = moments(*map(torch.from_numpy, tilted_density(scale, 1, told)))
    weights = torch.full((len(samples),), 1 / len(samples)).double() if weights is None else weights
    found = moments(samples.double(), weights)
    mean_error = ((found[0] - mean).abs() / covariance.diagonal().sqrt()).max()
    return float(mean_error), float((found[1] - covariance).norm() / covariance.norm())


@pytest.mark.parametrize(
    ("name", "options", "scale", "told"),
    [*((*each, 3.0, False) for each in EXACT), (*EXACT[0], 0.5, False), (*EXACT[0], 2.0, True)],
)
def test_samples_are_of_the_density_to_that_power(name, options, scale, told):
    pipe = pipeline(name, options, conditional=told)
    call = {"guidance_scale": scale, "num_inference_steps": 40, "generator": seeds(0)[0]}
    weighted, plain = (errors(draw(pipe, [1] * 1000, count, **call), scale, told) for count in (16, 1))
    assert weighted[0] < 0.1 and weighted[1] < 0.15  # of 1,000 random samples
    assert math.hypot(*weighted) < 0.6 * math.hypot(*plain)


@pytest.mark.parametrize(("name", "options"), EXACT, ids=[name for name, _ in EXACT])
def test_at_scale_one_they_are_the_rows_of_the_unweighted_sampler_bit_for_bit(name, options):
    pipe, rows = pipeline(name, options), []
    keep = lambda p, i, t, x: rows.append(x["latents"]) or {}  # noqa: E731
    draw(pipe, [0, 1], 3, guidance_scale=1.0, generator=seeds(0, 1), callback_on_step_end=keep)
    each = [generator for generator in seeds(0, 1) for _ in range(3)]
    plain = draw(pipe, [0, 0, 0, 1, 1, 1], 1, guidance_scale=1.0, generator=each)
    assert torch.equal(rows[-1], plain)


@pytest.fixture
def one_group(monkeypatch):
    """Draw one sample; the mean and covariance error of all its particles by their weights, as one number."""
    ends, picked = [], Particles.picked
    kept = lambda self, latents: ends.append((self.log_weights, latents)) or picked(self, latents)  # noqa: E731
    monkeypatch.setattr(Particles, "picked", kept)

    def run(scale, steps, count, seed):
        generator = seeds(seed)[0]
        draw(pipeline(), [1], count, guidance_scale=scale, num_inference_steps=steps, generator=generator)
        log_weights, latents = ends.pop()
        return math.hypot(*errors(latents, scale, weights=torch.softmax(log_weights.double().flatten(), 0)))

    return run


@pytest.mark.parametrize(
    "cases", [[(5, 4000), (10, 4000), (20, 4000)], [(40, 64), (40, 4000)]], ids=["steps", "particles"]
)
def test_the_error_falls_with_more_of(cases, one_group):
    found = np.array([np.mean([one_group(4.0, *case, seed) for seed in range(3)]) for case in cases])
    assert (found[1:] < 0.5 * found[:-1]).all()


def test_resampling_at_every_level_leaves_the_density_as_it_is(one_group, monkeypatch):
    monkeypatch.setattr(particles_module, "_RESAMPLE_BELOW", 2.0)  # and not where it is needed only
    assert max(one_group(8.0, 20, 4000, seed) for seed in range(3)) < 0.2  # 0.3 and more with another row's weight


def test_a_sample_does_not_depend_on_its_batch():
    pipe, labels = pipeline(), [0, 1, 1, 0]
    whole = draw(pipe, labels, generator=seeds(0, 1, 2, 3))
    parts = [draw(pipe, [labels[i] for i in part], generator=seeds(*part)) for part in ([0], [1, 2, 3])]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-6, atol=1e-6)


def test_samples_of_a_batch_are_independent():
    found = draw(pipeline(), [1] * 2000, 4, num_inference_steps=20, generator=seeds(0)[0]).numpy()
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


@pytest.mark.parametrize("scale", [0.5, 2.0, 4.0])
@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_in_small_steps_the_weight_is_that_of_feynman_kac(scale, alpha):
    """1/2 s (s - 1) (r^2 - r'^2) |g_z|^2, whatever the coordinates of the model's input.

    One step at r = 1 of h = exp(g z + g^2 r^2 / 2), which solves the heat equation with q constant.
    """
    change, count = 1e-4, 20_000
    g = torch.tensor([0.8, -0.5], dtype=torch.float64)
    noise = tiny.noise(count, 2, dtype=torch.float64)
    level, after = NoiseLevel(alpha, alpha), NoiseLevel(alpha, alpha * math.sqrt(1 - change))
    log_h = lambda x, level: x @ g / level.alpha + 0.5 * (g @ g) * level.ratio**2  # noqa: E731
    x = torch.zeros(count, 2, dtype=torch.float64)
    x0 = x / alpha + scale * g  # z + r^2 (score + s g), with a score of 0
    moved = alpha * ((1 - change) * x / alpha + change * x0 + math.sqrt(change * (1 - change)) * noise)
    particles = Particles(1, count)
    particles.leave(x, level, scale, log_h(x, level), (g / alpha).expand(count, 2), x0)
    particles.weigh(moved, after, scale, log_h(moved, after))
    weights, expected = particles.log_weights, 0.5 * scale * (scale - 1) * change * float(g @ g)
    np.testing.assert_allclose(weights.mean(), expected, rtol=1e-3)
    assert weights.std() < 0.1 * abs(expected)


def test_kernel_ratio_is_that_of_two_normal_densities():
    generator = torch.Generator().manual_seed(0)
    sample, moved, score, guided_x0 = torch.randn(4, 5, 3, dtype=torch.float64, generator=generator)
    excess = torch.tensor([0.0, 0.5, 1.0, 3.0, -0.5], dtype=torch.float64)
    level, after = NoiseLevel(0.6, 0.8), NoiseLevel(0.8, 0.6)
    r2, after2 = level.ratio**2, after.ratio**2
    mean = after2 / r2 * sample / level.alpha + (1 - after2 / r2) * guided_x0
    base = mean - excess.unsqueeze(1) * (r2 - after2) * level.alpha * score
    deviation = math.sqrt((r2 - after2) * after2 / r2)
    densities = [
        torch.distributions.Normal(each, deviation).log_prob(moved / after.alpha).sum(1) for each in (base, mean)
    ]
    ratio = log_kernel_ratio(sample, moved, guided_x0, score, excess, level, after)
    torch.testing.assert_close(ratio, densities[0] - densities[1])
    assert ratio[0] == 0


def test_a_tempered_classifier_is_weighed_from_the_unguided_sampler():
    """With base 0 no probability is asked for: late particles of q weigh h^s, all of it."""
    log_h = torch.tensor([-1.0, -2.0, 0.0])
    particles = Particles(1, 3, base=0.0)
    particles.weigh(torch.zeros(3, 2), NoiseLevel(0.6, 0.8), 2.0, log_h)
    torch.testing.assert_close(particles.log_weights, 2 * log_h.unsqueeze(0))
    late = Particles(1, 3, late=True)
    late.weigh(torch.zeros(3, 2), NoiseLevel(0.6, 0.8), 2.0, log_h)
    torch.testing.assert_close(late.log_weights, 2 * log_h.unsqueeze(0))


def test_systematic_resampling_keeps_the_proportions():
    generator = torch.Generator().manual_seed(0)
    log_weights = 2 * torch.randn(50, 32, generator=generator)
    shares = 32 * torch.softmax(log_weights, 1)
    counts = torch.zeros(50, 32)
    for _ in range(400):
        chosen = systematic_resampling(log_weights, torch.rand(50, generator=generator))
        assert (chosen.diff(dim=1) >= 0).all()
        count = torch.zeros(50, 32).scatter_add_(1, chosen, torch.ones(50, 32))
        assert ((count - shares).abs() < 1 + 1e-4).all()
        counts += count
    torch.testing.assert_close(counts / 400, shares, atol=0.1, rtol=0.0)


@pytest.mark.parametrize("offset", [1e-6, 0.5, 1 - 2**-24])
def test_equal_weights_and_one_particle_left(offset):
    equal = torch.full((1, 7), -3.0)
    assert torch.equal(systematic_resampling(equal, torch.tensor([offset])), torch.arange(7).unsqueeze(0))
    assert effective_sample_size(equal) == pytest.approx(7)
    single = torch.full((1, 7), -torch.inf)
    for survivor in (0, 3, 6):
        one = single.clone()
        one[0, survivor] = -1000.0
        assert (systematic_resampling(one, torch.tensor([offset])) == survivor).all()
        assert effective_sample_size(one) == 1


def test_only_poor_groups_are_resampled():
    particles = Particles(3, 4)
    particles.log_weights = torch.tensor([[0.0, 0.1, 0.2, 0.1], [9.0, 0.0, 0.0, 0.0], [0.0, 0.0, -torch.inf, 0.0]])
    kept = particles.log_weights.clone()
    rows = particles.resample(torch.full((3,), 0.5))
    assert rows.tolist() == [0, 1, 2, 3, 4, 4, 4, 4, 8, 9, 10, 11]
    assert torch.equal(particles.log_weights[[0, 2]], kept[[0, 2]])
    assert not particles.log_weights[1].any()


def test_an_impossible_class_is_an_error_that_names_the_sample():
    particles = Particles(2, 3)
    particles.weigh(
        torch.zeros(6, 2), NoiseLevel(0.6, 0.8), 2.0, torch.tensor([-1.0, -torch.inf, -1.0] + [-torch.inf] * 3)
    )
    assert torch.equal(particles.resample(torch.zeros(2)), torch.arange(6))
    with pytest.raises(ValueError, match="sample 1"):
        particles.picked(torch.zeros(6, 2))
    particles.log_weights = particles.log_weights[:1]
    assert {int(particles.picked(torch.arange(3))) for _ in range(50)} == {0, 2}
