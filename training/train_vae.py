"""Train an autoencoder for small images, and fit the statistics that normalise its latents.

    python training/train_vae.py --dataset_name ylecun/mnist --output_dir runs/vae
    python training/train_vae.py --output_dir runs/vae --network MLPVAE --reconstruction mse --kl_weight 0.1
    python training/train_vae.py --output_dir runs/ae --network MLPVAE --network_config '{"variational": false}'
    python training/train_vae.py --preset manifold --output_dir runs/manifold

The result in output_dir is a plain folder for ``ConvVAE.from_pretrained`` (or ``MLPVAE``).
"""

import torch
from accelerate import Accelerator
from diffusers import ModelMixin
from torch import Tensor

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.data.images import to_model_range, to_uint8, to_unit_range
from mnist_guided_pipeline.data.posteriors import encode_images, latent_statistics, posterior_draw
from mnist_guided_pipeline.training.config import VAEConfig
from mnist_guided_pipeline.training.launch import launch, load_splits, make_network
from mnist_guided_pipeline.training.losses import reconstruction_loss
from mnist_guided_pipeline.training.presets import AUTOENCODER_PRESETS
from mnist_guided_pipeline.training.run import Run


class Objective(torch.nn.Module):
    """Encode, draw, decode: one forward pass, so that every launcher can wrap it."""

    def __init__(self, vae: ModelMixin):
        super().__init__()
        self.vae: ModelMixin = vae

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Images in [-1, 1] and standard noise to decoder logits and the KL divergence of the posterior (B,)."""
        posterior = self.vae.encode(images).latent_dist
        return self.vae.decode_logits(posterior_draw(posterior.mean, posterior.std, noise)), posterior.kl()


def main(config: VAEConfig, accelerator: Accelerator) -> None:
    """Train, then save the averaged weights with fitted latent statistics."""
    train, test = load_splits(config, accelerator)
    network_class, shape = getattr(mgp, config.network), {"image_shape": train.image_shape}
    vae = make_network(config, network_class, train, shape, component="vae")
    vae.register_to_config(latents_mean=None, latents_std=None)  # are fitted anew in the end
    run = Run(config, accelerator, train, {"vae": vae}, {"vae": Objective(vae)})
    pixels = train.images.to(accelerator.device)

    def draw(indices: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        return indices, torch.randn(len(indices), *vae.latent_shape, generator=generator)

    kl_weight = 1.0 if config.kl_weight is None else config.kl_weight
    for rows, noise in run.batches(draw):
        images = to_unit_range(pixels.index_select(0, rows))  # image by image, where pixels[rows] is pixel by pixel
        with accelerator.autocast():
            logits, kl = run.model(images * 2.0 - 1.0, noise)
        reconstruction, kl = reconstruction_loss(logits, images, config.reconstruction).mean(), kl.mean()
        if run.step(reconstruction + kl_weight * kl, reconstruction=reconstruction, kl=kl):
            run.validate(lambda: validate(vae, test.images, config))

    if accelerator.is_main_process:
        vae.eval()
        mean, std = latent_statistics(encode_images(vae, train.images))
        vae.register_to_config(latents_mean=mean, latents_std=std)
        statistics = {"latents/mean": mean, "latents/std": std}
        fitted = {f"{name}_{i}": value for name, values in statistics.items() for i, value in enumerate(values)}
        accelerator.log(fitted, step=run.state.update)
        print(*(f"{name}: {', '.join(f'{value:.3f}' for value in values)}" for name, values in statistics.items()))
    run.finish(vae)


@torch.no_grad()
def validate(vae: ModelMixin, images: Tensor, config: VAEConfig) -> dict[str, float | Tensor]:
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
    shown = vae(to_model_range(images[:8]).to(vae.device)).sample
    vae.train()
    names = ("test/reconstruction", "test/kl", "test/mse")
    values = dict(zip(names, (sums / len(images)).tolist(), strict=True))
    return values | {"test/reconstructions": torch.cat([images[:8], to_uint8(shown).cpu()])}


if __name__ == "__main__":
    launch(VAEConfig, main, presets=AUTOENCODER_PRESETS)
