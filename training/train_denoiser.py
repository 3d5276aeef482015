"""Train a denoiser on the latents of a VAE, or on pixels.

    python training/train_denoiser.py --dataset_name ylecun/mnist --vae_path runs/vae --output_dir runs/denoiser

The result in output_dir is a plain folder for ``ResidualMLPDenoiser.from_pretrained``; the noise it was trained on
is beside it in ``scheduler/``.
"""

import torch
from accelerate import Accelerator
from diffusers import ModelMixin
from torch import Tensor

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.data.images import LabelledImages
from mnist_guided_pipeline.data.posteriors import PosteriorTable, clean_samples
from mnist_guided_pipeline.models.probe import check_label_effect
from mnist_guided_pipeline.sampling.noise import NoiseLevel, add_noise, prediction_target
from mnist_guided_pipeline.seeding import keyed_generator
from mnist_guided_pipeline.storage.pipelines import load_network
from mnist_guided_pipeline.storage.push import save_result, start_push
from mnist_guided_pipeline.training.batches import Batches
from mnist_guided_pipeline.training.checkpoints import (
    TrainingState,
    averaged_weights,
    make_ema,
    put_averaged_weights,
)
from mnist_guided_pipeline.training.config import DenoiserConfig
from mnist_guided_pipeline.training.losses import denoising_loss, min_snr_weight
from mnist_guided_pipeline.training.noise import TrainingNoise
from mnist_guided_pipeline.training.progress import Progress, checkpoint_when_due
from mnist_guided_pipeline.training.runtime import (
    begin,
    launch,
    load_splits,
    make_optimizer,
    make_stream,
    run_settings,
)
from mnist_guided_pipeline.training.sharding import clip_gradients, prepare
from mnist_guided_pipeline.training.tracking import log_images, takes_images
from mnist_guided_pipeline.training.validation_samples import validation_samples


def main(config: DenoiserConfig, accelerator: Accelerator) -> None:
    """Train, then save the averaged weights and the scheduler."""
    device = accelerator.device
    if accelerator.is_main_process:
        start_push(config)
    train, test = load_splits(config, accelerator)
    vae = load_network(config.vae_path, "vae").to(device) if config.vae_path else None
    samples = clean_samples(train, vae, progress=accelerator.is_local_main_process).to(device)
    test_samples = clean_samples(test, vae, progress=False).to(device)
    labels = train.labels.to(device)

    noise_law = TrainingNoise(config)
    denoiser = getattr(mgp, config.network)(**{"sample_shape": samples.sample_shape, **config.network_arguments})
    num_classes = denoiser.config.num_classes
    stream = make_stream(config, accelerator, len(train))
    total_updates = config.total_updates(stream.updates_per_epoch)
    optimizer, schedule = make_optimizer(config, denoiser, total_updates)
    model, optimizer = prepare(accelerator, denoiser, optimizer)
    parameters = list(denoiser.parameters())
    ema = make_ema(denoiser, config.ema_decay) if config.use_ema else None
    state = TrainingState(
        run_settings(config, stream),
        {"denoiser": denoiser},
        {"denoiser": ema} if ema else {},
        {"denoiser": optimizer},
        {"denoiser": schedule},
        accelerator.scaler,
    )
    begin(config, accelerator, state)

    def draw(indices: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        posterior_noise, noise = torch.randn(2, len(indices), *samples.sample_shape, generator=generator)
        levels = noise_law.draw(len(indices), generator)
        dropped = torch.rand(len(indices), generator=generator) < config.label_dropout
        return indices, posterior_noise, noise, levels, dropped

    def prepare_inputs(
        indices: Tensor, posterior_noise: Tensor, noise: Tensor, levels: Tensor, dropped: Tensor
    ) -> tuple[Tensor | None, ...]:
        z0 = samples.draw(indices, posterior_noise)
        level = noise_law.levels(levels, z0)
        condition = labels[indices].masked_fill(dropped, num_classes) if num_classes is not None else None
        weight = None
        if config.snr_gamma is not None:
            flat = NoiseLevel(level.alpha.flatten(), level.sigma.flatten())
            weight = min_snr_weight(flat, config.snr_gamma, config.prediction_type)
        target = prediction_target(z0, noise, level, config.prediction_type)
        return add_noise(z0, noise, level), noise_law.timesteps(levels, device), condition, target, weight

    batches = Batches(stream, device, total_updates, draw, prepare_inputs)
    progress = Progress(accelerator, total_updates, state.update, stream.global_batch_size)
    validate_every = config.validation_steps or stream.updates_per_epoch
    model.train()
    while state.update < total_updates:
        stream.seed_dropout(state.update, device)
        for noisy, times, condition, target, weight in batches.of(state.update):
            with accelerator.autocast():
                prediction = model(noisy, times, condition, return_dict=False)[0]
            loss = denoising_loss(prediction, target, weight)
            accelerator.backward(loss)
        grad_norm = clip_gradients(accelerator, parameters, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if ema:
            ema.step(parameters)
        state.update += 1
        progress.update(state.update, {"loss": loss.detach(), "lr": schedule.get_last_lr()[0], "grad_norm": grad_norm})
        if state.update % validate_every == 0 or state.update == total_updates:
            with averaged_weights(ema, denoiser):
                figures = validate(denoiser, test_samples, test.labels, noise_law, config)
                if config.num_validation_images and isinstance(train, LabelledImages) and takes_images(accelerator):
                    drawn = (noise_law.scheduler, config.num_validation_images, config.seed)
                    log_images(accelerator, "samples", validation_samples(denoiser, vae, *drawn), state.update)
            accelerator.log(figures, step=state.update)
            progress.write(
                f"update {state.update}: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
            )
        checkpoint_when_due(config, accelerator, state, progress)
    progress.close()

    put_averaged_weights(ema, denoiser)
    if accelerator.is_main_process:
        check_label_effect(denoiser, config.num_train_timesteps / 2)
        denoiser.save_pretrained(config.output_dir)
        noise_law.scheduler.save_pretrained(f"{config.output_dir}/scheduler")
        save_result(config)


@torch.no_grad()
def validate(
    denoiser: ModelMixin,
    samples: PosteriorTable,
    labels: torch.Tensor,
    noise_law: TrainingNoise,
    config: DenoiserConfig,
    num_ranges: int = 5,
) -> dict[str, float]:
    """Denoising loss on the test set, overall and in equal ranges of the timestep; the same noise every time."""
    denoiser.eval()
    generator = keyed_generator(config.seed, "validation")
    count = len(samples.mean)
    posterior_noise, noise = torch.randn(2, count, *samples.sample_shape, generator=generator).to(denoiser.device)
    levels = noise_law.spread(count)
    z0 = samples.draw(torch.arange(count), posterior_noise)
    losses = []
    for rows in torch.arange(count).split(1000):
        level = noise_law.levels(levels[rows], z0)
        condition = labels[rows].to(denoiser.device) if denoiser.config.num_classes is not None else None
        noisy = add_noise(z0[rows], noise[rows], level)
        prediction = denoiser(noisy, noise_law.timesteps(levels[rows], noisy.device), condition).sample
        target = prediction_target(z0[rows], noise[rows], level, config.prediction_type)
        losses.append(((prediction - target) ** 2).flatten(1).mean(dim=1).cpu())
    denoiser.train()
    errors = torch.cat(losses)
    figures = {"test/loss": errors.mean().item()}
    for index, chunk in enumerate(errors.tensor_split(num_ranges)):
        figures[f"test/loss_t{index}of{num_ranges}"] = chunk.mean().item()
    return figures


if __name__ == "__main__":
    launch(DenoiserConfig, main)
