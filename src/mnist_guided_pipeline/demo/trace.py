r"""What a sampling call passes through: samples, predicted clean samples, and the classifier's beliefs.

Before step i the networks are given ``x_i = alpha_i x0 + sigma_i eps`` (``noise.py``). A trace keeps, for every step,
that ``x_i``, the guide's belief ``p(y | x_i, t_i)``, and the clean sample that the *guided* prediction implies: where
the sampler is heading (Ho et al. 2020, https://arxiv.org/abs/2006.11239, equation 15, in the form of each
``prediction_type``). Watching changes nothing: the images are those of the pipeline's own call, bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from ..sampling.denoiser import Seen, network_levels, see
from ..sampling.noise import predicted_x0
from ..sampling.schedulers import scheduler_family, scheduler_prediction_type


@dataclass(frozen=True)
class Trace:
    """B images and how they came about in T steps; tensors are on the CPU.

    Attributes:
        images: B images, grey or in colour.
        labels: B class indices.
        noise_shares: T numbers ``sigma / (alpha + sigma)``, 1 for pure noise.
        samples: (T, B, ...), what the networks were given.
        clean: (T, B, ...), the clean samples predicted with guidance.
        latents: (B, ...), the result, before decoding.
        beliefs: (T, B, C), the classifier's probabilities; None without a classifier.
    """

    images: list[Image]
    labels: list[int]
    noise_shares: list[float]
    samples: Tensor
    clean: Tensor
    latents: Tensor
    beliefs: Tensor | None


class Tracer:
    """The ``callback_on_step_end`` of a call that keeps what it passes through; given ``latents`` and ``prediction``.

    Nothing else uses the pipeline; ``on_step(steps done, steps in all)`` is called after every step.
    """

    def __init__(
        self, pipe: Any, noise: Tensor, num_inference_steps: int, on_step: Callable[[int, int], None] | None = None
    ):
        self._levels = network_levels(pipe.scheduler, dict(pipe.config.training_noise))
        self._on_step = on_step
        self._seen: list[Seen] = []
        self._clean: list[Tensor] = []
        self._beliefs: list[Tensor] = []
        pipe.prepare_timesteps(num_inference_steps, None, None)
        self._look(pipe, 0, pipe.prepare_latents(len(noise), pipe.device, None, noise))

    def __call__(self, pipe: Any, index: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keep the clean sample of the step that was made, and look at the next one."""
        self._clean.append(_predicted_clean(pipe.scheduler, tensors["prediction"], self._given, self._seen[-1]).cpu())
        if index + 1 < pipe.num_timesteps:
            self._look(pipe, index + 1, tensors["latents"])
        if self._on_step is not None:
            self._on_step(index + 1, pipe.num_timesteps)
        return {}

    def trace(self, images: list[Image], labels: list[int], latents: Tensor) -> Trace:
        """All that was kept, with what came of it."""
        return Trace(
            images=images,
            labels=labels,
            noise_shares=[noise_share(seen) for seen in self._seen],
            samples=torch.stack([seen.sample.cpu() for seen in self._seen]),
            clean=torch.stack(self._clean),
            latents=latents.cpu(),
            beliefs=torch.stack(self._beliefs) if self._beliefs else None,
        )

    def _look(self, pipe: Any, index: int, latents: Tensor) -> None:
        timestep = pipe.scheduler.timesteps[index]
        self._given = pipe.scale_model_input(latents, timestep)
        self._seen.append(see(pipe.scheduler, self._given, timestep, self._levels))
        if pipe.classifier is not None:
            self._beliefs.append(believed(pipe.classifier, self._seen[-1]))


def fresh_pipeline(pipe: Any, scheduler: Any | None = None) -> Any:
    """A pipeline over the same networks with a scheduler of its own: a copy of the pipeline's if None."""
    own = {name: pipe.config[name] for name in ("id2label", "training_noise", "sampling_defaults")}
    own["scheduler"] = copy.deepcopy(pipe.scheduler) if scheduler is None else scheduler
    fresh = type(pipe)(**{**pipe.components, **own})
    fresh.set_progress_bar_config(disable=True)
    return fresh


def believed(classifier: Any, seen: Seen) -> Tensor:
    """Class probabilities (B, C), float32 on the CPU, of what the networks see."""
    logits = classifier(seen.sample.to(classifier.dtype), seen.timestep, return_dict=False)[0]
    return logits.float().softmax(dim=-1).cpu()


def noise_share(seen: Seen) -> float:
    """``sigma / (alpha + sigma)`` of what the networks see."""
    return seen.level.sigma / (seen.level.alpha + seen.level.sigma)


def spread(count: int, last: int) -> list[int]:
    """``count`` whole numbers or fewer from 0 to ``last``, evenly spread."""
    return sorted({round(index) for index in torch.linspace(0, last, min(count, last + 1)).tolist()})


def _predicted_clean(scheduler: Any, prediction: Tensor, given: Tensor, seen: Seen) -> Tensor:
    """The clean sample of a prediction as the scheduler takes it, from what the scheduler gave (B, ...)."""
    if scheduler_family(scheduler) == "edm":
        return scheduler.precondition_outputs(given / seen.level.alpha, prediction, seen.level.ratio)
    return predicted_x0(prediction, given, seen.scheduler_level, scheduler_prediction_type(scheduler))
