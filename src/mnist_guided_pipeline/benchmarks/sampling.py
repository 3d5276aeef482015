"""Speed of sampling: the pipeline beside a hand-written loop, diffusers' pixel pipeline and the machine's own rate."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, UNet2DModel

from ..models.autoencoders import MLPVAE
from ..models.mlp import MLPClassifier, MLPDenoiser
from ..storage.pipelines import ClassifierGuidedLatentPipeline
from .loops import plain_sampling
from .timing import Timing, count_flops, matrix_product, time_rounds
from .workers import DrawingProcesses, draw

__all__ = ["BATCH_SIZE", "BATCH_SIZES", "benchmark_sampling", "flops_per_image", "small_networks"]

BATCH_SIZE = 500
"""Images that a pipeline draws at a time, as ``mnist-guided evaluate`` does."""

BATCH_SIZES = (100, 250, 1000)
"""Others that are tried beside it."""

_PLAIN_IMAGES = 1000  # of the small networks, drawn at once
_PLAIN_STEPS = 20
_PLAIN_CALLS = 5  # of a round: one takes a tenth of a second, which is too short to time
_PIXEL_IMAGES = 16  # a pixel U-Net is some hundred times slower
_BATCH_IMAGES = 2000  # at most, of a row that tries a batch size
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


def benchmark_sampling(
    load: Callable[[], Any],
    num_images: int,
    rounds: int,
    num_processes: int = 1,
    batch_sizes: tuple[int, ...] = BATCH_SIZES,
) -> dict[str, Any]:
    """Time a pipeline at its own defaults, and what it is compared with, in the same rounds.

    Args:
        load: gives the pipeline on its device; picklable, as every process calls it.
        num_images: images of a round.
        rounds: timed rounds.
        num_processes: of the row that draws with several processes of one thread each, one a core; 1 leaves that row
            out.
        batch_sizes: tried beside :data:`BATCH_SIZE`, in the better of the two ways.

    Returns:
        A figure's record: ``rows``, one a task, with images a second, the spread of the rounds, how many times
        slower than the fastest way of the pipeline it is, and the share of the rate of a float32 matrix product that it
        reaches; and single figures, among them the ratio of the pipeline to the hand-written loop.

    Raises:
        ValueError: no images, no rounds or no process.
    """
    if num_images < 1:
        raise ValueError(f"num_images must be at least 1, got {num_images}.")
    pipe = load()
    pipe.set_progress_bar_config(disable=True)
    device = pipe.device
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
    products = {kind: matrix_product(kind, device) for kind in (torch.float32, torch.bfloat16)}
    few = min(num_images, _BATCH_IMAGES)

    with ExitStack() as stack:
        way: Callable[[int, int], None] = partial(draw, pipe)
        tasks = {f"pipeline, {_threads(device)}": _Task(partial(way, num_images, BATCH_SIZE), num_images, flops)}
        if num_processes > 1:
            way = stack.enter_context(DrawingProcesses(load, num_processes)).draw
            together = f"pipeline, {num_processes} processes of 1 thread"
            tasks[together] = _Task(partial(way, num_images, BATCH_SIZE), num_images, flops)
        in_half = partial(_in_bfloat16, load)
        if num_processes > 1:
            rounded = stack.enter_context(DrawingProcesses(in_half, num_processes)).draw
        else:
            rounded = partial(draw, in_half())
        tasks["the same in bfloat16"] = _Task(partial(rounded, num_images, BATCH_SIZE), num_images, flops)
        for size in batch_sizes:
            tasks[f"the same, {size} at a time"] = _Task(partial(way, few, size), few, flops)
        tasks |= {
            "small networks, pipeline": _Task(
                partial(draw, small, _PLAIN_CALLS * _PLAIN_IMAGES, _PLAIN_IMAGES, _PLAIN_STEPS),
                _PLAIN_CALLS * _PLAIN_IMAGES,
                small_flops,
            ),
            "small networks, plain loop": _Task(plain, _PLAIN_CALLS * _PLAIN_IMAGES, small_flops),
            f"pixel U-Net, DDIMPipeline, {steps} steps": _Task(
                lambda: pixel(_PIXEL_IMAGES, num_inference_steps=steps, output_type="np"), _PIXEL_IMAGES, pixel_flops
            ),
        }
        for kind, (product, operations) in products.items():
            tasks[f"matrix product, {str(kind).removeprefix('torch.')}"] = _Task(product, 0, operations)
        timings = time_rounds({name: task.run for name, task in tasks.items()}, rounds)

    ways = [name for name in tasks if name.startswith("pipeline, ")]
    fastest = min(ways, key=lambda name: timings[name].median)
    rate = products[torch.float32][1] / timings["matrix product, float32"].median
    ours = num_images / timings[fastest].median
    rows = {name: _row(task, timings[name], ours, rate) for name, task in tasks.items()}
    ratio = timings["small networks, pipeline"].median / timings["small networks, plain loop"].median
    workers = num_processes if fastest != ways[0] else torch.get_num_threads()
    return {
        "rows": rows,
        "fastest": fastest,
        "seconds_for_10000_images": 10_000 / ours,
        **({"images_per_second_a_core": ours / workers} if device.type == "cpu" else {}),
        "time_of_pipeline_over_plain_loop": ratio,
        "flops_per_image": flops,
        "matmul_flops_per_second": rate,
    }


def flops_per_image(pipe: ClassifierGuidedLatentPipeline, steps: int | None = None) -> float:
    """Operations of matrix products and convolutions of one guided image, counted in a call of the pipeline."""
    return count_flops(lambda: draw(pipe, _COUNTED, _COUNTED, steps)) / _COUNTED


def _row(task: _Task, timing: Timing, ours: float, rate: float) -> dict[str, Any]:
    """Of a task that makes images also how many times slower than ``ours``, images a second, it is."""
    operations = task.flops * (task.images or 1) / timing.median
    speed: dict[str, Any] = {}
    if task.images:
        speed = {
            "images": task.images,
            "images_per_second": task.images / timing.median,
            "times_slower": ours / (task.images / timing.median),
        }
    return {
        **speed,
        "seconds": timing.median,
        "fastest_round": timing.low,
        "slowest_round": timing.high,
        "GFLOP/s": operations / 1e9,
        "share_of_float32_rate": operations / rate,
    }


def _in_bfloat16(load: Callable[[], Any]) -> Any:
    """The pipeline with its networks in bfloat16; samples stay in float32."""
    return load().to(torch.bfloat16)


def _threads(device: torch.device) -> str:
    if device.type != "cpu":
        return device.type
    count = torch.get_num_threads()
    return f"1 process of {count} thread{'s' if count > 1 else ''}"


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
