"""Without clipping, averaging and a schedule, a script's training is a loop of ``torch.optim.Adam``, and stays safe."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from safetensors.torch import load_file

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.data.images import load_images, to_unit_range
from mnist_guided_pipeline.training.batches import TrainingStream
from mnist_guided_pipeline.training.presets import PRESETS
from training_runs import history, make_config, train

NOTEBOOK = {
    name: getattr(PRESETS["notebook"].vae, name)
    for name in ("lr_scheduler", "lr_warmup_steps", "adam_beta2", "max_grad_norm", "use_ema", "learning_rate")
}


def test_the_preset_trains_as_a_notebook_does(digits_folder, tmp_path):
    seed = dataclasses.asdict(PRESETS["notebook"].vae)
    kept = {name: seed[name] for name in ("reconstruction", "kl_weight")}
    config = make_config("vae", digits_folder, tmp_path, checkpointing_steps=None, **NOTEBOOK, **kept)
    train("vae", config)

    images = load_images(str(digits_folder), "train", max_samples=config.max_train_samples).images
    set_seed(config.seed)
    vae = mgp.MLPVAE(**config.network_arguments)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3)
    stream = TrainingStream(len(images), config.train_batch_size, seed=config.seed)
    for update in range(config.max_train_steps):
        x = to_unit_range(images[stream.indices(update)])
        noise = torch.randn(len(x), *vae.latent_shape, generator=stream.generator(update))
        mean, logvar = vae.encoder(2 * x - 1).chunk(2, dim=1)
        shown = torch.sigmoid(vae.decoder(mean + torch.exp(0.5 * logvar) * noise)).view_as(x)
        kl = -0.5 * torch.sum(1 + logvar - mean**2 - logvar.exp())
        loss = (F.mse_loss(shown, x, reduction="sum") + 0.1 * kl) / len(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    by_script = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    for name, parameter in vae.named_parameters():
        torch.testing.assert_close(by_script[name], parameter.detach(), rtol=1e-4, atol=1e-5, msg=name)
    (logged,) = [event for event in history(tmp_path) if "loss" in event]
    assert logged["loss"] == pytest.approx(loss.item(), rel=1e-4)
    norm = torch.stack([parameter.grad.norm() for parameter in vae.parameters()]).norm().item()
    assert logged["grad_norm"] == pytest.approx(norm, rel=1e-3)  # seen, and left alone
