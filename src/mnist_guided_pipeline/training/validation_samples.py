"""Images drawn from a denoiser in training, to see how it comes along."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, ModelMixin, SchedulerMixin
from torch import Tensor

from ..sampling.schedulers import scheduler_schedule
from ..seeding import keyed_generator
from ..storage.pipelines import ClassifierGuidedLatentPipeline

__all__ = ["validation_samples"]


def validation_samples(
    denoiser: ModelMixin,
    vae: ModelMixin | None,
    noise: SchedulerMixin,
    num_images: int,
    seed: int,
    num_inference_steps: int = 20,
) -> Tensor:
    """Draw images without guidance, from the same noise every time: deterministic DDIM, or Euler for a flow.

    Args:
        denoiser: with the weights to look at; a class-conditional one draws as many of each class, in order.
        vae: decodes latents; None for a denoiser of pixels.
        noise: the scheduler of its training, see ``training_noise``.
        num_images: N.
        seed: of the noise.
        num_inference_steps: passes of the denoiser.

    Returns:
        uint8 (N, 28, 28), on the CPU.
    """
    training = denoiser.training
    denoiser.eval()
    pipe = ClassifierGuidedLatentPipeline(vae, denoiser, None, noise)
    flow = scheduler_schedule(noise) == "flow"
    pipe.scheduler = pipe.make_scheduler(FlowMatchEulerDiscreteScheduler if flow else DDIMScheduler)
    pipe.set_progress_bar_config(disable=True)
    classes = denoiser.config.num_classes
    labels = None if classes is None else torch.arange(num_images) * classes // num_images
    start = torch.randn(num_images, *denoiser.config.sample_shape, generator=keyed_generator(seed, "samples"))
    images = pipe(
        labels,
        num_images_per_label=num_images if labels is None else 1,
        num_inference_steps=num_inference_steps,
        latents=start.to(denoiser.device),
        output_type="pt",
    ).images
    denoiser.train(training)
    return (images[:, 0] * 255.0).round().to(torch.uint8).cpu()
