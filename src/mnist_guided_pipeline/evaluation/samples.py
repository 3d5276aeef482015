"""Many images of a pipeline, drawn in chunks that are kept on disk.

Image i wants class ``i mod C`` of C classes and is number ``i // C`` of its class; its random generator is keyed by
(seed, class, number). So an image depends on nothing but its index: any chunk size, any number of processes, and any
number of images around it give the same one (up to the rounding of batched arithmetic, one grey level at a pixel here
and there), every prefix is balanced over the classes, and 10,000 images extend the 1,000 drawn before.

A chunk is written in one rename when it is finished. A run that is killed goes on from there, and 50,000 images are
read back chunk by chunk.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from tqdm.auto import tqdm

from ..data.images import IMAGE_SIZE, to_uint8
from ..sampling.arguments import check_count, check_interval, check_number
from ..sampling.schedulers import SUPPORTED
from ..seeding import keyed_generator
from ..storage.atomic import atomic_write
from .fingerprints import code_fingerprint, fingerprint, pipeline_fingerprint, public_config

__all__ = ["DrawnImages", "SamplingSettings", "default_cache", "draw_images", "start_processes"]


@dataclass(frozen=True)
class SamplingSettings:
    """How images are drawn. None takes the pipeline's own value.

    Attributes:
        num_images: N, at least 1.
        seed: of the whole set.
        scheduler: name of a supported diffusers scheduler, built for the pipeline's networks with that class's
            defaults; the pipeline's own scheduler with its options if None.
        num_inference_steps: steps of the scheduler.
        guidance_scale: s >= 0.
        guidance_interval: noise levels sigma / alpha at which the classifier guides, (low, high].
        cfg_scale: classifier-free weight, 1 is off.
        eta: stochasticity of DDIM, in [0, 1].
        guidance_rescale: how far the spread of guided predictions is brought back, in [0, 1].

    Raises:
        ValueError: a value that does not fit; the message names it.
    """

    num_images: int = 10_000
    seed: int = 0
    scheduler: str | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_interval: tuple[float, float] | None = None
    cfg_scale: float = 1.0
    eta: float = 0.0
    guidance_rescale: float = 0.0

    def __post_init__(self) -> None:
        check_count("num_images", self.num_images)
        if self.scheduler is not None and self.scheduler not in SUPPORTED:
            raise ValueError(
                f"scheduler {self.scheduler!r} is not supported; the supported ones are {', '.join(SUPPORTED)}."
            )
        if self.num_inference_steps is not None:
            check_count("num_inference_steps", self.num_inference_steps)
        if self.guidance_scale is not None:
            check_number("guidance_scale", self.guidance_scale, 0.0)
        if self.guidance_interval is not None:
            check_interval("guidance_interval", self.guidance_interval)
        check_number("cfg_scale", self.cfg_scale, 0.0)
        check_number("eta", self.eta, 0.0, 1.0)
        check_number("guidance_rescale", self.guidance_rescale, 0.0, 1.0)

    def make_scheduler(self, pipe: Any) -> Any:
        """The scheduler that these settings mean for a pipeline."""
        import diffusers

        return pipe.scheduler if self.scheduler is None else pipe.make_scheduler(getattr(diffusers, self.scheduler))

    def resolved(self, pipe: Any) -> SamplingSettings:
        """The same settings with the pipeline's own values for their scheduler in place of None."""
        scheduler = self.make_scheduler(pipe)
        own = {"scheduler": type(scheduler).__name__, **pipe.sampling_defaults}
        return dataclasses.replace(self, **{name: value for name, value in own.items() if getattr(self, name) is None})

    def call_arguments(self) -> dict[str, Any]:
        """What the pipeline is called with."""
        names = ("num_inference_steps", "guidance_scale", "guidance_interval", "cfg_scale", "eta", "guidance_rescale")
        return {name: getattr(self, name) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an open end of the interval is None, and so is one of every noise level."""
        plain = dataclasses.asdict(self)
        if self.guidance_interval == (0.0, math.inf):
            plain["guidance_interval"] = None
        elif self.guidance_interval is not None:
            plain["guidance_interval"] = [None if math.isinf(end) else end for end in self.guidance_interval]
        return plain


@dataclass(frozen=True)
class DrawnImages:
    """Images on disk.

    Attributes:
        files: the chunks, in order.
        labels: wanted classes int64 (N,), or None where the pipeline takes no labels.
        seconds: time spent in the pipeline, summed over the chunks and the processes that drew them.
        num_non_finite: images with a NaN or an infinity, which are stored as black.
    """

    files: tuple[Path, ...]
    labels: Tensor | None
    seconds: float
    num_non_finite: int

    def chunks(self) -> Iterator[Tensor]:
        """The images uint8 (n, 28, 28), a chunk at a time."""
        from safetensors.torch import load_file

        for file in self.files:
            yield load_file(file)["images"]

    def images(self) -> Tensor:
        """All images at once, uint8 (N, 28, 28): 39 MB for 50,000."""
        return torch.cat(list(self.chunks()))


def default_cache() -> Path:
    """Where samples are kept: below ``XDG_CACHE_HOME``, or ``~/.cache``."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "mnist_guided_pipeline" / "samples"


def start_processes() -> PartialState:
    """Join the processes that a launcher started; one process without a launcher.

    Raises:
        RuntimeError: the launcher started several processes, but Accelerate sees one.
    """
    state = PartialState(cpu=not torch.accelerator.is_available())
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size != state.num_processes:
        raise RuntimeError(
            f"The launcher started {world_size} processes, but Accelerate sees {state.num_processes}: each would draw "
            "everything. On CPUs, launch with ACCELERATE_USE_CPU=true."
        )
    return state


def draw_images(
    pipe: Any,
    settings: SamplingSettings,
    cache_dir: str | os.PathLike[str] | None = None,
    chunk_size: int = 500,
    progress: bool = True,
) -> DrawnImages:
    """Draw what is not in the cache yet; under a launcher the processes share the chunks.

    Args:
        pipe: a ``ClassifierGuidedLatentPipeline`` of 28x28 images, on its device. Its own progress bar is switched
            off. Labels are given where they can matter: with a classifier or a class-conditional denoiser.
        settings: what to draw.
        cache_dir: folder of the samples, seen by every process; :func:`default_cache` if None. Safe to delete.
        chunk_size: images of one call of the pipeline and of one file.
        progress: show a progress bar.

    Returns:
        The images, in index order, the same in every process.

    Raises:
        ValueError: the settings do not fit the pipeline.
    """
    check_count("chunk_size", chunk_size)
    state = start_processes()
    takes_labels = pipe.classifier is not None or pipe.denoiser_is_conditional
    num_classes = len(pipe.id2label) if takes_labels else 1
    scheduler = settings.make_scheduler(pipe)
    settings = settings.resolved(pipe)
    folder = Path(cache_dir or default_cache()) / _key(pipe, scheduler, settings)
    spans = [
        range(start, min(start + chunk_size, settings.num_images))
        for start in range(0, settings.num_images, chunk_size)
    ]
    files = {span: folder / f"{span.start:06d}-{span.stop:06d}.safetensors" for span in spans}

    missing = [span for span in spans if _read_numbers(files[span], len(span)) is None]
    state.wait_for_everyone()  # no process writes before all have looked, so all divide the same list
    own_scheduler, pipe.scheduler = pipe.scheduler, scheduler
    try:
        pipe.set_progress_bar_config(disable=True)
        with state.split_between_processes(missing) as mine:
            total = sum(map(len, mine))
            hidden = None if progress and state.is_local_main_process and total else True
            with tqdm(total=total, desc="drawing", unit="image", disable=hidden, leave=False) as bar:
                for span in mine:
                    _draw_chunk(pipe, settings, span, num_classes, takes_labels, files[span])
                    bar.update(len(span))
    finally:
        pipe.scheduler = own_scheduler
    state.wait_for_everyone()

    found = (_read_numbers(files[span], len(span)) for span in spans)
    numbers = [pair for pair in found if pair is not None]
    if len(numbers) < len(spans):
        raise OSError(f"cache_dir {str(folder.parent)!r} lacks images that were drawn: all processes must see it.")
    return DrawnImages(
        files=tuple(files.values()),
        labels=torch.arange(settings.num_images) % num_classes if takes_labels else None,
        seconds=sum(seconds for seconds, _ in numbers),
        num_non_finite=sum(count for _, count in numbers),
    )


def _key(pipe: Any, scheduler: Any, settings: SamplingSettings) -> str:
    """Everything but the number of images: more of them extend what is there."""
    import diffusers

    return fingerprint(
        pipeline_fingerprint(pipe),
        [type(scheduler).__name__, public_config(scheduler)],
        {name: value for name, value in settings.to_dict().items() if name != "num_images"},
        [str(pipe.device), str(pipe.denoiser.dtype), code_fingerprint(), torch.__version__, diffusers.__version__],
    )


def _draw_chunk(
    pipe: Any, settings: SamplingSettings, span: range, num_classes: int, takes_labels: bool, file: Path
) -> None:
    """Draw the images of one span of indices and write them with the time that it took."""
    from safetensors.torch import save

    labels = [index % num_classes for index in span]
    generators = [keyed_generator(settings.seed, index % num_classes, index // num_classes) for index in span]
    started = time.perf_counter()
    unit = pipe(
        labels if takes_labels else None,
        num_images_per_label=1 if takes_labels else len(span),
        generator=generators,
        output_type="pt",
        **settings.call_arguments(),
    ).images.cpu()
    seconds = time.perf_counter() - started
    finite = torch.isfinite(unit).flatten(1).all(dim=1)
    images = to_uint8(torch.where(finite[:, None, None, None], unit, 0.0) * 2.0 - 1.0)
    numbers = {"seconds": repr(seconds), "num_non_finite": str(len(span) - int(finite.sum()))}
    atomic_write(file, save({"images": images}, metadata=numbers))


def _read_numbers(file: Path, num_images: int) -> tuple[float, int] | None:
    """Seconds and number of images that were not finite, or None where there is no sound chunk of this size."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as chunk:
            numbers, images = chunk.metadata(), chunk.get_slice("images")
            if images.get_shape() != [num_images, IMAGE_SIZE, IMAGE_SIZE] or images.get_dtype() != "U8":
                return None
            return float(numbers["seconds"]), int(numbers["num_non_finite"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
