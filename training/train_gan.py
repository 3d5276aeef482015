"""Train a generator against a discriminator, on 28x28 grey images.

    python training/train_gan.py --dataset_name ylecun/mnist --preset default --output_dir runs/gan
    python training/train_gan.py --dataset_name ylecun/mnist --preset text --output_dir runs/gan-text

The result in output_dir is a plain folder for ``GANGenerator.from_pretrained``; the discriminator that it was trained
against is beside it in ``discriminator/``.

Every update is one step of the discriminator, then one of the generator against it, on fresh noise.
"""

import torch
from accelerate import Accelerator
from diffusers import ModelMixin

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.data.images import LabelledImages, to_model_range, to_uint8
from mnist_guided_pipeline.seeding import keyed_generator
from mnist_guided_pipeline.storage.push import save_result, start_push
from mnist_guided_pipeline.training.batches import Batches
from mnist_guided_pipeline.training.checkpoints import (
    TrainingState,
    averaged_weights,
    make_ema,
    put_averaged_weights,
)
from mnist_guided_pipeline.training.config import GANConfig
from mnist_guided_pipeline.training.losses import discriminator_loss, generator_loss, r1_penalty
from mnist_guided_pipeline.training.presets import GAN_PRESETS
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
    """Judge, and penalise: one forward pass with the inner gradient in it, so that every launcher can wrap it."""

    def __init__(self, discriminator: ModelMixin):
        super().__init__()
        self.discriminator: ModelMixin = discriminator

    def forward(
        self, images: torch.Tensor, labels: torch.Tensor | None, r1_gamma: float = 0.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images in [-1, 1] and their labels to logits (B,) and the R1 penalty ()."""
        if r1_gamma == 0:
            logits = self.discriminator(images, labels).logits
            return logits, logits.new_zeros(())
        images = images.detach().requires_grad_()
        logits = self.discriminator(images, labels).logits
        with torch.autocast(images.device.type, enabled=False):  # for forward passes, not for gradients
            return logits, r1_penalty(logits, images, r1_gamma)


def main(config: GANConfig, accelerator: Accelerator) -> None:
    """Train, then save the generator's averaged weights and the discriminator."""
    device = accelerator.device
    if accelerator.is_main_process:
        start_push(config)
    train, test = load_splits(config, accelerator)
    generator = getattr(mgp, config.network)(**config.network_arguments)
    num_classes, latent_dim = generator.config.num_classes, generator.config.latent_dim
    if num_classes is not None and num_classes != len(train.class_names):
        raise ValueError(
            f"network_config has num_classes {num_classes}, the data set has {len(train.class_names)} classes: give "
            "that number, or leave it out for a generator that is not told the class."
        )
    discriminator = mgp.GANDiscriminator(**{"num_classes": num_classes, **config.discriminator_arguments})
    stream = make_stream(config, accelerator, len(train))
    total_updates = config.total_updates(stream.updates_per_epoch)
    generator_optimizer, generator_schedule = make_optimizer(config, generator, total_updates)
    discriminator_optimizer, discriminator_schedule = make_optimizer(config, discriminator, total_updates)
    generator_model, generator_optimizer = prepare(accelerator, generator, generator_optimizer)
    discriminator_model, discriminator_optimizer = prepare(
        accelerator, Objective(discriminator), discriminator_optimizer
    )
    frozen_discriminator = accelerator.unwrap_model(discriminator_model)  # no gradients of it are exchanged
    ema = make_ema(generator, config.ema_decay) if config.use_ema else None
    state = TrainingState(
        run_settings(config, stream),
        {"generator": generator, "discriminator": discriminator},
        {"generator": ema} if ema else {},
        {"generator": generator_optimizer, "discriminator": discriminator_optimizer},
        {"generator": generator_schedule, "discriminator": discriminator_schedule},
        accelerator.scaler,
    )
    begin(config, accelerator, state)

    pixels = train.images.to(device)
    all_labels = train.labels.to(device)

    def draw(indices: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        return indices, *torch.randn(2, len(indices), latent_dim, generator=generator)

    batches = Batches(stream, device, total_updates, draw)
    progress = Progress(accelerator, total_updates, state.update, stream.global_batch_size)
    validate_every = config.validation_steps or stream.updates_per_epoch
    generator_model.train()
    discriminator_model.train()
    while state.update < total_updates:
        discriminator.requires_grad_(True)
        for rows, noise, _ in batches.of(state.update):
            labels = all_labels[rows] if num_classes is not None else None  # the generated images have them too
            real = to_model_range(pixels.index_select(0, rows))
            with accelerator.autocast():
                with torch.no_grad():
                    fake = generator_model(noise, labels, return_dict=False)[0]
                logits_real, r1 = discriminator_model(real, labels, config.r1_gamma)
                logits_fake, _ = discriminator_model(fake, labels)
            d_loss = discriminator_loss(logits_real, logits_fake)
            accelerator.backward(d_loss + r1)
        d_norm = clip_gradients(accelerator, discriminator_model.parameters(), config.max_grad_norm)
        discriminator_optimizer.step()
        discriminator_optimizer.zero_grad()

        discriminator.requires_grad_(False)  # the generator's loss passes through it and leaves it as it is
        for rows, _, noise in batches.of(state.update):
            labels = all_labels[rows] if num_classes is not None else None
            with accelerator.autocast():
                fake = generator_model(noise, labels, return_dict=False)[0]
                g_loss = generator_loss(frozen_discriminator(fake, labels)[0])
            accelerator.backward(g_loss)
        g_norm = clip_gradients(accelerator, generator_model.parameters(), config.max_grad_norm)
        generator_optimizer.step()
        generator_optimizer.zero_grad()

        generator_schedule.step()
        discriminator_schedule.step()
        if ema:
            ema.step(generator.parameters())
        state.update += 1
        progress.update(
            state.update,
            {
                "discriminator_loss": d_loss.detach(),
                "generator_loss": g_loss.detach(),
                "r1": r1.detach(),
                "logits_real": logits_real.detach().mean(),
                "logits_fake": logits_fake.detach().mean(),
                "lr": generator_schedule.get_last_lr()[0],
                "discriminator_grad_norm": d_norm,
                "generator_grad_norm": g_norm,
            },
        )
        if state.update % validate_every == 0 or state.update == total_updates:
            with averaged_weights(ema, generator), averaged_weights(None, discriminator):
                figures, pictures = validate(generator, discriminator, test, config)
            accelerator.log(figures, step=state.update)
            log_images(accelerator, "samples", pictures, state.update)
            progress.write(
                f"update {state.update}: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
            )
        checkpoint_when_due(config, accelerator, state, progress)
    progress.close()

    put_averaged_weights(ema, generator)
    put_averaged_weights(None, discriminator)
    if accelerator.is_main_process:
        generator.save_pretrained(config.output_dir)
        discriminator.save_pretrained(f"{config.output_dir}/discriminator")
        save_result(config)


@torch.no_grad()
def validate(
    generator: ModelMixin,
    discriminator: ModelMixin,
    test: LabelledImages,
    config: GANConfig,
    num_shown: int = 64,
) -> tuple[dict[str, float], torch.Tensor]:
    """Mean logits of test images and of as many generated ones, and generated images of the same noise every time.

    Real images of the training set alone cannot show a discriminator that learns them by heart: then the logits of
    test images fall to those of generated ones.
    """
    count = len(test)
    noise = torch.randn(count, generator.config.latent_dim, generator=keyed_generator(config.seed, "validation"))
    labels = test.labels.to(generator.device) if generator.config.num_classes is not None else None
    logits, shown = torch.zeros(2, dtype=torch.float64), []
    for rows in torch.arange(count).split(1000):
        given = labels[rows.to(labels.device)] if labels is not None else None
        real = to_model_range(test.images[rows]).to(generator.device)
        fake = generator(noise[rows].to(generator.device), given).sample
        sums = [discriminator(images, given).logits.double().sum() for images in (real, fake)]
        logits += torch.stack(sums).cpu()
        shown.append(to_uint8(fake[:num_shown]).cpu())
    names = ("test/logits_real", "test/logits_fake")
    return dict(zip(names, (logits / count).tolist(), strict=True)), torch.cat(shown)[:num_shown]


if __name__ == "__main__":
    launch(GANConfig, main, presets=GAN_PRESETS)
