"""Train a denoiser on the latents of a VAE, or on pixels.

    python training/train_denoiser.py --dataset_name ylecun/mnist --vae_path runs/vae --output_dir runs/denoiser

The result in output_dir is a plain folder for the network's own ``from_pretrained``; the noise it was trained on
is beside it in ``scheduler/``.
"""

import diffusers
import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, ModelMixin, SchedulerMixin
from diffusers.models.embeddings import LabelEmbedding
from torch import Tensor

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.data.images import LabelledImages
from mnist_guided_pipeline.data.posteriors import PosteriorTable, clean_samples, sample_shape_of
from mnist_guided_pipeline.sampling.networks import (
    arguments_for,
    is_conditional,
    mean_prediction,
    null_label,
    num_classes,
    predict,
    sample_shape,
)
from mnist_guided_pipeline.sampling.noise import NoiseLevel
from mnist_guided_pipeline.sampling.schedulers import scheduler_schedule
from mnist_guided_pipeline.seeding import keyed_generator
from mnist_guided_pipeline.storage.pipelines import load_network
from mnist_guided_pipeline.storage.probe import check_label_effect
from mnist_guided_pipeline.training.config import DenoiserConfig
from mnist_guided_pipeline.training.history import takes_images
from mnist_guided_pipeline.training.launch import launch, load_splits, make_network
from mnist_guided_pipeline.training.losses import denoising_loss, min_snr_weight
from mnist_guided_pipeline.training.noise import TrainingNoise
from mnist_guided_pipeline.training.run import Run


def main(config: DenoiserConfig, accelerator: Accelerator) -> None:
    """Train, then save the averaged weights and the scheduler."""
    device = accelerator.device
    vae = load_network(config.vae_path, "vae").to(device) if config.vae_path else None
    train, test = load_splits(config, accelerator)
    training_noise = TrainingNoise(config)
    network_class = getattr(mgp if hasattr(mgp, config.network) else diffusers, config.network)
    arguments = arguments_for(network_class, sample_shape_of(train, vae))
    denoiser = make_network(config, network_class, train, arguments, vae=vae, component="denoiser")
    null = null_label(denoiser)
    if null is None and config.label_dropout > 0 and is_conditional(denoiser):
        raise ValueError(
            f"label_dropout {config.label_dropout} needs a null class, and num_class_embeds {num_classes(denoiser)} "
            f"has none: give num_class_embeds {len(train.class_names) + 1}, or --label_dropout 0."
        )
    for embedding in (part for part in denoiser.modules() if isinstance(part, LabelEmbedding)):
        embedding.dropout_prob = 0.0  # labels are dropped here, by numbers that a resumed run draws again
    run = Run(config, accelerator, train, {"denoiser": denoiser})
    samples = clean_samples(train, vae, progress=accelerator.is_local_main_process).to(device)
    test_samples = clean_samples(test, vae, progress=False).to(device)
    labels = train.labels.to(device)

    def draw(indices: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        noises = training_noise.draw(len(indices), samples.sample_shape, generator)
        return indices, *noises, torch.rand(len(indices), generator=generator) < config.label_dropout

    def prepare(
        indices: Tensor, posterior_noise: Tensor, noise: Tensor, rows: Tensor, dropped: Tensor
    ) -> tuple[Tensor | None, ...]:
        noisy, times, level, target = training_noise.examples(samples, indices, posterior_noise, noise, rows)
        condition = labels[indices] if is_conditional(denoiser) else None
        if condition is not None and null is not None:
            condition = condition.masked_fill(dropped, null)
        weight = None
        if config.snr_gamma is not None:
            flat = NoiseLevel(level.alpha.flatten(), level.sigma.flatten())
            weight = min_snr_weight(flat, config.snr_gamma, config.prediction_type)
        return noisy, times, condition, target, weight

    def measure() -> dict[str, float | Tensor]:
        values = validate(denoiser, test_samples, test.labels, training_noise)
        if config.num_validation_images and isinstance(train, LabelledImages) and takes_images(accelerator):
            scheduler, count = training_noise.scheduler, config.num_validation_images
            values["samples"] = validation_samples(denoiser, vae, scheduler, count, config.seed)
        return values

    for noisy, times, condition, target, weight in run.batches(draw, prepare):
        with accelerator.autocast():
            prediction = mean_prediction(run.model(noisy, times, condition, return_dict=False)[0], noisy)
        if run.step(denoising_loss(prediction, target, weight)):
            run.validate(measure)

    if accelerator.is_main_process:
        check_label_effect(denoiser, config.num_train_timesteps / 2)
    run.finish(denoiser, scheduler=training_noise.scheduler)


@torch.no_grad()
def validate(
    denoiser: ModelMixin, samples: PosteriorTable, labels: Tensor, training_noise: TrainingNoise, num_ranges: int = 5
) -> dict[str, float | Tensor]:
    """Denoising loss on the test set, overall and in equal ranges of the timestep; the same noise every time."""
    denoiser.eval()
    losses = []
    for noisy, times, wanted, target, _ in training_noise.validation_batches(samples, labels):
        condition = wanted if is_conditional(denoiser) else None
        prediction = mean_prediction(predict(denoiser, noisy, times, condition).sample, noisy)
        losses.append(((prediction - target) ** 2).flatten(1).mean(dim=1).cpu())
    denoiser.train()
    errors = torch.cat(losses)
    values: dict[str, float | Tensor] = {"test/loss": errors.mean().item()}
    for index, chunk in enumerate(errors.tensor_split(num_ranges)):
        values[f"test/loss_t{index}of{num_ranges}"] = chunk.mean().item()
    return values


def validation_samples(
    denoiser: ModelMixin, vae: ModelMixin | None, scheduler: SchedulerMixin, num_images: int, seed: int
) -> Tensor:
    """Images uint8 (N, H, W) or (N, 3, H, W) on the CPU, drawn without guidance, of the same noise every time.

    By 20 steps of DDIM, or of Euler for a flow. A class-conditional denoiser draws as many of each class, in order.
    """
    training = denoiser.training
    denoiser.eval()
    pipe = mgp.ClassifierGuidedLatentPipeline(vae, denoiser, None, scheduler)
    flow = scheduler_schedule(scheduler) == "flow"
    pipe.scheduler = pipe.make_scheduler(FlowMatchEulerDiscreteScheduler if flow else DDIMScheduler)
    pipe.set_progress_bar_config(disable=True)
    classes = num_classes(denoiser)
    labels = None if classes is None else torch.arange(num_images) * classes // num_images
    start = torch.randn(num_images, *sample_shape(denoiser), generator=keyed_generator(seed, "samples"))
    images = pipe(
        labels,
        num_images_per_label=num_images if labels is None else 1,
        num_inference_steps=20,
        latents=start.to(denoiser.device),
        output_type="pt",
    ).images
    denoiser.train(training)
    return (images * 255.0).round().to(torch.uint8).squeeze(1).cpu()


if __name__ == "__main__":
    launch(DenoiserConfig, main)
