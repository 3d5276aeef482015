"""Speed of sampling: the pipeline beside a hand-written loop, diffusers' pixel pipeline and the machine's own rate."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, UNet2DModel

from ..evaluation.samples import wanted_classes
from ..models.autoencoders import MLPVAE
from ..models.mlp import MLPClassifier, MLPDenoiser
from ..storage.pipelines import ClassifierGuidedLatentPipeline
from .loops import plain_sampling
from .timing import count_flops, matrix_product, time_rounds

_BATCH = 500  # images that a pipeline draws at a time, as ``mnist-guided evaluate`` does
_PLAIN_IMAGES = 1000  # of the small networks, drawn at once
_PLAIN_STEPS = 20
_PLAIN_CALLS = 5  # of a round: one takes a tenth of a second, which is too short to time
_PIXEL_IMAGES = 16  # a pixel U-Net is some hundred times slower
_COUNTED = 10  # images by which operations are counted


class _Task(NamedTuple):
    """What is timed, the images it makes (none for a matrix product), and its operations."""

    run: Callable[[], object]
    images: int
    flops: float


def small_networks() -> ClassifierGuidedLatentPipeline:
    """A pipeline of the small networks that notebooks use, T = 20 timesteps, untrained: time does not depend on it."""
    scheduler = DDPMScheduler(_PLAIN_STEPS, beta_schedule="squaredcos_cap_v2", clip_sample=False)
    torch.manual_seed(0)
    pipe = ClassifierGuidedLatentPipeline(
        MLPVAE(latent_dim=16).eval(), MLPDenoiser((16,)).eval(), MLPClassifier((16,)).eval(), scheduler
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def benchmark_sampling(pipe: Any, num_images: int, rounds: int) -> dict[str, Any]:
    """Time a pipeline at its own defaults, and what it is compared with, in the same rounds.

    Returns:
        ``rows``, one per task, with images per second, the spread of the rounds, how many times slower than the
        pipeline it is, and the proportion of the rate of a float32 matrix product that it reaches; and single values,
        among them the time of the pipeline over that of the hand-written loop, with the same small networks.
    """
    pipe.set_progress_bar_config(disable=True)
    device = pipe.device
    in_half = copy.deepcopy(pipe).to(torch.bfloat16)  # samples stay in float32
    small = small_networks().to(device)
    steps = pipe.sampling_defaults["num_inference_steps"]
    pixel = DDIMPipeline(_pixel_unet().to(device), DDIMScheduler())
    pixel.set_progress_bar_config(disable=True)
    labels = torch.arange(10, device=device).repeat(_PLAIN_IMAGES // 10)
    table = small.scheduler.alphas_cumprod.to(device)

    def plain() -> None:
        for _ in range(_PLAIN_CALLS):
            plain_sampling(small.denoiser, small.classifier, small.vae, table, labels, 1.0)

    flops, small_flops = flops_per_image(pipe), flops_per_image(small, _PLAIN_STEPS)
    pixel_flops = count_flops(lambda: pixel(1, num_inference_steps=1, output_type="np")) * float(steps)
    small_images = _PLAIN_CALLS * _PLAIN_IMAGES
    tasks = {
        "pipeline": _Task(lambda: _draw(pipe, num_images, _BATCH), num_images, flops),
        "pipeline, bfloat16": _Task(lambda: _draw(in_half, num_images, _BATCH), num_images, flops),
        "small networks, pipeline": _Task(
            lambda: _draw(small, small_images, _PLAIN_IMAGES, _PLAIN_STEPS), small_images, small_flops
        ),
        "small networks, plain loop": _Task(plain, small_images, small_flops),
        f"pixel U-Net, DDIMPipeline, {steps} steps": _Task(
            lambda: pixel(_PIXEL_IMAGES, num_inference_steps=steps, output_type="np"), _PIXEL_IMAGES, pixel_flops
        ),
    }
    for kind in (torch.float32, torch.bfloat16):
        product, operations = matrix_product(kind, device)
        tasks[f"matrix product, {str(kind).removeprefix('torch.')}"] = _Task(product, 0, operations)
    seconds = time_rounds({name: task.run for name, task in tasks.items()}, rounds)

    median = {name: statistics.median(each) for name, each in seconds.items()}
    rate = tasks["matrix product, float32"].flops / median["matrix product, float32"]
    ours = num_images / median["pipeline"]
    return {
        "rows": {name: _row(task, seconds[name], ours, rate) for name, task in tasks.items()},
        "seconds_for_10000_images": 10_000 / ours,
        "time_of_pipeline_over_plain_loop": median["small networks, pipeline"] / median["small networks, plain loop"],
        "flops_per_image": flops,
        "matmul_flops_per_second": rate,
    }


def flops_per_image(pipe: Any, steps: int | None = None) -> float:
    """Operations of matrix products and convolutions of one guided image, counted in a call of the pipeline."""
    return count_flops(lambda: _draw(pipe, _COUNTED, _COUNTED, steps)) / _COUNTED


def _draw(pipe: Any, num_images: int, batch_size: int, steps: int | None = None) -> None:
    """Draw images of all classes in turn, at most ``batch_size`` at a time, by one generator per call."""
    labels, _ = wanted_classes(num_images, len(pipe.id2label))
    output = "latent" if pipe.vae is None else "pt"
    for batch in labels.split(batch_size):
        generator = torch.Generator().manual_seed(0)
        pipe(batch, num_inference_steps=steps, generator=generator, output_type=output)


def _row(task: _Task, rounds: list[float], ours: float, rate: float) -> dict[str, Any]:
    """Of a task that makes images also how many times slower than ``ours``, images per second, it is."""
    seconds = statistics.median(rounds)
    operations = task.flops * (task.images or 1) / seconds
    row: dict[str, Any] = {}
    if task.images:
        row = {"images": task.images, "images_per_second": task.images / seconds}
        row["times_slower"] = ours / row["images_per_second"]
    return {
        **row,
        "seconds": seconds,
        "fastest_round": min(rounds),
        "slowest_round": max(rounds),
        "GFLOP/s": operations / 1e9,
        "share_of_float32_rate": operations / rate,
    }


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
