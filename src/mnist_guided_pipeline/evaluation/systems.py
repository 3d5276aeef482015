"""Generative models of different kinds, side by side: what their images are worth, and what these cost.

Every kind draws the way it can. A plain autoencoder has no prior, so its latents are drawn from a Gaussian fitted to
those of the training set; a VAE draws N(0, I); a GAN and the diffusion pipelines take labels where they were trained
with them, the classes in turn. Speed is of the drawing alone, without loading and fitting, and parameters are of the
networks that draw: encoders and discriminators are left out.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .autoencoders import decode_images, fitted_draws, prior_draws
from .gan import draw_gan_images, gan_labels
from .judge import Judge
from .samples import SamplingSettings, draw_images
from .scores import Reference, figure, floors, score_images

__all__ = ["SystemImages", "compare_systems", "draw_autoencoder", "draw_gan", "draw_pipeline"]

_CHUNK = 500
_COLUMNS = ("accuracy", "judge_fid", "judge_precision", "judge_recall", "judge_coverage", "near_copies")


@dataclass(frozen=True)
class SystemImages:
    """What one model has drawn.

    Attributes:
        images: uint8 (N, 28, 28).
        labels: wanted classes int64 (N,), or None for a model that is not told any.
        seconds: of the drawing.
        num_parameters: of the networks that draw.
        drawn: how, in a few words.
    """

    images: Tensor
    labels: Tensor | None
    seconds: float
    num_parameters: int
    drawn: str


def draw_autoencoder(vae: Any, training_images: Tensor, num_images: int, seed: int = 0) -> SystemImages:
    """Images of an autoencoder: from its prior where it is variational, else from a Gaussian fitted afterwards."""
    variational = vae.config.variational
    fitted = None if variational else fitted_draws(vae, training_images, num_images, seed)
    started = time.perf_counter()
    images = decode_images(vae, prior_draws(vae, num_images, seed) if fitted is None else fitted)
    seconds = time.perf_counter() - started
    return SystemImages(images, None, seconds, _count(vae.decoder), "N(0, I)" if variational else "fitted Gaussian")


def draw_gan(generator: Any, num_images: int, seed: int = 0) -> SystemImages:
    """Images of a GAN's generator, the classes in turn where it takes them."""
    started = time.perf_counter()
    images = torch.cat(list(draw_gan_images(generator, num_images, seed, _CHUNK)))
    seconds = time.perf_counter() - started
    return SystemImages(images, gan_labels(generator, num_images), seconds, _count(generator), "one pass")


def draw_pipeline(pipe: Any, settings: SamplingSettings, cache_dir: Any = None) -> SystemImages:
    """Images of a diffusion pipeline; those in the cache keep the seconds that they took."""
    drawn = draw_images(pipe, settings, cache_dir, _CHUNK)
    networks = [pipe.denoiser, pipe.classifier, None if pipe.vae is None else pipe.vae.decoder]
    resolved = settings.resolved(pipe)
    how = f"{str(resolved.scheduler).removesuffix('Scheduler')}, {resolved.num_inference_steps} steps"
    return SystemImages(drawn.images(), drawn.labels, drawn.seconds, sum(map(_count, filter(None, networks))), how)


def compare_systems(
    systems: Iterable[tuple[str, SystemImages, float | None]], reference: Reference, judge: Judge
) -> dict[str, dict[str, Any]]:
    """A table of models.

    Args:
        systems: name, images, and the seconds of the training or None where they are not known.
        reference: real images.
        judge: never a guide.

    Returns:
        Rows by name, the last one of real training images: ``drawn``, ``accuracy`` where classes were wanted, figures
        of quality and variety, ``images_per_second``, ``parameters`` and ``training_minutes``.
    """
    rows: dict[str, dict[str, Any]] = {}
    count = 0
    for name, system, seconds in systems:
        count = len(system.images)
        figures = score_images(system.images.split(_CHUNK), system.labels, judge, reference)
        rows[name] = {
            "drawn": system.drawn,
            **{column: figures[column] for column in _COLUMNS if column in figures},
            "images_per_second": figure(count / system.seconds, count),
            "parameters": system.num_parameters,
            **({} if seconds is None else {"training_minutes": seconds / 60}),
        }
    real = floors(reference, judge, None, count)["real_training_images"]
    rows["real training images"] = {column: real[column] for column in _COLUMNS if column in real}
    return rows


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
