"""Weights on particles against the truth: p(x) p(y | x)^s of Gaussian classes in the plane, summed over a fine grid."""

import math
from functools import cache, partial

import numpy as np
import pytest
import torch

from mnist_guided_pipeline.sampling import particles
from mnist_guided_pipeline.sampling.noise import NoiseLevel
from mnist_guided_pipeline.sampling.particles import (
    Particles,
    effective_sample_size,
    log_kernel_ratio,
    path_scale,
    systematic_resampling,
)

PRIOR = np.array([0.4, 0.35, 0.25])
MEANS = np.array([[-1.2, 0.0], [1.0, 0.3], [0.1, 1.2]])
COVARIANCES = np.array([[[0.65, 0.27], [0.27, 0.30]], [[0.48, -0.18], [-0.18, 0.32]], [[0.40, 0.0], [0.0, 0.25]]])


def class_densities(x, level):
    """Log joint densities of x (N, 2) and each class (3, N), and the scores of x in each class (3, 2, N)."""
    densities, scores = [], []
    for prior, mean, covariance in zip(PRIOR, MEANS, COVARIANCES, strict=True):
        covariance = level.alpha**2 * covariance + level.sigma**2 * np.eye(2)
        offset = (x - torch.tensor(level.alpha * mean, dtype=x.dtype)).T
        score = -torch.tensor(np.linalg.inv(covariance), dtype=x.dtype) @ offset
        densities.append(0.5 * (offset * score).sum(0) + math.log(prior) - 0.5 * math.log(np.linalg.det(covariance)))
        scores.append(score)
    return torch.stack(densities), torch.stack(scores)


def exact(x, level, label):
    """The score of x, the gradient of log p(label | x) and log p(label | x), in model-input space."""
    densities, scores = class_densities(x, level)
    log_probabilities = torch.log_softmax(densities, 0)
    score = (log_probabilities.exp().unsqueeze(1) * scores).sum(0)
    return score.T, (scores[label] - score).T, log_probabilities[label]


@cache
def truth(label, scale):
    """Mean and covariance of p(x) p(label | x)^scale."""
    axis = torch.linspace(-6, 6, 601, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    densities, _ = class_densities(x, NoiseLevel(1.0, 0.0))
    log_target = torch.logsumexp(densities, 0) + scale * torch.log_softmax(densities, 0)[label]
    return moments(x, log_target)


def moments(x, log_weights):
    weights = torch.softmax(log_weights.double(), 0)
    mean = weights @ x.double()
    offset = x - mean
    return mean, (weights.unsqueeze(1) * offset).T @ offset


def errors(found, label, scale):
    """Largest error of the mean in standard deviations, and of the covariance relative to its norm."""
    mean, covariance = truth(label, scale)
    mean_error = ((found[0] - mean).abs() / covariance.diagonal().sqrt()).max()
    return np.array([float(mean_error), float((found[1] - covariance).norm() / covariance.norm())])


def draw(label, scale, steps, count, seed=0, groups=1, weighted=True):
    """The reverse process with exact scores: samples (groups * count, 2), and the particles they are."""
    generator = torch.Generator().manual_seed(seed)
    ratios = np.geomspace(40.0, 0.01, steps)
    particles = Particles(groups, count)
    x = torch.randn(groups * count, 2, generator=generator)
    for ratio, after in zip(ratios, [*ratios[1:], 0.0], strict=True):
        level = NoiseLevel(1.0 / math.hypot(1.0, ratio), ratio / math.hypot(1.0, ratio))
        score, gradient, log_likelihood = exact(x, level, label)
        now = path_scale(scale, ratio, ratios[-1]) if weighted else scale
        offsets = torch.rand(groups, generator=generator)
        if weighted:
            particles.weigh(x, level, now, log_likelihood)
            rows = particles.resample(offsets)
            x, score, gradient, log_likelihood = (each[rows] for each in (x, score, gradient, log_likelihood))
        x0 = (x + level.sigma**2 * (score + now * gradient)) / level.alpha
        if weighted:
            particles.leave(x, level, now, log_likelihood, gradient, x0)
        keep = (after / ratio) ** 2
        noise = torch.randn(x.shape, generator=generator)
        x = keep * x / level.alpha + (1 - keep) * x0 + after * math.sqrt(1 - keep) * noise
        x = x / math.hypot(1.0, after)
    return x, particles


def drawn_errors(label, scale, steps, count, seed=0, weighted=True):
    x, particles = draw(label, scale, steps, count, seed, weighted=weighted)
    return errors(moments(x, particles.log_weights.flatten()), label, scale)


@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_every_class_is_exact(scale, label):
    mean_error, covariance_error = drawn_errors(label, scale, 400, 20_000 if (scale, label) == (2.0, 2) else 5_000)
    assert mean_error < 0.06
    assert covariance_error < 0.1


@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_large_scale_keeps_a_third_of_the_error_of_plain_guidance_at_most(label):
    weighted, plain = (
        drawn_errors(label, 4.0, 400, 20_000 if label == 2 else 5_000, weighted=each) for each in (True, False)
    )
    assert weighted[0] < min(0.1, plain[0] / 3)
    assert weighted[1] < 0.07
    assert np.linalg.norm(weighted) < np.linalg.norm(plain) / 3


def test_the_error_falls_with_more_steps():
    coarse, middle, fine = (
        np.mean([drawn_errors(2, 4.0, steps, 4000, seed) for seed in range(3)], axis=0) for steps in (12, 50, 200)
    )
    assert (middle < 0.7 * coarse).all()
    assert (fine < 0.7 * middle).all()


def test_the_error_falls_with_more_particles():
    few, many = (np.mean([drawn_errors(2, 2.0, 100, count, seed) for seed in range(6)], axis=0) for count in (64, 4096))
    assert (many < few / 2).all()


def test_scale_one_is_the_unweighted_sampler_bit_for_bit():
    plain, _ = draw(1, 1.0, 20, 64, weighted=False)
    weighted, particles = draw(1, 1.0, 20, 64)
    assert torch.equal(weighted, plain)
    assert not particles.log_weights.any()


def test_one_sample_of_a_group_is_one_of_its_particles_by_weight():
    """Many small groups: what is picked from them has the moments of the target, and groups are independent."""
    x, particles = draw(1, 2.0, 50, 16, groups=4000)
    rows = particles.pick(torch.rand(4000, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(rows // 16, torch.arange(4000))
    picked = x[rows]
    assert errors(moments(picked, torch.zeros(4000)), 1, 2.0)[0] < 0.15
    neighbours = np.corrcoef(picked[:-1].T.numpy(), picked[1:].T.numpy())[:2, 2:]
    assert np.abs(neighbours).max() < 0.06


def step_and_weight(scale, change, alpha, seed=0, count=20_000):
    """One small step at r = 1 of h = exp(g z + g^2 r^2 / 2), which solves the heat equation with q constant."""
    g = torch.tensor([0.8, -0.5], dtype=torch.float64)
    noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    level, after = NoiseLevel(alpha, alpha), NoiseLevel(alpha, alpha * math.sqrt(1 - change))
    log_h = lambda x, level: x @ g / level.alpha + 0.5 * (g @ g) * level.ratio**2  # noqa: E731
    x = torch.zeros(count, 2, dtype=torch.float64)
    x0 = x / alpha + scale * g  # z + r^2 (score + s g), with a score of 0
    moved = alpha * ((1 - change) * x / alpha + change * x0 + math.sqrt(change * (1 - change)) * noise)
    particles = Particles(1, count)
    particles.leave(x, level, scale, log_h(x, level), (g / alpha).expand(count, 2), x0)
    particles.weigh(moved, after, scale, log_h(moved, after))
    return particles.log_weights.flatten(), 0.5 * scale * (scale - 1) * change * float(g @ g)


@pytest.mark.parametrize("scale", [0.5, 2.0, 4.0])
@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_in_small_steps_the_weight_is_that_of_feynman_kac(scale, alpha):
    """1/2 s (s - 1) (r^2 - r'^2) |g_z|^2, whatever the coordinates of the model's input."""
    weights, expected = step_and_weight(scale, 1e-4, alpha)
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
    late = Particles(1, 3)
    late.weigh(torch.zeros(3, 2), NoiseLevel(0.6, 0.8), 2.0, log_h, late=True)
    torch.testing.assert_close(late.log_weights, 2 * log_h.unsqueeze(0))


def test_the_path_starts_at_scale_one_and_ends_at_the_scale():
    scales = [path_scale(4.0, ratio, 0.3) for ratio in (40.0, 1.0, 0.5, 0.3)]
    assert scales == sorted(scales)
    assert scales[0] < 1.001
    assert scales[-1] == 4.0
    assert path_scale(1.0, 0.7) == 1.0


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
        particles.pick(torch.zeros(2))
    particles.log_weights = particles.log_weights[:1]
    assert all(int(particles.pick(torch.full((1,), offset))) != 1 for offset in (0.0, 0.4, 0.5, 0.99))


MUTATIONS = {
    "sign": lambda weight, *step: -weight(*step),
    "a factor of 2": lambda weight, *step: 2 * weight(*step),
    "alpha left out": lambda weight, x, moved, x0, score, *rest: weight(x, moved, x0, score / rest[1].alpha, *rest),
    "no weight": lambda weight, *step: 0 * weight(*step),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_wrong_weight_of_a_step_is_seen(monkeypatch, mutation):
    """What the test of small steps says if the weight is wrong in one of the ways in which one gets it wrong."""
    monkeypatch.setattr(particles, "log_kernel_ratio", partial(MUTATIONS[mutation], log_kernel_ratio))
    weights, expected = step_and_weight(2.0, 1e-4, 0.3)
    assert abs(weights.mean() - expected) > 0.5 * expected


def test_a_base_of_the_wrong_sign_is_seen(monkeypatch):
    """``s (s + 1)`` in place of ``s (s - 1)``: the moves taken for exact at scale -1."""
    monkeypatch.setattr(Particles.__init__, "__defaults__", (-1.0,))
    weights, expected = step_and_weight(2.0, 1e-4, 0.3)
    assert abs(weights.mean() - expected) > 0.5 * expected
    assert drawn_errors(2, 2.0, 60, 4000).sum() > 0.3  # and 0.18 as it is
