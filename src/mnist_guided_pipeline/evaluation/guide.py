r"""What a guide is worth: how well it reads at every noise level, how hard it pulls, and whether it can be fooled.

Guidance adds ``s grad_x log p(y | x, t)`` to the score. In ``x = alpha x0 + sigma eps`` the score of the data is
``-E[eps | x] / sigma``, whose norm is about ``sqrt(d) / sigma`` in d dimensions, so

    share = sigma |grad_x log p(y | x, t)| / sqrt(d)

is the guidance at s = 1 as a share of the score: it compares over noise levels, over schedules and over dimensions.

*Guide hacking*: guidance raises the very probability by which the guide would be judged, so the guide's own accuracy on
finished samples says nothing (the same happens to a reward model under optimisation, Gao et al. 2022,
https://arxiv.org/abs/2210.10760, section 2). A gap to the judge's that grows with the scale is guidance that pleases
the guide alone.

*The classifier alone*: with the unconditional prediction U and the prediction D(y) for a label, guidance is exact where

    U = mix = sum_y p(y | x, t) D(y)    and    k grad_x log p(y | x, t) = D(y) - mix,

k the factor of ``sampling/guidance.py``. :func:`gradient_errors` measures both, by noise level, on noisy data with
their own labels and on the states that guided sampling visits with the label that it guides to.

*A learned gradient*: a classifier that reads well can still guide badly, since cross-entropy never sees the gradient.
On a Gaussian mixture the exact one is known in closed form (``models/mixture.py``), so a small network trained on noisy
draws can be compared with it, level by level (:func:`compare_scores`), over noisy samples and their own classes:

    error(t) = sqrt( E |g_learned - g_exact|^2 / E |g_exact|^2 ),    1 is no better than no gradient.

The exact gradient vanishes as ``alpha`` does. A network that reads ``x`` as it is keeps an error of about constant size
there, which guidance multiplies by ``sigma^2 / alpha`` in the predicted clean sample. One that reads ``alpha x`` has
``alpha`` in its gradient by the chain rule: that is what ``SignalGate`` is for (``models/layers.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..data.images import LabelledImages, to_uint8
from ..data.posteriors import encode_images
from ..models.mixture import MixtureClassifier, MixtureDenoiser
from ..models.residual_mlp import PosteriorResidualMLPDenoiser, ResidualMLPClassifier
from ..sampling.guidance import classifier_score, guidance_factor, read_and_score
from ..sampling.networks import needs_posterior, predict
from ..sampling.noise import NoiseLevel, add_noise, levels_at, preserving_levels, training_levels
from ..sampling.schedulers import preserving_table
from ..seeding import keyed_generator
from ..training.losses import guided_denoising_loss
from ..training.rollouts import VisitedStates, roll_out
from .accuracy_score import fit
from .judge import Judge
from .metrics import expected_calibration_error
from .oracle import COSINE, PLANE, Mixture
from .samples import draw_samples
from .scores import measured, proportion

LEVELS = tuple(round(0.05 * (100 / 0.05) ** (i / 9), 3) for i in range(10))
"""Noise levels ``sigma / alpha`` at which gradients are compared: ten, evenly spaced in the logarithm."""

_BATCH = 500
_RATIOS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.2, 2.0, 4.0, 8.0)  # between them, errors of the classifier alone are averaged
_TRAINED_BY = {"preserving": DDPMScheduler, "flow": FlowMatchEulerDiscreteScheduler}
_UPDATES, _BATCH_SIZE, _POOL, _TEST = 1_000, 256, 20_000, 4_000
_PAIR_WEIGHT, _VISITED = 20.0, 500
_NETWORK = {"hidden_size": 64, "num_layers": 2, "condition_dim": 32}


def timesteps_and_levels(pipe: Any) -> tuple[Tensor, NoiseLevel]:
    """The timesteps int64 (T,) that a pipeline's networks were trained on, least noise first, and their levels (T,).

    A noise schedule without training timesteps is a ValueError.
    """
    law = pipe.config.training_noise["law"]
    if law not in _TRAINED_BY:
        raise ValueError(
            f"The pipeline's networks are of the noise law {law!r}, which has no training timesteps to report on; the "
            "report takes 'preserving' and 'flow'."
        )
    levels = training_levels(pipe.make_scheduler(_TRAINED_BY[law]))
    return torch.arange(len(levels.sigma)) + (law == "flow"), levels  # a flow has no noise at 0


def guide_by_noise(pipe: Any, images: LabelledImages, num_bins: int = 10, seed: int = 0) -> list[dict[str, Any]]:
    """Read real images that the guide has not seen through the noise, in equal ranges of the timestep.

    Every image is noised once per range, to a timestep drawn from it; images go through the VAE where there is one.

    Returns:
        A dictionary per range, from the least noise upwards: ``timesteps`` (first and last), ``ratio`` (median of
        ``sigma / alpha``), and the values ``accuracy``, ``calibration_error`` (expected, of 15 bins, against the
        label), ``confidence`` (mean of the largest probability) and ``gradient_share`` (mean of the module's ``share``,
        for the true class).

    Raises:
        ValueError: the pipeline has no classifier, or a noise schedule without training timesteps.
    """
    if pipe.classifier is None:
        raise ValueError("The pipeline has no classifier, so there is no guide to report on.")
    timesteps, table = timesteps_and_levels(pipe)
    posteriors = encode_images(pipe.vae, images.images)
    rows = []
    parts = list(torch.arange(len(timesteps)).tensor_split(num_bins))
    for index, part in enumerate(tqdm(parts, desc="noise levels", disable=None, leave=False)):
        generator = keyed_generator(seed, "guide", index)
        posterior_noise, eps = torch.randn(2, len(images), *posteriors.sample_shape, generator=generator)
        entries = part[torch.randint(len(part), (len(images),), generator=generator)]
        batches = []
        for batch in torch.arange(len(images)).split(_BATCH):
            z0 = posteriors.draw(batch, posterior_noise[batch].to(posteriors.mean.device)).to(pipe.classifier.device)
            level = levels_at(table, entries[batch], z0)
            noisy = add_noise(z0, eps[batch].to(z0), level).to(pipe.classifier.dtype)
            times, labels = timesteps[entries[batch]].to(z0.device), images.labels[batch].to(z0.device)
            logits, gradient = read_and_score(pipe.classifier, noisy, times, labels)
            share = gradient.flatten(1).norm(dim=1) * level.sigma.flatten() / gradient[0].numel() ** 0.5
            batches.append((logits.float().softmax(dim=1).cpu(), share.double().cpu()))
        read, shares = map(torch.cat, zip(*batches, strict=True))
        hits = int((read.argmax(dim=1) == images.labels).sum())
        middle = part[len(part) // 2]
        rows.append(
            {
                "timesteps": [int(timesteps[part[0]]), int(timesteps[part[-1]])],
                "ratio": float(table.sigma[middle] / table.alpha[middle]),
                "accuracy": proportion(hits, len(images)),
                "calibration_error": measured(expected_calibration_error(read, images.labels), len(images)),
                "confidence": measured(read.double().max(dim=1).values.mean().item(), len(images)),
                "gradient_share": measured(shares.mean().item(), len(images)),
            }
        )
    return rows


@torch.no_grad()
def guide_hacking(
    pipe: Any, judge: Judge, num_images: int, scales: Sequence[float], cfg_scale: float = 1.0, seed: int = 0
) -> list[dict[str, Any]]:
    """Draw at growing scales, and let the guide and the judge say how many images show what was wanted.

    The classes are wanted in turn, and an image has the same noise at every scale; ``cfg_scale`` 0 leaves the labels to
    the guide alone.

    Returns:
        A dictionary per scale: ``guidance_scale`` and the values ``guide_accuracy`` (on final samples, at the least
        noise), ``judge_accuracy`` (on the images), ``guide_confidence`` (mean probability of the wanted class) and
        ``gap`` (the guide's accuracy minus the judge's).

    Raises:
        ValueError: the pipeline has no classifier, or cannot be called with these arguments.
    """
    if pipe.classifier is None:
        raise ValueError("The pipeline has no classifier, so there is no guide to report on.")
    least_noise = timesteps_and_levels(pipe)[0][0].to(pipe.classifier.device)
    pipe.set_progress_bar_config(disable=True)
    rows = []
    for scale in tqdm(scales, desc="scales", disable=None, leave=False):
        call = {"guidance_scale": float(scale), "cfg_scale": cfg_scale, "output_type": "latent"}
        parts = []
        for latents, labels in draw_samples(pipe, num_images, seed, call):
            logits = pipe.classifier(latents.to(pipe.classifier.dtype), least_noise, return_dict=False)[0]
            pixels = pipe.decode_latents(latents, "pt").float().cpu()
            seen = judge.predict(to_uint8(pixels * 2.0 - 1.0)).argmax(dim=1)
            parts.append((logits.float().softmax(dim=1).cpu(), seen, labels))
        read, judged, wanted = map(torch.cat, zip(*parts, strict=True))
        by_guide, by_judge = int((read.argmax(dim=1) == wanted).sum()), int((judged == wanted).sum())
        rows.append(
            {
                "guidance_scale": float(scale),
                "guide_accuracy": proportion(by_guide, num_images),
                "judge_accuracy": proportion(by_judge, num_images),
                "guide_confidence": measured(read[torch.arange(num_images), wanted].mean().item(), num_images),
                "gap": measured((by_guide - by_judge) / num_images, num_images),
            }
        )
    return rows


def gradient_errors(pipe: Any, images: LabelledImages, seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """How far the classifier alone is from the denoiser that is told the label, by noise level; see the module.

    Of images that the networks have not seen, and of 500 samples of guided sampling, of 12 steps each.

    Returns:
        ``data`` and ``visited``: a dictionary per range of ``sigma / alpha`` that has samples, with ``ratio`` (median)
        and values summed over dimensions: ``wanted`` (squared norm of D(y) - mix), ``gradient_error`` and
        ``base_error`` (squared distances of the two equations).

    Raises:
        ValueError: the pipeline has no such networks, or its noise schedule is not variance-preserving.
    """
    denoiser, classifier, noise = pipe.denoiser, pipe.classifier, dict(pipe.config.training_noise)
    if classifier is None or not pipe.denoiser_is_conditional or noise["law"] != "preserving":
        raise ValueError(
            "The error of the gradient is measured against a denoiser that is told the label; this pipeline has no "
            "classifier, no class-conditional denoiser or no variance-preserving noise schedule."
        )
    table = timesteps_and_levels(pipe)[1]
    posteriors = encode_images(pipe.vae, images.images, progress=False)
    generator = keyed_generator(seed, "gradient errors")
    posterior_noise, eps = torch.randn(2, len(images), *posteriors.sample_shape, generator=generator)
    timesteps = torch.randint(len(table.sigma), (len(images),), generator=generator)
    z0 = posteriors.draw(torch.arange(len(images)), posterior_noise).to(classifier.device)
    visited = VisitedStates(12 * _VISITED, posteriors.sample_shape).to(classifier.device)
    roll_out(visited, denoiser, classifier, noise, _VISITED, 12, generator)
    sources = {
        "data": (add_noise(z0, eps.to(z0), levels_at(table, timesteps, z0)), timesteps, images.labels.to(z0.device)),
        "visited": (visited.samples, visited.rows, visited.labels),
    }
    return {name: _errors_by_level(pipe, table, *states) for name, states in sources.items()}


def _errors_by_level(
    pipe: Any, table: NoiseLevel, samples: Tensor, timesteps: Tensor, labels: Tensor
) -> list[dict[str, Any]]:
    """Rows of :func:`gradient_errors` for samples (N, ...) at timesteps (N,), with the labels int64 (N,) of each."""
    denoiser, prediction_type = pipe.denoiser, pipe.config.training_noise["prediction_type"]
    errors = []
    for rows in torch.arange(len(samples)).split(_BATCH):
        x, times, wanted = samples[rows], timesteps[rows].to(samples.device), labels[rows]
        level = levels_at(table, times.cpu(), x)
        logits, score = read_and_score(pipe.classifier, x, times, wanted)
        posterior = logits.float().softmax(dim=1)
        with torch.no_grad():
            classes = [torch.full_like(wanted, label) for label in range(logits.shape[1])]
            every = torch.stack([predict(denoiser, x, times, label).sample for label in classes])
            told = every[wanted, torch.arange(len(x))]
            mix = torch.einsum("by,yb...->b...", posterior.to(told), every)
            base = predict(denoiser, x, times, posterior if needs_posterior(denoiser) else None).sample
        gradient = guidance_factor(level.alpha, level.sigma, prediction_type) * score
        parts = (told - mix, gradient - (told - mix), base - mix)
        errors.append(torch.stack([part.flatten(1).square().sum(dim=1) for part in parts]).cpu())
    every_error, ratios = torch.cat(errors, dim=1).double(), table.ratio[timesteps.cpu()]
    found = []
    for low, high in zip(_RATIOS, _RATIOS[1:], strict=False):
        inside = (ratios > low) & (ratios <= high)
        if count := int(inside.sum()):
            means = every_error[:, inside].mean(dim=1).tolist()
            names = ("wanted", "gradient_error", "base_error")
            values = {name: measured(mean, count) for name, mean in zip(names, means, strict=True)}
            found.append({"ratio": ratios[inside].median().item(), **values})
    return found


def learned_scores(num_updates: int = _UPDATES, seed: int = 0) -> dict[str, list[dict[str, float]]]:
    """What :func:`compare_scores` says of a classifier without the gate, with it, and of one trained in a ``pair``.

    Data, weights, order and noise are the same for all.
    """
    return {
        name: compare_scores(train_on_mixture(PLANE, COSINE, *how, num_updates, seed), PLANE, COSINE, seed)
        for name, how in (("plain", (False, False)), ("gated", (True, False)), ("pair", (True, True)))
    }


def train_on_mixture(
    mixture: Mixture,
    schedule: dict[str, Any],
    gated: bool,
    paired: bool = False,
    num_updates: int = _UPDATES,
    seed: int = 0,
) -> nn.Module:
    """A small classifier, trained by cross-entropy on noisy draws of all levels.

    A ``gated`` one knows the schedule, and so reads ``alpha x``. A ``paired`` one is trained together with a denoiser
    that is told its posterior, towards the exact prediction for the label, as ``training/train_pair.py`` does. An
    update is of 256 samples, AdamW in one cycle.
    """
    x0, labels = _draws(mixture, _POOL, seed)
    levels = preserving_levels(preserving_table(schedule))
    exact = MixtureDenoiser(**mixture.parameters, schedule=schedule, prediction_type="v_prediction", num_classes=2)

    def build() -> nn.ModuleDict:
        known = schedule if gated else None
        classifier = ResidualMLPClassifier((mixture.dim,), num_classes=2, noise_schedule=known, **_NETWORK)
        networks: dict[str, nn.Module] = {"classifier": classifier}
        if paired:
            networks["denoiser"] = PosteriorResidualMLPDenoiser((mixture.dim,), num_classes=2, **_NETWORK)
        return nn.ModuleDict(networks)

    def losses(networks: nn.ModuleDict) -> Iterator[Tensor]:
        generator = keyed_generator(seed, "training")
        while True:
            rows = torch.randint(_POOL, (_BATCH_SIZE,), generator=generator)
            timesteps = torch.randint(len(levels.sigma), (_BATCH_SIZE,), generator=generator)
            noisy = _noised(x0[rows], levels, timesteps, generator)
            logits = networks["classifier"](noisy.requires_grad_(paired), timesteps).logits
            loss = F.cross_entropy(logits, labels[rows])
            if paired:
                seen, level = noisy.detach(), levels_at(levels, timesteps, noisy)
                with torch.no_grad():
                    target = exact(seen, timesteps, labels[rows]).sample
                base = networks["denoiser"](seen, timesteps, logits.softmax(dim=1)).sample
                loss = loss + _PAIR_WEIGHT * guided_denoising_loss(
                    base, logits, labels[rows], noisy, target, level, "v_prediction"
                )
            yield loss

    return fit(build, losses, num_updates, seed)["classifier"]


def compare_scores(
    network: nn.Module, mixture: Mixture, schedule: dict[str, Any], seed: int = 0
) -> list[dict[str, float]]:
    """Compare the gradient of a classifier with the exact one, on fresh draws at the timesteps nearest to ``LEVELS``.

    Returns:
        A dictionary per level, from the least noise upwards: ``ratio`` (``sigma / alpha``), ``relative_error`` and
        ``clean_sample_error``; see the module.
    """
    exact = MixtureClassifier(**mixture.parameters, schedule=schedule).double()
    dtype = next(network.parameters()).dtype
    x0, labels = _draws(mixture, _TEST, seed + 1)
    levels = preserving_levels(preserving_table(schedule))
    nearest = torch.searchsorted(levels.ratio, torch.tensor(LEVELS, dtype=torch.float64))
    rows = []
    for index, timestep in enumerate(nearest.clamp_max(len(levels.sigma) - 1)):
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
