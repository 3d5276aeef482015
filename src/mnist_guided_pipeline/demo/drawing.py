"""A drawing as the networks would like it, and what they make of it. Nothing here knows Gradio.

MNIST's digits were scaled to fit 20x20 pixels, keeping their shape, and set into 28x28 with the centre of mass in the
middle (LeCun et al. 1998, http://yann.lecun.com/exdb/publis/pdf/lecun-98.pdf, section III.A). A drawing of another size
or place is foreign to every network trained on them, so it is treated the same way.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..data.images import to_model_range
from ..sampling.latents import normalise
from ..sampling.noise import add_noise
from ..seeding import keyed_generator
from .request import to_bytes
from .trace import fresh_pipeline, view_step

__all__ = ["DrawnDigit", "like_mnist", "read_canvas", "read_drawing"]

_PREFIX = "data:image/png;base64,"
_LONGEST = 400_000  # characters; a canvas of 280x280 takes a few thousand
_LARGEST = 1024  # pixels a side
_LEVELS, _DRAWS = 24, 32  # noise levels of the chart, and noises averaged at each


@dataclass(frozen=True)
class DrawnDigit:
    """What the networks make of an image.

    Attributes:
        reconstruction: what the VAE keeps of it.
        latent: (C, H, W) or (D,), the posterior's mean, normalised: what the denoiser would see.
        noise_shares: T numbers ``sigma / (alpha + sigma)``, rising.
        beliefs: (T, num_classes), the classifier's probabilities, averaged over noises.
        noised: T images, the latent with one noise at every level, decoded.
    """

    reconstruction: Image.Image
    latent: Tensor
    noise_shares: list[float]
    beliefs: Tensor
    noised: list[Image.Image]


def read_canvas(url: str) -> Image.Image:
    """The grey picture in a PNG ``data:`` URL that a browser sent.

    Raises:
        ValueError: it is no such picture, or a very large one.
    """
    if not isinstance(url, str) or not url.startswith(_PREFIX) or len(url) > _LONGEST:
        raise ValueError("The drawing could not be read; clear it and draw again.")
    try:
        image = Image.open(BytesIO(base64.b64decode(url[len(_PREFIX) :], validate=True)), formats=["PNG"])
        if max(image.size) > _LARGEST:
            raise ValueError(f"The drawing must be at most {_LARGEST} pixels a side, got {image.width}x{image.height}.")
        return image.convert("L")
    except (binascii.Error, UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError("The drawing could not be read; clear it and draw again.") from error


def like_mnist(drawing: Image.Image) -> Image.Image:
    """Scale and centre white ink on black as MNIST did.

    Args:
        drawing: grey, of any size.

    Returns:
        28x28, grey.

    Raises:
        ValueError: there is no ink.
    """
    box = drawing.getbbox()
    if box is None:
        raise ValueError("The canvas is empty; draw a digit first.")
    ink = drawing.crop(box)
    ratio = 20 / max(ink.size)
    size = (max(1, round(ink.width * ratio)), max(1, round(ink.height * ratio)))
    ink = ink.resize(size, Image.Resampling.BOX if ratio < 1 else Image.Resampling.BICUBIC)
    pixels = torch.frombuffer(bytearray(ink.tobytes()), dtype=torch.uint8).reshape(ink.height, ink.width).double()
    across = (pixels.sum(dim=0) * torch.arange(ink.width)).sum() / pixels.sum().clamp_min(1)
    down = (pixels.sum(dim=1) * torch.arange(ink.height)).sum() / pixels.sum().clamp_min(1)
    left, top = (
        min(max(round(13.5 - float(centre)), 0), 28 - side)
        for centre, side in zip((across, down), ink.size, strict=True)
    )
    framed = Image.new("L", (28, 28))
    framed.paste(ink, (left, top))
    return framed


@torch.no_grad()
def read_drawing(pipe: Any, image: Image.Image, seed: int = 0) -> DrawnDigit:
    """Encode an image, add more and more noise to its latent, and ask the classifier at every level.

    Args:
        pipe: with a VAE and a classifier; it is only read.
        image: 28x28, grey.
        seed: of the noise; the same noises at all levels.
    """
    fresh = fresh_pipeline(pipe, pipe.make_scheduler(pipe.compatible_schedulers[0]))
    pixels = to_model_range(to_bytes([image])).to(fresh.device, fresh.vae.dtype)
    latent = normalise(fresh.vae.encode(pixels).latent_dist.mode(), fresh.vae.config).float()
    noise = torch.randn(_DRAWS, *latent.shape[1:], generator=keyed_generator(seed, "drawing")).to(latent.device)
    times, adapter = fresh.prepare_timesteps(_LEVELS, None, None), fresh.prepare_adapter()
    shares, beliefs, noisy = [], [], []
    for index in reversed(range(len(times))):
        level = view_step(fresh, latent, index, adapter).scheduler_level
        view = view_step(fresh, add_noise(latent, noise, level), index, adapter)
        logits = fresh.classifier(view.sample.to(fresh.classifier.dtype), view.timestep, return_dict=False)[0]
        beliefs.append(logits.float().softmax(dim=-1).mean(dim=0).cpu())
        shares.append(view.level.sigma / (view.level.alpha + view.level.sigma))
        noisy.append(view.sample[:1])
    reconstruction, *noised = fresh.decode_latents(torch.cat([latent, *noisy]), "pil")
    return DrawnDigit(reconstruction, latent[0].cpu(), shares, torch.stack(beliefs), noised)
