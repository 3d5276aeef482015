"""Sharpen the decoder of a VAE against a discriminator; the encoder, and with it the latents, stays as it is.

    python training/train_decoder.py --dataset_name ylecun/mnist --vae_path runs/vae --output_dir runs/decoder

A decoder that is trained by likelihood alone answers with the mean of all images that a latent may stand for, which is
smoother than any of them. With an adversarial loss beside the reconstruction it answers with one that could be real
(Esser et al. 2021, https://arxiv.org/abs/2012.09841, equation 5; Rombach et al. 2022,
https://arxiv.org/abs/2112.10752, section 3.1). The discriminator is told the class, so the decoder keeps to it.

The result in output_dir is a plain folder for ``ConvVAE.from_pretrained`` (or ``MLPVAE``), to use in place of the VAE
before or after the training of a denoiser. Beside it are the discriminator in ``discriminator/`` and the VAE's own
settings in ``vae_train_config.json``.

Every update is one step of the discriminator, then one of the decoder against it.
"""

from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import ModelMixin

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.data.images import LabelledImages, to_model_range, to_uint8, to_unit_range
from mnist_guided_pipeline.data.posteriors import PosteriorTable, encode_images
from mnist_guided_pipeline.sampling.latents import denormalise
from mnist_guided_pipeline.seeding import keyed_generator
from mnist_guided_pipeline.storage.atomic import atomic_write
from mnist_guided_pipeline.storage.pipelines import load_network
from mnist_guided_pipeline.storage.push import save_result, start_push
from mnist_guided_pipeline.training.batches import Batches
from mnist_guided_pipeline.training.checkpoints import (
    TrainingState,
    averaged_weights,
    make_ema,
    put_averaged_weights,
)
from mnist_guided_pipeline.training.config import DecoderConfig
from mnist_guided_pipeline.training.losses import discriminator_loss, generator_loss, reconstruction_loss
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
from train_gan import Objective as DiscriminatorObjective


class Objective(torch.nn.Module):
    """Decode normalised latents: one forward pass, so that every launcher can wrap it."""

    def __init__(self, vae: ModelMixin):
        super().__init__()
        self.vae: ModelMixin = vae

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Normalised latents (B, *latent_shape) to logits (B, 1, 28, 28)."""
        return self.vae.decode_logits(denormalise(latents, self.vae.config))


def as_images(logits: torch.Tensor) -> torch.Tensor:
    """Decoder logits to images in [-1, 1]."""
    return 2.0 * torch.sigmoid(logits) - 1.0


def main(config: DecoderConfig, accelerator: Accelerator) -> None:
    """Train, then save the VAE with the decoder's averaged weights, and the discriminator."""
    device = accelerator.device
    if accelerator.is_main_process:
        start_push(config)
    train, test = load_splits(config, accelerator)
    vae = load_network(config.vae_path, "vae").to(device)
    samples = encode_images(vae, train.images, progress=accelerator.is_local_main_process).to(device)
    test_samples = encode_images(vae, test.images, progress=False).to(device)
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True).train()

    discriminator = mgp.GANDiscriminator(**{"num_classes": len(train.class_names), **config.discriminator_arguments})
    stream = make_stream(config, accelerator, len(train))
    total_updates = config.total_updates(stream.updates_per_epoch)
    decoder_optimizer, decoder_schedule = make_optimizer(config, vae.decoder, total_updates)
    discriminator_optimizer, discriminator_schedule = make_optimizer(config, discriminator, total_updates)
    decoder_model, decoder_optimizer = prepare(accelerator, Objective(vae), decoder_optimizer)
    discriminator_model, discriminator_optimizer = prepare(
        accelerator, DiscriminatorObjective(discriminator), discriminator_optimizer
    )
    frozen_discriminator = accelerator.unwrap_model(discriminator_model)  # no gradients of it are exchanged
    ema = make_ema(vae.decoder, config.ema_decay) if config.use_ema else None
    state = TrainingState(
        run_settings(config, stream),
        {"decoder": vae.decoder, "discriminator": discriminator},
        {"decoder": ema} if ema else {},
        {"decoder": decoder_optimizer, "discriminator": discriminator_optimizer},
        {"decoder": decoder_schedule, "discriminator": discriminator_schedule},
        accelerator.scaler,
    )
    begin(config, accelerator, state)

    pixels = train.images.to(device)
    all_labels = train.labels.to(device)
    num_pixels = pixels[0].numel()

    def draw(indices: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        return indices, torch.randn(len(indices), *samples.sample_shape, generator=generator)

    batches = Batches(stream, device, total_updates, draw)
    progress = Progress(accelerator, total_updates, state.update, stream.global_batch_size)
    validate_every = config.validation_steps or stream.updates_per_epoch
    discriminator_model.train()
    while state.update < total_updates:
        discriminator.requires_grad_(True)
        for rows, noise in batches.of(state.update):
            labels = all_labels[rows]
            real = to_model_range(pixels.index_select(0, rows))
            latents = samples.draw(rows, noise)
            with accelerator.autocast():
                with torch.no_grad():
                    fake = as_images(decoder_model(latents))
                logits_real, r1 = discriminator_model(real, labels, config.r1_gamma)
                logits_fake, _ = discriminator_model(fake, labels)
            d_loss = discriminator_loss(logits_real, logits_fake)
            accelerator.backward(d_loss + r1)
        d_norm = clip_gradients(accelerator, discriminator_model.parameters(), config.max_grad_norm)
        discriminator_optimizer.step()
        discriminator_optimizer.zero_grad()

        discriminator.requires_grad_(False)  # the decoder's loss passes through it and leaves it as it is
        for rows, noise in batches.of(state.update):
            latents = samples.draw(rows, noise)
            with accelerator.autocast():
                logits = decoder_model(latents)
                adversarial = generator_loss(frozen_discriminator(as_images(logits), all_labels[rows])[0])
            images = to_unit_range(pixels.index_select(0, rows))
            reconstruction = reconstruction_loss(logits, images, config.reconstruction).mean()
            loss = adversarial + config.reconstruction_weight / num_pixels * reconstruction
            accelerator.backward(loss)
        grad_norm = clip_gradients(accelerator, decoder_model.parameters(), config.max_grad_norm)
        decoder_optimizer.step()
        decoder_optimizer.zero_grad()

        decoder_schedule.step()
        discriminator_schedule.step()
        if ema:
            ema.step(vae.decoder.parameters())
        state.update += 1
        progress.update(
            state.update,
            {
                "discriminator_loss": d_loss.detach(),
                "adversarial": adversarial.detach(),
                "reconstruction": reconstruction.detach(),
                "r1": r1.detach(),
                "logits_real": logits_real.detach().mean(),
                "logits_fake": logits_fake.detach().mean(),
                "lr": decoder_schedule.get_last_lr()[0],
                "discriminator_grad_norm": d_norm,
                "grad_norm": grad_norm,
            },
        )
        if state.update % validate_every == 0 or state.update == total_updates:
            with averaged_weights(ema, vae.decoder), averaged_weights(None, discriminator):
                figures, pictures = validate(vae, discriminator, test, test_samples, config)
            accelerator.log(figures, step=state.update)
            log_images(accelerator, "test/reconstructions", pictures, state.update)
            progress.write(
                f"update {state.update}: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
            )
        checkpoint_when_due(config, accelerator, state, progress)
    progress.close()

    put_averaged_weights(None, vae)
    put_averaged_weights(ema, vae.decoder)
    put_averaged_weights(None, discriminator)
    if accelerator.is_main_process:
        vae.eval()
        vae.save_pretrained(config.output_dir)
        discriminator.save_pretrained(f"{config.output_dir}/discriminator")
        if (recipe := Path(config.vae_path, "train_config.json")).is_file():
            atomic_write(f"{config.output_dir}/vae_train_config.json", recipe.read_text())
        save_result(config)


@torch.no_grad()
def validate(
    vae: ModelMixin,
    discriminator: ModelMixin,
    test: LabelledImages,
    samples: PosteriorTable,
    config: DecoderConfig,
    num_shown: int = 8,
) -> tuple[dict[str, float], torch.Tensor]:
    """Loss terms and logits on the test set, from draws of the posterior, and originals beside reconstructions."""
    generator = keyed_generator(config.seed, "validation")
    noise = torch.randn(len(test), *samples.sample_shape, generator=generator).to(vae.device)
    sums, shown = torch.zeros(3, dtype=torch.float64), []
    for rows in torch.arange(len(test)).split(1000):
        images, labels = test.images[rows].to(vae.device), test.labels[rows].to(vae.device)
        logits = vae.decode_logits(denormalise(samples.draw(rows, noise[rows]), vae.config))
        values = [reconstruction_loss(logits, to_unit_range(images), config.reconstruction)]
        values += [discriminator(given, labels).logits for given in (to_model_range(images), as_images(logits))]
        sums += torch.stack([value.double().sum() for value in values]).cpu()
        shown.append(to_uint8(as_images(logits[:num_shown])).cpu())
    names = ("test/reconstruction", "test/logits_real", "test/logits_fake")
    figures = dict(zip(names, (sums / len(test)).tolist(), strict=True))
    return figures, torch.cat([test.images[:num_shown], torch.cat(shown)[:num_shown]])


if __name__ == "__main__":
    launch(DecoderConfig, main)
