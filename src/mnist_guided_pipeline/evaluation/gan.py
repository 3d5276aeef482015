"""Drawing many images of a GAN, to be scored by ``score_images`` as those of any other model."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..data.images import to_uint8
from ..models.gan import GANGenerator
from ..sampling.arguments import check_count
from ..seeding import keyed_generator

__all__ = ["draw_gan_images", "gan_labels"]


def gan_labels(generator: GANGenerator, num_images: int) -> Tensor | None:
    """The classes in turn, int64 (num_images,); None for a generator that is not told a class."""
    num_classes = generator.config.num_classes
    return None if num_classes is None else torch.arange(num_images) % num_classes


@torch.no_grad()
def draw_gan_images(generator: GANGenerator, num_images: int, seed: int = 0, chunk_size: int = 500) -> Iterator[Tensor]:
    """Images of a generator, chunk by chunk, the classes in turn.

    Args:
        generator: on its device.
        num_images: N.
        seed: the noise of an image depends on it and on the image's number alone.
        chunk_size: images at a time; more of them change no image.

    Yields:
        uint8 (n, 28, 28), N in all.

    Raises:
        ValueError: a number below 1.
    """
    check_count("num_images", num_images)
    check_count("chunk_size", chunk_size)
    labels = gan_labels(generator, num_images)
    for numbers in torch.arange(num_images).split(chunk_size):
        noise = [torch.randn(generator.config.latent_dim, generator=keyed_generator(seed, int(i))) for i in numbers]
        latents = torch.stack(noise).to(generator.device, generator.dtype)
        wanted = None if labels is None else labels[numbers].to(generator.device)
        yield to_uint8(generator(latents, wanted).sample).cpu()
