"""The faults that need a hand in the sampling or in the data, for ``run_faults.py``.

The pipeline has no switch for any of them: they are put in from outside, by a callback after each step, or around the
function that brings images into model range.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import mnist_guided_pipeline.data.posteriors as encoding
from mnist_guided_pipeline.data.images import to_uint8, to_unit_range
from mnist_guided_pipeline.sampling.noise import noise_level
from mnist_guided_pipeline.seeding import keyed_generator

Callback = Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor]]

_CHUNK = 500


@contextmanager
def images_in_unit_range() -> Iterator[None]:
    """Inside, a denoiser of pixels is trained on images in [0, 1]."""
    own, encoding.to_model_range = encoding.to_model_range, to_unit_range
    try:
        yield
    finally:
        encoding.to_model_range = own


def scaled(scale_at: Callable[[float], float]) -> Callback:
    """A guidance scale of each step, from the sigma of its noise; the first step, in pure noise, is not guided."""

    def set_scale(pipe: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if step + 1 < pipe.num_timesteps:
            sigma = noise_level(pipe.scheduler, step + 1, pipe.scheduler.timesteps[step + 1]).sigma
            pipe._guidance_scale = torch.tensor(scale_at(sigma))
        return {}

    return set_scale


def clamped(pipe: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Latents cut to [-1, 1] after every step, as if they were images."""
    return {"latents": tensors["latents"].clamp(-1.0, 1.0)}


def draw(
    pipe: Any,
    num_images: int,
    seed: int,
    scale: float,
    num_inference_steps: int,
    callback: Callback | None = None,
    unit_range: bool = False,
) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, 28, 28) and the classes that they are of, in turn; ``unit_range`` of samples in [0, 1]."""
    num_classes = len(pipe.id2label)
    wanted = torch.arange(num_images) % num_classes
    pipe.set_progress_bar_config(disable=True)
    parts = []
    for batch in torch.arange(num_images).split(_CHUNK):
        samples = pipe(
            wanted[batch],
            guidance_scale=scale,
            num_inference_steps=num_inference_steps,
            generator=[keyed_generator(seed, int(i) % num_classes, int(i) // num_classes) for i in batch],
            output_type="latent" if unit_range else "pt",
            callback_on_step_end=callback,
        ).images
        parts.append(to_uint8(samples.reshape(-1, 1, 28, 28).clamp(0.0, 1.0) * 2.0 - 1.0))
    return torch.cat(parts), wanted
