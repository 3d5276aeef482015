"""Speed of sampling: the pipeline beside a hand-written loop, diffusers' pixel pipeline and the machine's own rate."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, UNet2DModel

from ..models.autoencoders import MLPVAE
from ..models.mlp import MLPClassifier, MLPDenoiser
from ..pipeline import ClassifierGuidedLatentPipeline
from .plain_loops import plain_sampling
from .timing import Timing, count_flops, matmul_rate, time_rounds

__all__ = ["benchmark_cold_start", "benchmark_sampling", "flops_per_image", "small_networks"]

_BATCH = 1000  # images that the pipeline and the plain loop draw at a time
_PIXEL_IMAGES = 16  # a pixel U-Net is some hundred times slower
_PIXEL_STEPS = 25
_PLAIN_STEPS = 20
_COUNTED = 8  # samples by which operations are counted


def small_networks() -> ClassifierGuidedLatentPipeline:
    """A pipeline of the small networks that notebooks use, T = 20 timesteps, untrained: time does not depend on it."""
    scheduler = DDPMScheduler(_PLAIN_STEPS, beta_schedule="squaredcos_cap_v2", clip_sample=False)
    torch.manual_seed(0)
    pipe = ClassifierGuidedLatentPipeline(
        MLPVAE(latent_dim=16).eval(), MLPDenoiser((16,)).eval(), MLPClassifier((16,)).eval(), scheduler
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def benchmark_sampling(pipe: ClassifierGuidedLatentPipeline, num_images: int, rounds: int) -> dict[str, Any]:
    """Time a pipeline at its own defaults, and what it is compared with, in the same rounds.

    Args:
        pipe: on its device.
        num_images: images of a round, a multiple of ten.
        rounds: timed rounds.

    Returns:
        A figure's record: a row a task, ratios of the pipeline to each, and the share of the matrix-product rate.

    Raises:
        ValueError: a number of images that the classes do not share equally.
    """
    if num_images < 10 or num_images % 10:
        raise ValueError(f"num_images must be a multiple of 10, the number of classes, got {num_images}.")
    pipe.set_progress_bar_config(disable=True)
    small = small_networks().to(pipe.device)
    pixel = DDIMPipeline(_pixel_unet().to(pipe.device), DDIMScheduler())
    pixel.set_progress_bar_config(disable=True)
    table = small.scheduler.alphas_cumprod
    labels = torch.arange(10).repeat_interleave(_BATCH // 10)

    tasks: dict[str, Callable[[], object]] = {
        "pipeline": lambda: draw(pipe, num_images),
        "small networks, pipeline": lambda: draw(small, _BATCH, _PLAIN_STEPS),
        "small networks, plain loop": lambda: plain_sampling(
            small.denoiser, small.classifier, small.vae, table, labels, 1.0
        ),
        "pixel U-Net, DDIMPipeline": lambda: pixel(_PIXEL_IMAGES, num_inference_steps=_PIXEL_STEPS, output_type="np"),
    }
    timings = time_rounds(tasks, rounds)
    images = dict(zip(tasks, (num_images, _BATCH, _BATCH, _PIXEL_IMAGES), strict=True))
    rows = {name: timing.as_record(images[name]) for name, timing in timings.items()}
    flops = flops_per_image(pipe)
    rate = matmul_rate(torch.float32, pipe.device)
    ours = rows["pipeline"]["images_per_second"]
    return {
        "rows": rows,
        "pipeline_over_plain_loop_time": timings["small networks, pipeline"].median
        / timings["small networks, plain loop"].median,
        "speed_ratio_to_plain_loop": ours / rows["small networks, plain loop"]["images_per_second"],
        "speed_ratio_to_pixel_unet": ours / rows["pixel U-Net, DDIMPipeline"]["images_per_second"],
        "flops_per_image": flops,
        "matmul_flops_per_second": rate,
        "share_of_matmul_rate": flops * ours / rate,
        "seconds_for_10000_images": 10_000 / ours,
    }


def benchmark_cold_start(rounds: int) -> dict[str, Any]:
    """Seconds from a cold command to the first image, and of them the imports; a process each."""
    first_image = "from mnist_guided_pipeline import load_default; load_default()(['3']).images"
    commands = {"imports": "import mnist_guided_pipeline", "first image": first_image}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, code in commands.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - started)
    return {name: Timing.of(values)._asdict() for name, values in seconds.items()}


@torch.no_grad()
def flops_per_image(pipe: ClassifierGuidedLatentPipeline) -> float:
    """Operations of one guided image: at each step the denoiser forwards, and the classifier forwards and backwards.

    The gradient with respect to the sample alone costs as much as the forward pass. Solvers that call the networks
    once a step are assumed.
    """
    pipe.scheduler.set_timesteps(pipe.config.sampling_defaults.get("num_inference_steps", 25))
    sample = torch.zeros(_COUNTED, *pipe.denoiser.config.sample_shape, device=pipe.device)
    times, labels = torch.zeros((), device=pipe.device), torch.zeros(_COUNTED, dtype=torch.int64, device=pipe.device)
    conditional = getattr(pipe.denoiser.config, "num_classes", None) is not None
    denoising = count_flops(lambda: pipe.denoiser(sample, times, labels if conditional else None))
    guiding = 2 * count_flops(lambda: pipe.classifier(sample, times))
    decoding = 0 if pipe.vae is None else count_flops(lambda: pipe.vae.decode(sample))
    return (len(pipe.scheduler.timesteps) * (denoising + guiding) + decoding) / _COUNTED


def draw(pipe: ClassifierGuidedLatentPipeline, num_images: int, steps: int | None = None) -> None:
    """Draw images of all classes alike, at most a thousand at a time, as tensors."""
    remaining = num_images
    while remaining:
        count = min(remaining, _BATCH)
        pipe(
            list(range(10)),
            num_images_per_label=count // 10,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(remaining),
            output_type="pt",
        )
        remaining -= count


def _pixel_unet() -> UNet2DModel:
    """A small pixel-space U-Net as diffusers builds it: three levels, one of them with attention."""
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 64, 64),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    ).eval()
