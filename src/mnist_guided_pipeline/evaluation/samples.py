"""Many images of a model, drawn in batches.

The classes are wanted in given proportions (:func:`wanted_classes`), and the random generator of an image is keyed by
(seed, class, number within the class). So an image depends on nothing but these: any batch size, any number of
processes, and any number of images around it give the same one (up to the rounding of batched arithmetic, one grey
level at a pixel here and there), every prefix has the proportions, and 10,000 images begin with the 1,000 of before.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor
from tqdm.auto import tqdm

from ..data.images import to_uint8
from ..models.gan import GANGenerator
from ..sampling.arguments import check_count, check_interval, check_number
from ..sampling.schedulers import find_support
from ..seeding import keyed_generator
from ..training.launch import check_all_seen

_BATCH = 500
_BOUNDS = {
    "guidance_scale": (0.0, math.inf),
    "cfg_scale": (0.0, math.inf),
    "eta": (0.0, 1.0),
    "guidance_rescale": (0.0, 1.0),
    "classifier_temperature": (1e-6, math.inf),
    "autoguidance_scale": (0.0, math.inf),
}
_NOT_OF_THE_CALL = ("num_images", "seed", "class_weights", "scheduler", "scheduler_options")


@dataclass(frozen=True)
class SamplingSettings:
    """How images are drawn: a scheduler, and the arguments of the pipeline's call, which explains those left out here.

    None takes the pipeline's own value.

    Attributes:
        num_images: N, at least 1.
        seed: of the whole set.
        class_weights: how often each class is wanted, in proportion; equally often if empty.
        scheduler: name of a supported diffusers scheduler, built for the pipeline's networks; the pipeline's own with
            its options if None.
        scheduler_options: further settings of that scheduler, such as ``{"use_karras_sigmas": True}``; without
            ``scheduler`` of the class of the pipeline's own.

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
        plain["class_weights"] = list(self.class_weights)
        if self.guidance_interval == (0.0, math.inf):
            plain["guidance_interval"] = None
        elif self.guidance_interval is not None:
            plain["guidance_interval"] = [None if math.isinf(end) else end for end in self.guidance_interval]
        return plain


class DrawnImages(NamedTuple):
    """N images uint8 (N, H, W) or (N, 3, H, W), in order, and the time spent in all calls of the pipeline.

    ``labels`` are the wanted classes int64 (N,), None where the pipeline takes no labels.
    """

    images: Tensor
    labels: Tensor | None
    seconds: float


def start_processes() -> PartialState:
    """Join the processes that a launcher started; one process without a launcher."""
    state = PartialState(cpu=not torch.accelerator.is_available())
    check_all_seen(state.num_processes, "each would draw everything")
    return state


def wanted_classes(num_images: int, num_classes: int, class_weights: Sequence[float] = ()) -> tuple[Tensor, Tensor]:
    """The class of each image and its number within the class, int64 (num_images,) both; weights are equal if left out.

    The k-th image of a class of proportion p is due at ``(k + 1/2) / p``, and images come in the order of these times
    (Sainte-Lague). So every prefix has the proportions up to one image per class or so, as many images as the weights
    sum up to have just these counts, and equal weights take the classes in turn. Weights that are negative, all 0 or of
    another number are a ValueError.
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
    pipe: Any, num_images: int, seed: int, call: Mapping[str, Any], class_weights: Sequence[float] = ()
) -> Iterator[tuple[Tensor, Tensor]]:
    """Samples of a pipeline that takes labels, and the classes that they are wanted to be, batch by batch.

    Yields:
        ``.images`` of a call with the further arguments ``call``, of which ``output_type`` must make a tensor (n, ...),
        and labels int64 (n,), as :func:`wanted_classes` gives them.
    """
    labels, numbers = wanted_classes(num_images, len(pipe.id2label), class_weights)
    for batch in torch.arange(num_images).split(_BATCH):
        generators = _generators(seed, labels[batch], numbers[batch])
        yield pipe(labels[batch], generator=generators, **call).images, labels[batch]


def draw_images(pipe: Any, settings: SamplingSettings, chunk_size: int = _BATCH) -> DrawnImages:
    """Draw images; under a launcher the processes share the work, and each gets all of them.

    The pipeline is of images and on its device; its own progress bar is switched off. Labels are given where they can
    matter: with a classifier or a class-conditional denoiser. Settings that do not fit the pipeline are a ValueError.
    """
    state = start_processes()
    count = settings.num_images
    labelled = pipe.classifier is not None or pipe.denoiser_is_conditional
    labels, numbers = (
        wanted_classes(count, len(pipe.id2label), settings.class_weights) if labelled else wanted_classes(count, 1)
    )
    own_scheduler, pipe.scheduler = pipe.scheduler, settings.make_scheduler(pipe)
    drawn: list[tuple[int, Tensor, float]] = []
    try:
        pipe.set_progress_bar_config(disable=True)
        with state.split_between_processes(list(torch.arange(count).split(chunk_size))) as mine:
            total = sum(map(len, mine))
            hidden = None if state.is_local_main_process and total else True
            with tqdm(total=total, desc="drawing", unit="image", disable=hidden, leave=False) as bar:
                for rows in mine:
                    call = settings.call_arguments()
                    call |= {"class_labels": labels[rows]} if labelled else {"num_images_per_label": len(rows)}
                    generators = _generators(settings.seed, labels[rows], numbers[rows])
                    started = time.perf_counter()
                    unit = pipe(output_type="pt", generator=generators, **call).images.cpu()
                    seconds = time.perf_counter() - started
                    drawn.append((int(rows[0]), to_uint8(unit * 2.0 - 1.0), seconds))
                    bar.update(len(rows))
    finally:
        pipe.scheduler = own_scheduler
    parts = sorted(gather_object(drawn), key=lambda part: part[0])
    images = torch.cat([part for _, part, _ in parts])
    return DrawnImages(images, labels if labelled else None, sum(seconds for _, _, seconds in parts))


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

    The noise of an image depends on the seed and its number, from 0, alone; classes are :func:`wanted_classes`.
    """
    check_count("num_images", num_images)
    classes, images = generator.config.num_classes, []
    labels = None if classes is None else wanted_classes(num_images, classes, class_weights)[0]
    for numbers in torch.arange(num_images).split(chunk_size):
        noise = [torch.randn(generator.config.latent_dim, generator=keyed_generator(seed, int(i))) for i in numbers]
        images.append(generate_images(generator, torch.stack(noise), None if labels is None else labels[numbers]))
    return torch.cat(images), labels


def _generators(seed: int, labels: Tensor, numbers: Tensor) -> list[torch.Generator]:
    return [keyed_generator(seed, *key) for key in zip(labels.tolist(), numbers.tolist(), strict=True)]
