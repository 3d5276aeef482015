"""Train an autoencoder for 28x28 grey images, and fit the statistics that normalise its latents.

    python training/train_vae.py --dataset_name ylecun/mnist --output_dir runs/vae
    python training/train_vae.py --output_dir runs/vae --network MLPVAE --reconstruction mse --kl_weight 0.1
    python training/train_vae.py --output_dir runs/ae --network MLPVAE --network_config '{"variational": false}'
    python training/train_vae.py --preset manifold --output_dir runs/manifold

The result in output_dir is a plain folder for ``ConvVAE.from_pretrained`` (or ``MLPVAE``).
"""

import torch
from accelerate import Accelerator
from diffusers import ModelMixin

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.data.images import to_uint8, to_unit_range
from mnist_guided_pipeline.data.posteriors import encode_images, latent_statistics
from mnist_guided_pipeline.storage.push import save_result, start_push
from mnist_guided_pipeline.training.batches import Batches
from mnist_guided_pipeline.training.checkpoints import (
    TrainingState,
    averaged_weights,
    make_ema,
    put_averaged_weights,
)
from mnist_guided_pipeline.training.config import VAEConfig
from mnist_guided_pipeline.training.losses import gaussian_kl, reconstruction_loss
from mnist_guided_pipeline.training.presets import AUTOENCODER_PRESETS
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
from mnist_guided_pipeline.training.tracking import log_images


class Objective(torch.nn.Module):
    """Encode, draw, decode: one forward pass, so that every launcher can wrap it."""

    def __init__(self, vae: ModelMixin):
        super().__init__()
        self.vae: ModelMixin = vae

    def forward(self, images: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images in [-1, 1] and standard noise to decoder logits, posterior mean and log-variance."""
        posterior = self.vae.encode(images).latent_dist
        latents = posterior.mean + posterior.std * noise
        return self.vae.decode_logits(latents), posterior.mean, posterior.logvar


def main(config: VAEConfig, accelerator: Accelerator) -> None:
    """Train, then save the averaged weights with fitted latent statistics."""
    if accelerator.is_main_process:
        start_push(config)
    train, test = load_splits(config, accelerator)
    vae = getattr(mgp, config.network)(**config.network_arguments)
    stream = make_stream(config, accelerator, len(train))
    total_updates = config.total_updates(stream.updates_per_epoch)
    optimizer, schedule = make_optimizer(config, vae, total_updates)
    model, optimizer = prepare(accelerator, Objective(vae), optimizer)
    parameters = list(vae.parameters())
    ema = make_ema(vae, config.ema_decay) if config.use_ema else None
    state = TrainingState(
        run_settings(config, stream),
        {"vae": vae},
        {"vae": ema} if ema else {},
        {"vae": optimizer},
        {"vae": schedule},
        accelerator.scaler,
    )
    begin(config, accelerator, state)

    pixels = train.images.to(accelerator.device)

    def draw(indices: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        return indices, torch.randn(len(indices), *vae.latent_shape, generator=generator)

    batches = Batches(stream, accelerator.device, total_updates, draw)
    full_kl_weight = 1.0 if config.kl_weight is None else config.kl_weight
    progress = Progress(accelerator, total_updates, state.update, stream.global_batch_size)
    validate_every = config.validation_steps or stream.updates_per_epoch
    model.train()
    while state.update < total_updates:
        kl_weight = full_kl_weight * min(1.0, (state.update + 1) / max(1, config.kl_warmup_steps))
        for rows, noise in batches.of(state.update):
            images = to_unit_range(pixels.index_select(0, rows))  # image by image, where pixels[rows] is pixel by pixel
            with accelerator.autocast():
                logits, mean, logvar = model(images * 2.0 - 1.0, noise)
            reconstruction = reconstruction_loss(logits, images, config.reconstruction).mean()
            kl = gaussian_kl(mean, logvar).mean() if vae.config.variational else logits.new_zeros(())
            loss = reconstruction + kl_weight * kl
            accelerator.backward(loss)
        grad_norm = clip_gradients(accelerator, parameters, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if ema:
            ema.step(parameters)
        state.update += 1
        progress.update(
            state.update,
            {
                "loss": loss.detach(),
                "reconstruction": reconstruction.detach(),
                "kl": kl.detach(),
                "lr": schedule.get_last_lr()[0],
                "grad_norm": grad_norm,
            },
        )
        if state.update % validate_every == 0 or state.update == total_updates:
            with averaged_weights(ema, vae):
                figures, pictures = validate(vae, test.images, config)
            accelerator.log(figures, step=state.update)
            log_images(accelerator, "test/reconstructions", pictures, state.update)
            progress.write(
                f"update {state.update}: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
            )
        checkpoint_when_due(config, accelerator, state, progress)
    progress.close()

    put_averaged_weights(ema, vae)
    if accelerator.is_main_process:
        vae.eval()
        mean, std = latent_statistics(encode_images(vae, train.images))
        vae.register_to_config(latents_mean=mean, latents_std=std)
        vae.save_pretrained(config.output_dir)
        save_result(config)
        statistics = {"latents/mean": mean, "latents/std": std}
        fitted = {f"{name}_{i}": value for name, values in statistics.items() for i, value in enumerate(values)}
        accelerator.log(fitted, step=total_updates)
        print(*(f"{name}: {', '.join(f'{value:.3f}' for value in values)}" for name, values in statistics.items()))


@torch.no_grad()
def validate(vae: ModelMixin, images: torch.Tensor, config: VAEConfig) -> tuple[dict[str, float], torch.Tensor]:
    """Loss terms and squared error on the test set, and eight originals beside their reconstructions."""
    vae.eval()
    sums = torch.zeros(3, dtype=torch.float64)
    for batch in images.split(1000):
        target = to_unit_range(batch).to(vae.device)
        posterior = vae.encode(target * 2.0 - 1.0).latent_dist
        logits = vae.decode_logits(posterior.mode())
        sums += torch.stack(
            [
                reconstruction_loss(logits, target, config.reconstruction).sum(),
                posterior.kl().sum(),
                ((torch.sigmoid(logits) - target) ** 2).flatten(1).mean(dim=1).sum(),
            ]
        ).cpu()
    shown = vae(to_unit_range(images[:8]).to(vae.device) * 2.0 - 1.0).sample
    vae.train()
    names = ("test/reconstruction", "test/kl", "test/mse")
    return dict(zip(names, (sums / len(images)).tolist(), strict=True)), torch.cat([images[:8], to_uint8(shown).cpu()])


if __name__ == "__main__":
    launch(VAEConfig, main, presets=AUTOENCODER_PRESETS)
