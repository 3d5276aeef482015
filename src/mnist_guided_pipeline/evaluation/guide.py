r"""What a guide is worth: how well it reads at every noise level, how hard it pulls, and whether it can be fooled.

Guidance adds ``s grad_x log p(y | x, t)`` to the score. In ``x = alpha x0 + sigma eps`` the score of the data is
``-E[eps | x] / sigma``, whose norm is about ``sqrt(d) / sigma`` in d dimensions, so

    share = sigma |grad_x log p(y | x, t)| / sqrt(d)

is the guidance at s = 1 as a share of the score: it compares over noise levels, over schedules and over dimensions.

*Guide hacking*: guidance raises the very probability by which the guide would be judged, so the guide's own accuracy on
finished samples says nothing (the same happens to a reward model under optimisation, Gao et al. 2022,
https://arxiv.org/abs/2210.10760, section 2). :func:`guide_hacking` draws at growing scales and lets both speak, the
guide on the final samples at the least noise and the judge on the images. A gap that grows with the scale is guidance
that pleases the guide alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..data.images import LabelledImages, to_uint8
from ..data.posteriors import encode_images
from ..sampling.guidance import classifier_score
from ..sampling.noise import NoiseLevel, add_noise, levels_at, preserving_levels
from ..sampling.schedulers import preserving_table
from ..seeding import keyed_generator
from .judge import Judge
from .metrics import expected_calibration_error
from .scores import figure, share

__all__ = ["HACKING_SCALES", "guide_by_noise", "guide_hacking", "training_law"]

HACKING_SCALES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_BATCH = 500


def training_law(pipe: Any) -> tuple[Tensor, NoiseLevel]:
    """The timesteps that a pipeline's networks were trained on, and their levels.

    Returns:
        Timesteps int64 (T,), from the least noise upwards, and ``alpha`` and ``sigma`` float64 (T,).

    Raises:
        ValueError: the law has no training timesteps.
    """
    noise = dict(pipe.config.training_noise)
    if noise["law"] == "preserving":
        levels = preserving_levels(preserving_table(noise))
        return torch.arange(len(levels.sigma)), levels
    if noise["law"] == "flow":
        count = noise["num_train_timesteps"]
        timesteps = torch.arange(1, count + 1)
        sigma = timesteps.double() / count
        return timesteps, NoiseLevel(1.0 - sigma, sigma)
    raise ValueError(
        f"The pipeline's networks are of the noise law {noise['law']!r}, which has no training timesteps to report on; "
        "the report takes 'preserving' and 'flow'."
    )


def guide_by_noise(
    pipe: Any, images: LabelledImages, num_bins: int = 10, seed: int = 0, progress: bool = True
) -> list[dict[str, Any]]:
    """Read real images through the noise, in equal ranges of the timestep.

    Every image is noised once a bin, to a timestep drawn from the bin.

    Args:
        pipe: with a classifier; images go through its VAE where it has one.
        images: real ones that the guide has not seen.
        num_bins: ranges of the timestep.
        seed: of the timesteps and the noise.
        progress: show a progress bar.

    Returns:
        A dictionary a bin, from the least noise upwards: ``timesteps`` (first and last), ``ratio`` (median of
        ``sigma / alpha``), and the figures ``accuracy``, ``calibration_error`` (expected, of 15 bins, against the
        label), ``confidence`` (mean of the largest probability) and ``gradient_share`` (mean of the module's ``share``,
        for the true class).

    Raises:
        ValueError: the pipeline has no classifier, or a noise law without training timesteps.
    """
    if pipe.classifier is None:
        raise ValueError("The pipeline has no classifier, so there is no guide to report on.")
    timesteps, table = training_law(pipe)
    posteriors = encode_images(pipe.vae, images.images, progress=progress)
    rows = []
    parts = list(torch.arange(len(timesteps)).tensor_split(num_bins))
    for index, part in enumerate(tqdm(parts, desc="noise levels", disable=None if progress else True, leave=False)):
        generator = keyed_generator(seed, "guide", index)
        posterior_noise, eps = torch.randn(2, len(images), *posteriors.sample_shape, generator=generator)
        entries = part[torch.randint(len(part), (len(images),), generator=generator)]
        probabilities, shares = [], []
        for batch in torch.arange(len(images)).split(_BATCH):
            z0 = posteriors.draw(batch, posterior_noise[batch].to(posteriors.mean.device)).to(pipe.classifier.device)
            level = levels_at(table, entries[batch], z0)
            noisy = add_noise(z0, eps[batch].to(z0), level).to(pipe.classifier.dtype)
            times, labels = timesteps[entries[batch]].to(z0.device), images.labels[batch].to(z0.device)
            with torch.no_grad():
                logits = pipe.classifier(noisy, times, return_dict=False)[0]
            gradient = classifier_score(pipe.classifier, noisy, times, labels).flatten(1)
            norms = gradient.norm(dim=1) * level.sigma.flatten() / gradient.shape[1] ** 0.5
            probabilities.append(logits.float().softmax(dim=1).cpu())
            shares.append(norms.double().cpu())
        read = torch.cat(probabilities)
        hits = int((read.argmax(dim=1) == images.labels).sum())
        middle = part[len(part) // 2]
        rows.append(
            {
                "timesteps": [int(timesteps[part[0]]), int(timesteps[part[-1]])],
                "ratio": float(table.sigma[middle] / table.alpha[middle]),
                "accuracy": share(hits, len(images)),
                "calibration_error": figure(expected_calibration_error(read, images.labels), len(images)),
                "confidence": figure(read.double().max(dim=1).values.mean().item(), len(images)),
                "gradient_share": figure(torch.cat(shares).mean().item(), len(images)),
            }
        )
    return rows


@torch.no_grad()
def guide_hacking(
    pipe: Any,
    judge: Judge,
    num_images: int = 1000,
    scales: Sequence[float] = HACKING_SCALES,
    cfg_scale: float = 1.0,
    seed: int = 0,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Draw at growing scales, and let the guide and the judge say how many images show what was wanted.

    Image i wants class ``i mod C`` and has the same noise at every scale.

    Args:
        pipe: with a classifier; its scheduler and number of steps are used.
        judge: never the guide.
        num_images: images a scale.
        scales: guidance scales.
        cfg_scale: classifier-free weight; 0 leaves the labels to the guide alone.
        seed: of the images.
        progress: show a progress bar.

    Returns:
        A dictionary a scale: ``guidance_scale`` and the figures ``guide_accuracy`` (on final samples, at the least
        noise), ``judge_accuracy`` (on the images), ``guide_confidence`` (mean probability of the wanted class) and
        ``gap`` (the guide's accuracy minus the judge's).

    Raises:
        ValueError: the pipeline has no classifier, or cannot be called with these arguments.
    """
    if pipe.classifier is None:
        raise ValueError("The pipeline has no classifier, so there is no guide to report on.")
    least_noise = training_law(pipe)[0][0].to(pipe.classifier.device)
    num_classes = len(pipe.id2label)
    wanted = torch.arange(num_images) % num_classes
    pipe.set_progress_bar_config(disable=True)
    rows = []
    for scale in tqdm(scales, desc="scales", disable=None if progress else True, leave=False):
        probabilities, seen = [], []
        for batch in torch.arange(num_images).split(_BATCH):
            keys = [(seed, int(index) % num_classes, int(index) // num_classes) for index in batch]
            latents = pipe(
                wanted[batch],
                guidance_scale=float(scale),
                cfg_scale=cfg_scale,
                generator=[keyed_generator(*key) for key in keys],
                output_type="latent",
            ).images
            logits = pipe.classifier(latents.to(pipe.classifier.dtype), least_noise, return_dict=False)[0]
            probabilities.append(logits.float().softmax(dim=1).cpu())
            pixels = pipe.decode_latents(latents, "pt").float().cpu()
            seen.append(judge.predict(to_uint8(pixels * 2.0 - 1.0)).argmax(dim=1))
        read = torch.cat(probabilities)
        by_guide = int((read.argmax(dim=1) == wanted).sum())
        by_judge = int((torch.cat(seen) == wanted).sum())
        rows.append(
            {
                "guidance_scale": float(scale),
                "guide_accuracy": share(by_guide, num_images),
                "judge_accuracy": share(by_judge, num_images),
                "guide_confidence": figure(read[torch.arange(num_images), wanted].mean().item(), num_images),
                "gap": figure((by_guide - by_judge) / num_images, num_images),
            }
        )
    return rows
