r"""How wrong the gradient of a trained classifier is, where the right one is known.

A classifier that reads well can still guide badly: guidance uses ``g = grad_x log p(y | x, t)``, which cross-entropy
never sees. On a Gaussian mixture the exact gradient is known in closed form (``models/mixture.py``), so a small network
trained on noisy draws can be compared with it, level by level:

    error(t)  =  sqrt( E |g_learned - g_exact|^2 / E |g_exact|^2 )

over noisy samples and their own classes. At 1 the learned gradient is no better than none.

The exact gradient vanishes as ``alpha`` does: under pure noise no class is likelier than another. A network that reads
``x`` as it is keeps an error of about constant size there, so its relative error grows like ``1 / alpha``, and guidance
multiplies it by ``sigma^2 / alpha`` in the predicted clean sample. One that reads ``alpha x`` has the factor ``alpha``
in its gradient by the chain rule (``models/residual_mlp.py``): that is what its gate is for.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.mixture import MixtureClassifier
from ..models.residual_mlp import ResidualMLPClassifier
from ..sampling.guidance import classifier_score
from ..sampling.noise import NoiseLevel, add_noise, levels_at, preserving_levels
from ..sampling.schedulers import preserving_table
from ..seeding import keyed_generator
from .oracle import COSINE, PLANE, Mixture

__all__ = ["LEVELS", "compare_scores", "learned_scores", "train_on_mixture"]

LEVELS = tuple(round(0.05 * (100 / 0.05) ** (i / 9), 3) for i in range(10))
"""Noise levels ``sigma / alpha`` to compare at: ten, evenly spaced in the logarithm from 0.05 to 100."""

_UPDATES, _BATCH_SIZE, _LEARNING_RATE, _POOL, _TEST = 1_000, 256, 3e-3, 20_000, 4_000
_NETWORK = {"hidden_size": 64, "num_layers": 2, "condition_dim": 32}


def learned_scores(
    mixture: Mixture = PLANE,
    schedule: dict[str, Any] | None = None,
    num_updates: int = _UPDATES,
    seed: int = 0,
) -> dict[str, list[dict[str, float]]]:
    """Train a classifier with and without the gate, and compare both with the exact one.

    Args:
        mixture: the data.
        schedule: settings of the beta schedule, as ``DDPMScheduler`` takes them; a cosine one if None.
        num_updates: of each training.
        seed: of data, weights, order and noise; the same for both.

    Returns:
        What :func:`compare_scores` says of ``plain`` and of ``gated``.
    """
    schedule = schedule or COSINE
    return {
        name: compare_scores(train_on_mixture(mixture, schedule, gated, num_updates, seed), mixture, schedule, seed)
        for name, gated in (("plain", False), ("gated", True))
    }


def train_on_mixture(
    mixture: Mixture, schedule: dict[str, Any], gated: bool, num_updates: int = _UPDATES, seed: int = 0
) -> ResidualMLPClassifier:
    """A small classifier, trained by cross-entropy on noisy draws of all levels.

    Args:
        mixture: the data.
        schedule: settings of the beta schedule.
        gated: whether the network is told the schedule, and so reads ``alpha x``.
        num_updates: of 256 samples each, AdamW under a one-cycle schedule.
        seed: of data, weights, order and noise.
    """
    x0, labels = _draws(mixture, _POOL, seed)
    levels = preserving_levels(preserving_table(schedule))
    generator = keyed_generator(seed, "training")
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(keyed_generator(seed, "weights").initial_seed())
        network = ResidualMLPClassifier(
            sample_shape=(mixture.dim,), num_classes=2, noise_schedule=schedule if gated else None, **_NETWORK
        )
        optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, fused=True)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=num_updates)
        for _ in range(num_updates):
            rows = torch.randint(_POOL, (_BATCH_SIZE,), generator=generator)
            timesteps = torch.randint(len(levels.sigma), (_BATCH_SIZE,), generator=generator)
            noisy = _noised(x0[rows], levels, timesteps, generator)
            loss = F.cross_entropy(network(noisy, timesteps).logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()
    return network.eval()


def compare_scores(
    network: nn.Module, mixture: Mixture, schedule: dict[str, Any], seed: int = 0
) -> list[dict[str, float]]:
    """Compare the gradient of a classifier with the exact one, at the training timesteps nearest to ``LEVELS``.

    Args:
        network: ``network(sample, timestep, return_dict=False)[0]`` are logits.
        mixture: the data that it was trained on.
        schedule: the noise that it was trained on.
        seed: of fresh data and noise.

    Returns:
        A dictionary a level, from the least noise upwards: ``ratio`` (``sigma / alpha``), ``relative_error`` and
        ``clean_sample_error``; see the module.
    """
    exact = MixtureClassifier(**mixture.parameters, schedule=schedule).double()
    dtype = next(network.parameters()).dtype
    x0, labels = _draws(mixture, _TEST, seed + 1)
    levels = preserving_levels(preserving_table(schedule))
    nearest = torch.searchsorted(levels.ratio, torch.tensor(LEVELS, dtype=torch.float64)).clamp_max(
        len(levels.sigma) - 1
    )
    rows = []
    for index, timestep in enumerate(nearest):
        alpha, sigma = (float(values[timestep]) for values in levels)
        noisy = _noised(x0, levels, timestep.expand(len(x0)), keyed_generator(seed, "test", index))
        wanted = classifier_score(exact, noisy.double(), timestep, labels)
        error = classifier_score(network, noisy.to(dtype), timestep, labels).double() - wanted
        rows.append(
            {
                "ratio": sigma / alpha,
                "relative_error": (error.square().sum() / wanted.square().sum()).sqrt().item(),
                "clean_sample_error": sigma**2 / alpha * error.square().mean().sqrt().item(),
            }
        )
    return rows


def _draws(mixture: Mixture, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Samples (count, d) in equal parts of both classes, which the mixture has too, and their labels int64 (count,)."""
    halves = [torch.from_numpy(mixture.draw(label, count // 2, 2 * seed + label)).float() for label in (0, 1)]
    return torch.cat(halves), torch.arange(2).repeat_interleave(count // 2)


def _noised(x0: Tensor, levels: NoiseLevel, timesteps: Tensor, generator: torch.Generator) -> Tensor:
    """Each of x0 (B, d) noised to its own timestep."""
    return add_noise(x0, torch.randn(x0.shape, generator=generator), levels_at(levels, timesteps, x0))
