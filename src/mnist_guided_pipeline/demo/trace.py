r"""A sampling call with everything it passes through: states, predicted clean samples, and the classifier's beliefs.

Before step i the networks see the sample ``x_i = alpha_i x0 + sigma_i eps`` (``noise.py``). A trace keeps, for every
step, that ``x_i``, the guide's belief ``p(y | x_i, t_i)``, and the clean sample that the *guided* prediction implies,
which is where the sampler is heading (Ho et al. 2020, https://arxiv.org/abs/2006.11239, equation 15, in the form of
each ``prediction_type``). Watching changes nothing: the images are those of the pipeline's own call, bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from PIL.Image import Image
from torch import Tensor

from ..sampling.noise import NoiseLevel, noise_level, predicted_x0, preserving_equivalent
from ..sampling.schedulers import scheduler_family, scheduler_prediction_type

__all__ = ["Trace", "View", "fresh_pipeline", "trace_sampling", "view_step"]


@dataclass(frozen=True)
class View:
    """What a step looks like before it is taken.

    Attributes:
        sample: (B, ...), what the networks are given.
        timestep: 0-d, what they are told.
        level: of ``sample``.
        scheduler_sample: (B, ...), the same in the scheduler's own model-input space; another one only where a flow
            scheduler runs variance-preserving networks.
        scheduler_level: of ``scheduler_sample``.
    """

    sample: Tensor
    timestep: Tensor
    level: NoiseLevel
    scheduler_sample: Tensor
    scheduler_level: NoiseLevel


@dataclass(frozen=True)
class Trace:
    """B images and how they came about in T steps; tensors are on the CPU.

    Attributes:
        images: B grey images.
        labels: B class indices, or None for unconditional images.
        noise_shares: T numbers ``sigma / (alpha + sigma)``, 1 for pure noise.
        samples: (T, B, ...), what the networks were given.
        clean: (T, B, ...), the clean samples predicted with guidance.
        latents: (B, ...), the result, before decoding.
        beliefs: (T, B, C), the classifier's probabilities; None without a classifier.
    """

    images: list[Image]
    labels: list[int] | None
    noise_shares: list[float]
    samples: Tensor
    clean: Tensor
    latents: Tensor
    beliefs: Tensor | None


def fresh_pipeline(pipe: Any, scheduler: Any | None = None) -> Any:
    """A pipeline over the same networks with state of its own, so that calls in several threads do not meet.

    Args:
        pipe: a ``ClassifierGuidedLatentPipeline``; it is only read.
        scheduler: one that nothing else uses; a copy of the pipeline's own if None.
    """
    fresh = type(pipe)(
        **{**pipe.components, "scheduler": copy.deepcopy(pipe.scheduler) if scheduler is None else scheduler},
        id2label=pipe.id2label,
        training_noise=dict(pipe.config.training_noise),
        sampling_defaults=dict(pipe.config.sampling_defaults),
    )
    fresh.set_progress_bar_config(disable=True)
    return fresh


def view_step(pipe: Any, sample: Tensor, index: int, adapter: NoiseLevel | None) -> View:
    """What the networks see at a step.

    Args:
        pipe: with timesteps set, and a scheduler that has reached the step.
        sample: (B, ...), in the scheduler's model-input space.
        index: position in ``pipe.scheduler.timesteps``.
        adapter: from ``pipe.prepare_adapter()``.
    """
    time = pipe.scheduler.timesteps[index]
    level = noise_level(pipe.scheduler, index, time)
    if adapter is None:
        return View(sample, time.to(sample.device), level, sample, level)
    divisor, timestep, equivalent = preserving_equivalent(level, adapter)
    return View(sample / divisor, torch.full((), timestep, device=sample.device), equivalent, sample, level)


def trace_sampling(
    pipe: Any,
    class_labels: list[int] | None,
    num_images_per_label: int,
    generators: list[torch.Generator],
    *,
    guidance_scale: float | None = None,
    cfg_scale: float = 1.0,
    num_inference_steps: int,
    on_step: Callable[[int, int], None] | None = None,
) -> Trace:
    """Call a pipeline and keep what it passes through; the arguments are those of the pipeline.

    Args:
        pipe: from :func:`fresh_pipeline`, used by nobody else meanwhile.
        class_labels: class indices, or None.
        num_images_per_label: images of each.
        generators: one an image.
        guidance_scale: None takes the pipeline's own.
        cfg_scale: classifier-free weight, 1 is off.
        num_inference_steps: steps of the scheduler.
        on_step: called as ``on_step(steps done, steps in all)``.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an argument that does not fit, or settings under which the samples overflow.
    """
    device, shape = pipe.device, (len(generators), *pipe.denoiser.config.sample_shape)
    views: list[View] = []
    clean: list[Tensor] = []
    beliefs: list[Tensor] = []

    def watch(latents: Tensor, index: int) -> None:
        time = pipe.scheduler.timesteps[index]
        view = view_step(pipe, pipe.scale_model_input(latents, time), index, pipe.prepare_adapter())
        views.append(view)
        if pipe.classifier is not None:
            logits = pipe.classifier(view.sample.to(pipe.classifier.dtype), view.timestep, return_dict=False)[0]
            beliefs.append(logits.float().softmax(dim=-1).cpu())

    def after_step(_: Any, index: int, __: Any, tensors: dict[str, Tensor]) -> None:
        clean.append(_predicted_clean(pipe, tensors["prediction"], before[-1], views[-1]).cpu())
        if index + 1 < pipe.num_timesteps:
            watch(tensors["latents"], index + 1)
            before.append(tensors["latents"])
        if on_step is not None:
            on_step(index + 1, pipe.num_timesteps)

    with torch.no_grad():
        pipe.prepare_timesteps(num_inference_steps, None, None)
        noise = randn_tensor(shape, generator=generators, device=device, dtype=torch.float32)
        before = [pipe.prepare_latents(len(generators), device, None, noise)]
        watch(before[0], 0)
        latents = pipe(
            class_labels,
            num_images_per_label=num_images_per_label,
            guidance_scale=guidance_scale,
            cfg_scale=cfg_scale,
            num_inference_steps=num_inference_steps,
            generator=generators,
            latents=noise,
            output_type="latent",
            callback_on_step_end=after_step,
            callback_on_step_end_tensor_inputs=["latents", "prediction"],
        ).images
        if not bool(torch.isfinite(latents).all()):
            raise ValueError(
                f"The samples overflowed under {type(pipe.scheduler).__name__} in {num_inference_steps} steps with "
                f"guidance scale {guidance_scale}. Take more steps, or a lower scale."
            )
        images = pipe.decode_latents(latents, "pil")
    repeated = None if class_labels is None else [label for label in class_labels for _ in range(num_images_per_label)]
    return Trace(
        images=images,
        labels=repeated,
        noise_shares=[view.level.sigma / (view.level.alpha + view.level.sigma) for view in views],
        samples=torch.stack([view.sample.cpu() for view in views]),
        clean=torch.stack(clean),
        latents=latents.cpu(),
        beliefs=torch.stack(beliefs) if beliefs else None,
    )


def _predicted_clean(pipe: Any, prediction: Tensor, latents: Tensor, view: View) -> Tensor:
    """The clean sample of a prediction as the scheduler takes it, from the latents before the step."""
    if scheduler_family(pipe.scheduler) == "edm":
        return pipe.scheduler.precondition_outputs(latents, prediction, view.level.ratio)
    kind = scheduler_prediction_type(pipe.scheduler)
    return predicted_x0(prediction, view.scheduler_sample, view.scheduler_level, kind)
