"""Many images of a model, drawn in batches; those of a pipeline are kept on disk.

The classes are wanted in given proportions (:func:`wanted_classes`), and the random generator of an image is keyed by
(seed, class, number within the class). So an image depends on nothing but these: any batch size, any number of
processes, and any number of images around it give the same one (up to the rounding of batched arithmetic, one grey
level at a pixel here and there), every prefix has the proportions, and 10,000 images extend the 1,000 drawn before.

A chunk is written in one rename when it is finished. A run that is killed goes on from there, and 50,000 images are
read back chunk by chunk. A cache is only as honest as its key: the samples lie under a hash of all that they depend on,
networks, scheduler, settings, device and versions.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from tqdm.auto import tqdm

from ..data.images import to_uint8
from ..models.gan import GANGenerator
from ..sampling.arguments import check_count, check_interval, check_number
from ..sampling.schedulers import find_support
from ..seeding import keyed_generator
from ..storage.atomic import atomic_write
from ..training.launch import check_all_seen
from .records import fingerprint, pipeline_fingerprint, public_config, versions

_BATCH = 500
_BOUNDS = {
    "guidance_scale": (0.0, math.inf),
    "cfg_scale": (0.0, math.inf),
    "eta": (0.0, 1.0),
    "guidance_rescale": (0.0, 1.0),
    "classifier_temperature": (1e-6, math.inf),
    "autoguidance_scale": (0.0, math.inf),
}
_NOT_OF_THE_CALL = ("num_images", "seed", "class_weights", "scheduler", "scheduler_options", "negative_class_labels")


@dataclass(frozen=True)
class SamplingSettings:
    """How images are drawn: a scheduler, and the arguments of the pipeline's call, which explains those left out here.

    None takes the pipeline's own value.

    Attributes:
        num_images: N, at least 1.
        seed: of the whole set.
        class_weights: how often each class is wanted, in proportion; equally often if empty. A Frechet distance also
            counts the difference between the mix of labels and that of the reference.
        scheduler: name of a supported diffusers scheduler, built for the pipeline's networks; the pipeline's own with
            its options if None.
        scheduler_options: further settings of that scheduler, such as ``{"use_karras_sigmas": True}``; without
            ``scheduler`` of the class of the pipeline's own.
        negative_class_labels: names or indices; image i is drawn as anything but the i-th of them, which are taken in
            turn. No class is wanted then, so there is no accuracy.

    Raises:
        ValueError: a value that does not fit; the message names it.
    """

    num_images: int = 10_000
    seed: int = 0
    class_weights: tuple[float, ...] = ()
    scheduler: str | None = None
    scheduler_options: Mapping[str, Any] = field(default_factory=dict)
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_interval: tuple[float, float] | None = None
    cfg_scale: float | None = None
    eta: float = 0.0
    guidance_rescale: float = 0.0
    classifier_temperature: float = 1.0
    autoguidance_scale: float = 1.0
    num_particles: int = 1
    negative_class_labels: tuple[str | int, ...] = ()

    def __post_init__(self) -> None:
        check_count("num_images", self.num_images)
        check_count("num_particles", self.num_particles)
        if self.scheduler is not None:
            find_support(self.scheduler)
        if self.num_inference_steps is not None:
            check_count("num_inference_steps", self.num_inference_steps)
        if self.guidance_interval is not None:
            check_interval("guidance_interval", self.guidance_interval)
        for name, bounds in _BOUNDS.items():
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), *bounds)

    def make_scheduler(self, pipe: Any) -> Any:
        """The scheduler that these settings mean for a pipeline."""
        if self.scheduler is None and not self.scheduler_options:
            return pipe.scheduler
        return pipe.make_scheduler(self.scheduler or type(pipe.scheduler), **self.scheduler_options)

    def resolved(self, pipe: Any) -> SamplingSettings:
        """The same settings with the pipeline's own values in place of None."""
        scheduler = self.make_scheduler(pipe)
        own = {"scheduler": type(scheduler).__name__, **pipe.sampling_defaults}
        return dataclasses.replace(self, **{name: value for name, value in own.items() if getattr(self, name) is None})

    def call_arguments(self) -> dict[str, Any]:
        """What the pipeline is called with, but for labels and generators."""
        names = (field.name for field in dataclasses.fields(self))
        return {name: getattr(self, name) for name in names if name not in _NOT_OF_THE_CALL}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an open end of the interval is None, and so is an interval of all noise levels."""
        plain = dataclasses.asdict(self)
        plain |= {name: list(plain[name]) for name in ("class_weights", "negative_class_labels")}
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
    """

    files: tuple[Path, ...]
    labels: Tensor | None
    seconds: float

    def chunks(self) -> Iterator[Tensor]:
        """The images uint8 (n, H, W) or (n, 3, H, W), a chunk at a time."""
        from safetensors.torch import load_file

        for file in self.files:
            yield load_file(file)["images"]

    def images(self) -> Tensor:
        """All images at once, uint8 (N, H, W) or (N, 3, H, W): 39 MB for 50,000 of 28x28."""
        return torch.cat(list(self.chunks()))


def default_cache() -> Path:
    """Where samples are kept: below ``XDG_CACHE_HOME``, or ``~/.cache``."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "mnist_guided_pipeline" / "samples"


def start_processes() -> PartialState:
    """Join the processes that a launcher started; one process without a launcher."""
    state = PartialState(cpu=not torch.accelerator.is_available())
    check_all_seen(state.num_processes, "each would draw everything")
    return state


def wanted_classes(num_images: int, num_classes: int, class_weights: Sequence[float] = ()) -> tuple[Tensor, Tensor]:
    """The class of each image and its number within the class, int64 (num_images,) both.

    The k-th image of a class of proportion p is due at ``(k + 1/2) / p``, and images come in the order of these times
    (Sainte-Lague). So every prefix has the proportions up to one image per class or so, as many images as the weights
    sum up to have just these counts, and equal weights take the classes in turn.

    Args:
        num_images: N.
        num_classes: C.
        class_weights: C numbers of at least 0, in proportion; equal ones if empty.

    Raises:
        ValueError: weights of another number, negative or all 0.
    """
    weights = torch.tensor(class_weights or [1.0] * num_classes, dtype=torch.float64)
    if len(weights) != num_classes or (weights < 0).any() or weights.sum() == 0:
        raise ValueError(
            f"class_weights must be {num_classes} numbers of at least 0, not all 0, got {list(class_weights)}."
        )
    proportions = weights / weights.sum()
    counts = [math.ceil(num_images * part) + 1 if part else 0 for part in proportions.tolist()]
    labels = torch.arange(num_classes).repeat_interleave(torch.tensor(counts))
    numbers = torch.cat([torch.arange(count) for count in counts])
    order = ((numbers + 0.5) / proportions[labels]).argsort(stable=True)[:num_images]
    return labels[order], numbers[order]


def draw_samples(
    pipe: Any,
    num_images: int,
    seed: int,
    call: Mapping[str, Any],
    class_weights: Sequence[float] = (),
    batch_size: int = _BATCH,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Samples of a pipeline that takes labels, and the classes that they are wanted to be, batch by batch.

    Yields:
        ``.images`` of a call with the further arguments ``call``, of which ``output_type`` must make a tensor (n, ...),
        and labels int64 (n,), as :func:`wanted_classes` gives them.
    """
    labels, numbers = wanted_classes(num_images, len(pipe.id2label), class_weights)
    for batch in torch.arange(num_images).split(batch_size):
        generators = _generators(seed, labels[batch], numbers[batch])
        yield pipe(labels[batch], generator=generators, **call).images, labels[batch]


def draw_images(
    pipe: Any,
    settings: SamplingSettings,
    cache_dir: str | os.PathLike[str] | None = None,
    chunk_size: int = _BATCH,
) -> DrawnImages:
    """Draw what is not in the cache yet; under a launcher the processes share the chunks.

    Args:
        pipe: a ``ClassifierGuidedLatentPipeline`` of images, on its device. Its own progress bar is switched
            off. Labels are given where they can matter: with a classifier or a class-conditional denoiser.
        settings: what to draw.
        cache_dir: folder of the samples, seen by every process; :func:`default_cache` if None. Safe to delete.
        chunk_size: images of one call of the pipeline and of one file.

    Returns:
        The images, in index order, the same in every process.

    Raises:
        ValueError: the settings do not fit the pipeline.
    """
    check_count("chunk_size", chunk_size)
    state = start_processes()
    count = settings.num_images
    takes_labels = pipe.classifier is not None or pipe.denoiser_is_conditional
    labelled = takes_labels and not settings.negative_class_labels
    labels, numbers = (
        wanted_classes(count, len(pipe.id2label), settings.class_weights) if labelled else wanted_classes(count, 1)
    )
    scheduler = settings.make_scheduler(pipe)
    settings = settings.resolved(pipe)
    folder = Path(cache_dir or default_cache()) / _key(pipe, scheduler, settings)
    spans = [range(start, min(start + chunk_size, count)) for start in range(0, count, chunk_size)]
    files = {span: folder / f"{span.start:06d}-{span.stop:06d}.safetensors" for span in spans}

    missing = [span for span in spans if _seconds_of(files[span], len(span)) is None]
    state.wait_for_everyone()  # no process writes before all have looked, so all divide the same list
    own_scheduler, pipe.scheduler = pipe.scheduler, scheduler
    try:
        pipe.set_progress_bar_config(disable=True)
        with state.split_between_processes(missing) as mine:
            total = sum(map(len, mine))
            hidden = None if state.is_local_main_process and total else True
            with tqdm(total=total, desc="drawing", unit="image", disable=hidden, leave=False) as bar:
                for span in mine:
                    part = slice(span.start, span.stop)
                    call = settings.call_arguments() | _labels_of_call(settings, span, labels[part], labelled)
                    generators = _generators(settings.seed, labels[part], numbers[part])
                    _draw_chunk(pipe, {**call, "generator": generators}, files[span])
                    bar.update(len(span))
    finally:
        pipe.scheduler = own_scheduler
    state.wait_for_everyone()

    found = (_seconds_of(files[span], len(span)) for span in spans)
    seconds = [each for each in found if each is not None]
    if len(seconds) < len(spans):
        raise OSError(f"cache_dir {str(folder.parent)!r} lacks images that were drawn: all processes must see it.")
    return DrawnImages(
        files=tuple(files.values()),
        labels=labels if labelled else None,
        seconds=sum(seconds),
    )


@torch.no_grad()
def generate_images(generator: GANGenerator, latents: Tensor, labels: Tensor | None = None) -> Tensor:
    """One pass of a generator over latents (N, latent_dim) and classes int64 (N,): uint8 images on the CPU."""
    labels = None if labels is None else labels.to(generator.device)
    return to_uint8(generator(latents.to(generator.device, generator.dtype), labels).sample).cpu()


def draw_gan_images(
    generator: GANGenerator,
    num_images: int,
    seed: int = 0,
    class_weights: Sequence[float] = (),
    chunk_size: int = _BATCH,
) -> tuple[Tensor, Tensor | None]:
    """Images of a generator uint8, and their classes int64 (num_images,) where it takes them; more change no image.

    The noise of an image depends on the seed and its number alone; classes are :func:`wanted_classes`.

    Raises:
        ValueError: a number below 1.
    """
    check_count("num_images", num_images)
    check_count("chunk_size", chunk_size)
    classes, images = generator.config.num_classes, []
    labels = None if classes is None else wanted_classes(num_images, classes, class_weights)[0]
    for numbers in torch.arange(num_images).split(chunk_size):
        noise = [torch.randn(generator.config.latent_dim, generator=keyed_generator(seed, int(i))) for i in numbers]
        images.append(generate_images(generator, torch.stack(noise), None if labels is None else labels[numbers]))
    return torch.cat(images), labels


def _key(pipe: Any, scheduler: Any, settings: SamplingSettings) -> str:
    """Everything but the number of images: more of them extend what is there."""
    return fingerprint(
        pipeline_fingerprint(pipe),
        [type(scheduler).__name__, public_config(scheduler)],
        {name: value for name, value in settings.to_dict().items() if name != "num_images"},
        [str(pipe.device), str(pipe.denoiser.dtype), versions()],
    )


def _generators(seed: int, labels: Tensor, numbers: Tensor) -> list[torch.Generator]:
    return [keyed_generator(seed, *key) for key in zip(labels.tolist(), numbers.tolist(), strict=True)]


def _labels_of_call(settings: SamplingSettings, span: range, labels: Tensor, labelled: bool) -> dict[str, Any]:
    """The arguments that say which classes the images of a span are wanted to be, or not to be."""
    if labelled:
        return {"class_labels": labels}
    if unwanted := settings.negative_class_labels:
        return {"negative_class_labels": [unwanted[index % len(unwanted)] for index in span]}
    return {"num_images_per_label": len(span)}


def _draw_chunk(pipe: Any, call: Mapping[str, Any], file: Path) -> None:
    """Draw images by one call of the pipeline and write them with the time that it took."""
    from safetensors.torch import save

    started = time.perf_counter()
    unit = pipe(output_type="pt", **call).images.cpu()
    seconds = time.perf_counter() - started
    atomic_write(file, save({"images": to_uint8(unit * 2.0 - 1.0)}, metadata={"seconds": repr(seconds)}))


def _seconds_of(file: Path, num_images: int) -> float | None:
    """The time that a chunk took, or None where there is no sound chunk of this size."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as chunk:
            numbers, images = chunk.metadata(), chunk.get_slice("images")
            if images.get_shape()[:1] != [num_images] or images.get_dtype() != "U8":
                return None
            return float(numbers["seconds"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
