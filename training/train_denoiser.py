"""Train a denoiser on the latents of a VAE, or on pixels.

    python training/train_denoiser.py --dataset_name ylecun/mnist --vae_path runs/vae --output_dir runs/denoiser

The result in output_dir is a plain folder for ``ResidualMLPDenoiser.from_pretrained``; the noise it was trained on
is beside it in ``scheduler/``.
"""

import dataclasses

import torch
from accelerate import Accelerator

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.atomic import atomic_write
from mnist_guided_pipeline.checkpoints import TrainingState, averaged_weights, make_ema
from mnist_guided_pipeline.config import DenoiserConfig, noise_scheduler
from mnist_guided_pipeline.encoding import PosteriorTable, encode_images
from mnist_guided_pipeline.loading import load_network
from mnist_guided_pipeline.losses import denoising_loss, min_snr_weight
from mnist_guided_pipeline.noise import NoiseLevel, add_noise, levels_at, prediction_target, training_levels
from mnist_guided_pipeline.runtime import (
    Progress,
    launch,
    load_splits,
    make_optimizer,
    make_stream,
)
from mnist_guided_pipeline.streams import keyed_generator
from mnist_guided_pipeline.tracking import start_trackers


def main(config: DenoiserConfig, accelerator: Accelerator) -> None:
    """Train, then save the averaged weights and the scheduler."""
    device = accelerator.device
    train, test = load_splits(config, accelerator)
    vae = load_network(config.vae_path, "vae").to(device) if config.vae_path else None
    samples = encode_images(vae, train.images, progress=accelerator.is_local_main_process)
    test_samples = encode_images(vae, test.images, progress=False)
    labels = train.labels

    scheduler = noise_scheduler(config)
    table = training_levels(scheduler)
    denoiser = getattr(mgp, config.network)(**{"sample_shape": samples.sample_shape, **config.network_arguments})
    num_classes = denoiser.config.num_classes
    stream = make_stream(config, accelerator, len(train))
    total_updates = config.total_updates(stream.updates_per_epoch)
    optimizer, schedule = make_optimizer(config, denoiser, total_updates)
    model, optimizer = accelerator.prepare(denoiser, optimizer)
    ema = make_ema(denoiser, config.ema_decay) if config.use_ema else None
    state = TrainingState(
        dataclasses.asdict(config),
        {"denoiser": denoiser},
        {"denoiser": ema} if ema else {},
        {"denoiser": optimizer},
        {"denoiser": schedule},
        accelerator.scaler,
    )
    if config.resume_from_checkpoint:
        state.resume(config.output_dir, config.resume_from_checkpoint)
    start_trackers(accelerator, config.tracker_project_name, dataclasses.asdict(config))

    progress = Progress(accelerator, total_updates, state.update, stream.global_batch_size)
    validate_every = config.validation_steps or stream.updates_per_epoch
    model.train()
    while state.update < total_updates:
        indices = stream.indices(state.update)
        generator = stream.generator(state.update)
        posterior_noise, noise = torch.randn(2, len(indices), *samples.sample_shape, generator=generator)
        timesteps = torch.randint(config.num_train_timesteps, (len(indices),), generator=generator)
        dropped = torch.rand(len(indices), generator=generator) < config.label_dropout
        for part in stream.parts():
            z0 = samples.draw(indices[part], posterior_noise[part].to(device))
            eps = noise[part].to(device)
            level = levels_at(table, timesteps[part], z0)
            condition = None
            if num_classes is not None:
                condition = labels[indices[part]].masked_fill(dropped[part], num_classes).to(device)
            with accelerator.autocast():
                prediction = model(add_noise(z0, eps, level), timesteps[part].to(device), condition, return_dict=False)[
                    0
                ]
            target = prediction_target(z0, eps, level, config.prediction_type)
            weight = None
            if config.snr_gamma is not None:
                flat = NoiseLevel(level.alpha.flatten(), level.sigma.flatten())
                weight = min_snr_weight(flat, config.snr_gamma, config.prediction_type)
            loss = denoising_loss(prediction, target, weight)
            accelerator.backward(loss / config.gradient_accumulation_steps)
        grad_norm = accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if ema:
            ema.step(denoiser.parameters())
        state.update += 1
        progress.update(state.update, {"loss": loss.detach(), "lr": schedule.get_last_lr()[0], "grad_norm": grad_norm})
        if config.checkpointing_steps and state.update % config.checkpointing_steps == 0:
            if accelerator.is_main_process:
                state.save(config.output_dir, config.checkpoints_total_limit)
        if state.update % validate_every == 0 or state.update == total_updates:
            with averaged_weights(ema, denoiser):
                figures = validate(denoiser, test_samples, test.labels, table, config)
            accelerator.log(figures, step=state.update)
            progress.write(
                f"update {state.update}: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
            )
    progress.close()

    if accelerator.is_main_process:
        if ema:
            ema.copy_to(denoiser.parameters())
        denoiser.save_pretrained(config.output_dir)
        scheduler.save_pretrained(f"{config.output_dir}/scheduler")
        atomic_write(f"{config.output_dir}/train_config.json", config.to_json())


@torch.no_grad()
def validate(
    denoiser: torch.nn.Module,
    samples: PosteriorTable,
    labels: torch.Tensor,
    table: NoiseLevel,
    config: DenoiserConfig,
    levels: int = 5,
) -> dict[str, float]:
    """Denoising loss on the test set, overall and in equal ranges of the timestep; the same noise every time."""
    denoiser.eval()
    generator = keyed_generator(config.seed, "validation")
    count = len(samples.mean)
    posterior_noise, noise = torch.randn(2, count, *samples.sample_shape, generator=generator).to(denoiser.device)
    timesteps = torch.arange(count) * config.num_train_timesteps // count
    z0 = samples.draw(torch.arange(count), posterior_noise)
    losses = []
    for rows in torch.arange(count).split(1000):
        level = levels_at(table, timesteps[rows], z0)
        condition = labels[rows].to(denoiser.device) if denoiser.config.num_classes is not None else None
        noisy = add_noise(z0[rows], noise[rows], level)
        prediction = denoiser(noisy, timesteps[rows].to(denoiser.device), condition).sample
        target = prediction_target(z0[rows], noise[rows], level, config.prediction_type)
        losses.append(((prediction - target) ** 2).flatten(1).mean(dim=1).cpu())
    denoiser.train()
    errors = torch.cat(losses)
    figures = {"test/loss": errors.mean().item()}
    for index, chunk in enumerate(errors.tensor_split(levels)):
        figures[f"test/loss_t{index}of{levels}"] = chunk.mean().item()
    return figures


if __name__ == "__main__":
    launch(DenoiserConfig, main)
