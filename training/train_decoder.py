"""Sharpen the decoder of a VAE against a discriminator; the encoder, and with it the latents, stays as it is.

    python training/train_decoder.py --dataset_name ylecun/mnist --vae_path runs/vae --output_dir runs/decoder

A decoder that is trained by likelihood alone answers with the mean of all images that a latent may stand for, which is
smoother than any of them. With an adversarial loss beside the reconstruction it answers with one that could be real
(Esser et al. 2021, https://arxiv.org/abs/2012.09841, equation 5; Rombach et al. 2022,
https://arxiv.org/abs/2112.10752, section 3.1). The discriminator reads the image, and what the VAE's own frozen encoder
makes of it (Sauer et al. 2021, https://arxiv.org/abs/2111.01007, equation 4); it is told the class, so the decoder
keeps to it.

The result in output_dir is a plain folder for ``ConvVAE.from_pretrained`` (or ``MLPVAE``), to use in place of the VAE
before or after the training of a denoiser. Beside it are the discriminator in ``discriminator/`` and the VAE's own
settings in ``vae_train_config.json``.
"""

import torch
from accelerate import Accelerator
from diffusers import ModelMixin
from torch import Tensor

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.data.images import LabelledImages, to_model_range, to_uint8, to_unit_range
from mnist_guided_pipeline.data.posteriors import PosteriorTable, encode_images, sample_shape_of
from mnist_guided_pipeline.sampling.latents import denormalise
from mnist_guided_pipeline.seeding import keyed_generator
from mnist_guided_pipeline.storage.pipelines import load_network
from mnist_guided_pipeline.training.config import DecoderConfig
from mnist_guided_pipeline.training.launch import launch, load_splits, make_network
from mnist_guided_pipeline.training.losses import discriminator_terms, generator_loss, reconstruction_loss
from mnist_guided_pipeline.training.run import Run
from train_gan import Objective as DiscriminatorObjective


class Objective(torch.nn.Module):
    """Decode normalised latents: one forward pass, so that every launcher can wrap it."""

    def __init__(self, vae: ModelMixin):
        super().__init__()
        self.vae: ModelMixin = vae

    def forward(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, *latent_shape) to logits (B, C, H, W)."""
        return self.vae.decode_logits(denormalise(latents, self.vae.config))


def encoder_stages(encoder: torch.nn.Sequential, images: Tensor) -> list[Tensor]:
    """What the activations of an encoder give for images (B, C, H, W) in [-1, 1], and its output, (B, ...) each."""
    stages, hidden = [], images
    for layer in encoder:
        hidden = layer(hidden)
        if isinstance(layer, torch.nn.SiLU | torch.nn.ReLU):
            stages.append(hidden)
    return [*stages, hidden]


def as_images(logits: Tensor) -> Tensor:
    """Decoder logits to images in [-1, 1]."""
    return 2.0 * torch.sigmoid(logits) - 1.0


def main(config: DecoderConfig, accelerator: Accelerator) -> None:
    """Train, then save the VAE with the decoder's averaged weights, and the discriminator."""
    vae = load_network(config.vae_path, "vae").to(accelerator.device)
    if not hasattr(vae, "decode_logits"):
        raise ValueError(f"vae_path {config.vae_path!r} holds a {type(vae).__name__}; give a ConvVAE or an MLPVAE.")
    train, test = load_splits(config, accelerator)
    sample_shape = sample_shape_of(train, vae)
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)

    pixels, all_labels = train.images.to(accelerator.device), train.labels.to(accelerator.device)
    shapes = [tuple(stage.shape[1:]) for stage in encoder_stages(vae.encoder, to_model_range(pixels[:1]))]
    arguments = {"image_shape": train.image_shape, "num_classes": len(train.class_names), "feature_shapes": shapes}
    discriminator = make_network(config, mgp.GANDiscriminator, train, arguments, setting="discriminator_config")
    networks = {"decoder": vae.decoder, "discriminator": discriminator}
    models = {"decoder": Objective(vae), "discriminator": DiscriminatorObjective(discriminator)}
    run = Run(config, accelerator, train, networks, models)
    critic = run.learners["discriminator"]
    frozen_critic = accelerator.unwrap_model(critic.model)  # no gradients of it are exchanged
    samples = encode_images(vae, train.images, progress=accelerator.is_local_main_process).to(accelerator.device)
    test_samples = encode_images(vae, test.images, progress=False).to(accelerator.device)
    reconstruction_weight = config.reconstruction_weight / pixels[0].numel()

    def draw(indices: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        return indices, torch.randn(len(indices), *sample_shape, generator=generator)

    for parts in run.updates(draw):
        discriminator.requires_grad_(True)
        for rows, noise in parts:
            labels = all_labels[rows]
            real = to_model_range(pixels.index_select(0, rows))
            latents = samples.draw(rows, noise)
            with accelerator.autocast():
                with torch.no_grad():
                    fake = as_images(run.model(latents))
                logits_real, r1 = critic.model(real, labels, config.r1_gamma, encoder_stages(vae.encoder, real))
                logits_fake, _ = critic.model(fake, labels, features=encoder_stages(vae.encoder, fake))
                terms = discriminator_terms(logits_real, logits_fake)
            accelerator.backward(terms["discriminator_loss"] + r1)
        d_norm = critic.step()

        discriminator.requires_grad_(False)  # the decoder's loss passes through it and leaves it as it is
        for rows, noise in parts:
            latents = samples.draw(rows, noise)
            with accelerator.autocast():
                logits = run.model(latents)
                fake = as_images(logits)
                features = encoder_stages(vae.encoder, fake)
                adversarial = generator_loss(frozen_critic(fake, all_labels[rows], features=features)[0])
            images = to_unit_range(pixels.index_select(0, rows))
            reconstruction = reconstruction_loss(logits, images, config.reconstruction).mean()
            accelerator.backward(adversarial + reconstruction_weight * reconstruction)
        grad_norm = run.learners["decoder"].step()

        norms = {"discriminator_grad_norm": d_norm, "grad_norm": grad_norm}
        run.log({**terms, "r1": r1, "adversarial": adversarial, "reconstruction": reconstruction}, norms)
        run.validate(lambda: validate(vae, discriminator, test, test_samples, config))

    run.finish(vae.eval(), {"vae": config.vae_path}, discriminator=discriminator)


@torch.no_grad()
def validate(
    vae: ModelMixin,
    discriminator: ModelMixin,
    test: LabelledImages,
    samples: PosteriorTable,
    config: DecoderConfig,
    num_shown: int = 8,
) -> dict[str, float | Tensor]:
    """Loss terms and logits on the test set, from draws of the posterior, and originals beside reconstructions."""
    generator = keyed_generator(config.seed, "validation")
    noise = torch.randn(len(test), *samples.sample_shape, generator=generator).to(vae.device)
    sums, shown = torch.zeros(3, dtype=torch.float64), []
    for rows in torch.arange(len(test)).split(1000):
        images, labels = test.images[rows].to(vae.device), test.labels[rows].to(vae.device)
        logits = vae.decode_logits(denormalise(samples.draw(rows, noise[rows]), vae.config))
        terms = [reconstruction_loss(logits, to_unit_range(images), config.reconstruction)]
        for given in (to_model_range(images), as_images(logits)):
            terms.append(discriminator(given, labels, features=encoder_stages(vae.encoder, given)).logits)
        sums += torch.stack([term.double().sum() for term in terms]).cpu()
        shown.append(to_uint8(as_images(logits[:num_shown])).cpu())
    names = ("test/reconstruction", "test/logits_real", "test/logits_fake")
    values = dict(zip(names, (sums / len(test)).tolist(), strict=True))
    return values | {"test/reconstructions": torch.cat([test.images[:num_shown], torch.cat(shown)[:num_shown]])}


if __name__ == "__main__":
    launch(DecoderConfig, main)
