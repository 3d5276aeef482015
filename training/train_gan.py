"""Train a generator against a discriminator, on small images.

    python training/train_gan.py --dataset_name ylecun/mnist --preset default --output_dir runs/gan
    python training/train_gan.py --dataset_name ylecun/mnist --preset notebook --output_dir runs/gan-notebook

The result in output_dir is a plain folder for ``GANGenerator.from_pretrained``; the discriminator that it was trained
against is beside it in ``discriminator/``.

Every update is one step of the discriminator, then one of the generator against it, on fresh noise.
"""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from diffusers import ModelMixin
from torch import Tensor

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.data.images import LabelledImages, to_model_range, to_uint8
from mnist_guided_pipeline.seeding import keyed_generator
from mnist_guided_pipeline.training.config import GANConfig
from mnist_guided_pipeline.training.launch import launch, load_splits, make_network
from mnist_guided_pipeline.training.losses import discriminator_terms, generator_loss, r1_penalty
from mnist_guided_pipeline.training.presets import GAN_PRESETS
from mnist_guided_pipeline.training.run import Run


class Objective(torch.nn.Module):
    """Judge, and penalise: one forward pass with the inner gradient in it, so that every launcher can wrap it."""

    def __init__(self, discriminator: ModelMixin):
        super().__init__()
        self.discriminator: ModelMixin = discriminator

    def forward(
        self, images: Tensor, labels: Tensor | None, r1_gamma: float = 0.0, features: Sequence[Tensor] = ()
    ) -> tuple[Tensor, Tensor]:
        """Images in [-1, 1], their labels and features to logits (B,) and the R1 penalty (), of the pixels alone."""
        if r1_gamma > 0:
            images = images.detach().requires_grad_()
        logits = self.discriminator(images, labels, features=features).logits
        if r1_gamma == 0:
            return logits, logits.new_zeros(())
        with torch.autocast(images.device.type, enabled=False):  # for forward passes, not for gradients
            return logits, r1_penalty(logits, images, r1_gamma)


def main(config: GANConfig, accelerator: Accelerator) -> None:
    """Train, then save the generator's averaged weights and the discriminator."""
    train, test = load_splits(config, accelerator)
    arguments = {"image_shape": train.image_shape}
    generator = make_network(config, mgp.GANGenerator, train, arguments)
    num_classes, latent_dim = generator.config.num_classes, generator.config.latent_dim
    arguments |= {"num_classes": num_classes}
    place = {"setting": "discriminator_config", "subfolder": "discriminator"}
    discriminator = make_network(config, mgp.GANDiscriminator, train, arguments, **place)
    networks = {"generator": generator, "discriminator": discriminator}
    run = Run(config, accelerator, train, networks, {"discriminator": Objective(discriminator)})
    critic = run.learners["discriminator"]
    frozen_critic = accelerator.unwrap_model(critic.model)  # no gradients of it are exchanged
    pixels, all_labels = train.images.to(accelerator.device), train.labels.to(accelerator.device)

    def draw(indices: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        return indices, *torch.randn(2, len(indices), latent_dim, generator=generator)

    for parts in run.updates(draw):
        discriminator.requires_grad_(True)
        for rows, noise, _ in parts:
            labels = all_labels[rows] if num_classes is not None else None  # the generated images have them too
            real = to_model_range(pixels.index_select(0, rows))
            with accelerator.autocast():
                with torch.no_grad():
                    fake = run.model(noise, labels, return_dict=False)[0]
                logits_real, r1 = critic.model(real, labels, config.r1_gamma)
                terms = discriminator_terms(logits_real, critic.model(fake, labels)[0])
            accelerator.backward(terms["discriminator_loss"] + r1)
        d_norm = critic.step()

        discriminator.requires_grad_(False)  # the generator's loss passes through it and leaves it as it is
        for rows, _, noise in parts:
            labels = all_labels[rows] if num_classes is not None else None
            with accelerator.autocast():
                fake = run.model(noise, labels, return_dict=False)[0]
                g_loss = generator_loss(frozen_critic(fake, labels)[0])
            accelerator.backward(g_loss)
        g_norm = run.learners["generator"].step()

        norms = {"discriminator_grad_norm": d_norm, "generator_grad_norm": g_norm}
        run.log({**terms, "r1": r1, "generator_loss": g_loss}, norms)
        run.validate(lambda: validate(generator, discriminator, test, config))
    run.finish(generator, discriminator=discriminator)


@torch.no_grad()
def validate(
    generator: ModelMixin, discriminator: ModelMixin, test: LabelledImages, config: GANConfig, num_shown: int = 64
) -> dict[str, float | Tensor]:
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
    return dict(zip(names, (logits / count).tolist(), strict=True)) | {"samples": torch.cat(shown)[:num_shown]}


if __name__ == "__main__":
    launch(GANConfig, main, presets=GAN_PRESETS)
