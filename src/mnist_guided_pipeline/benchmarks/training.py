"""Speed of training: the scripts beside a notebook's loop, with the same networks, data, batch size and epochs."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler

from ..data import load_images, to_model_range
from ..encoding import encode_images
from ..history import read_history
from ..losses import denoising_loss, gaussian_kl, reconstruction_loss
from ..models.autoencoders import MLPVAE
from ..models.mlp import MLPDenoiser
from .plain_loops import plain_denoiser_training, plain_vae_training
from .timing import count_flops, matmul_rate

__all__ = ["benchmark_training"]

_BATCH = 128
_KL_WEIGHT = 0.1
_LOGGED_AT_ONCE = 50  # the scripts log the mean speed of this many updates


def benchmark_training(scripts: Path, dataset_name: str, epochs: int, folder: Path) -> dict[str, Any]:
    """Train the small VAE and denoiser both ways, one after the other, alternating.

    Args:
        scripts: the folder ``training`` of a checkout.
        dataset_name: Hub id or folder.
        epochs: passes over the training set, for each network and way.
        folder: where the scripts write.

    Returns:
        A figure's record: images a second and final loss of both ways, their ratio, and the share of the machine's
        matrix-product rate that the scripts reach.

    Raises:
        RuntimeError: a script failed; its last lines are in the message.
    """
    images = to_model_range(load_images(dataset_name, "train").images)
    rate = matmul_rate(torch.float32, torch.device("cpu"))
    torch.manual_seed(0)
    vae = MLPVAE(latent_dim=16)
    shared: tuple[str, ...]
    shared = ("--dataset_name", dataset_name, "--num_train_epochs", str(epochs), "--train_batch_size", str(_BATCH))
    shared += ("--lr_scheduler", "constant", "--lr_warmup_steps", "0", "--report_to", "none", "--no_use_ema")

    seconds, loss = _timed(lambda: plain_vae_training(vae, images, epochs, _BATCH, _KL_WEIGHT))
    plain = {"images_per_second": len(images) * epochs / seconds, "loss": loss}
    ours = _run_script(
        scripts / "train_vae.py",
        *(*shared, "--output_dir", str(folder / "vae"), "--network", "MLPVAE", "--reconstruction", "mse"),
        *("--network_config", '{"latent_dim": 16}', "--kl_weight", str(_KL_WEIGHT)),
    )
    rows = {"vae": _row(plain, ours, _vae_flops(vae), rate)}

    trained = MLPVAE.from_pretrained(folder / "vae")
    posteriors = encode_images(trained, load_images(dataset_name, "train").images, progress=False)
    latents = posteriors.draw(torch.arange(len(images)), torch.randn(posteriors.mean.shape))
    denoiser = MLPDenoiser((16,))
    table = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2").alphas_cumprod
    seconds, loss = _timed(lambda: plain_denoiser_training(denoiser, latents, table, epochs, _BATCH))
    plain = {"images_per_second": len(images) * epochs / seconds, "loss": loss}
    ours = _run_script(
        scripts / "train_denoiser.py",
        *(*shared, "--output_dir", str(folder / "denoiser"), "--vae_path", str(folder / "vae")),
        *("--network", "MLPDenoiser", "--prediction_type", "epsilon", "--learning_rate", "2e-4"),
    )
    rows["denoiser"] = _row(plain, ours, _denoiser_flops(denoiser), rate)
    return {"rows": rows, "epochs": epochs, "batch_size": _BATCH, "matmul_flops_per_second": rate}


def _row(plain: dict[str, float], ours: dict[str, float], flops: float, rate: float) -> dict[str, float]:
    return {
        "plain_images_per_second": plain["images_per_second"],
        "images_per_second": ours["images_per_second"],
        "speed_ratio": ours["images_per_second"] / plain["images_per_second"],
        "plain_loss": plain["loss"],
        "loss": ours["loss"],
        "flops_per_image": flops,
        "share_of_matmul_rate": flops * ours["images_per_second"] / rate,
    }


def _timed(task: Callable[[], float]) -> tuple[float, float]:
    started = time.perf_counter()
    result = task()
    return time.perf_counter() - started, result


def _run_script(script: Path, *options: str) -> dict[str, float]:
    """Run a training script, and read its speed and its mean loss over the last epoch from its history."""
    done = subprocess.run([sys.executable, str(script), *options], capture_output=True, text=True, env=dict(os.environ))
    if done.returncode:
        raise RuntimeError(f"{script.name} failed: {' '.join(done.stderr.splitlines()[-3:])}")
    folder = options[options.index("--output_dir") + 1]
    events = [event for event in read_history(folder) if "images_per_second" in event]
    last = events[-max(1, 60_000 // _BATCH // _LOGGED_AT_ONCE) :]
    return {
        "images_per_second": statistics.median(event["images_per_second"] for event in events),
        "loss": statistics.fmean(event["loss"] for event in last),
    }


def _vae_flops(vae: MLPVAE) -> float:
    """Operations an image of one update, forward and backward."""
    batch = torch.rand(_BATCH, 1, 28, 28)

    def update() -> None:
        posterior = vae.encode(batch * 2 - 1).latent_dist
        logits = vae.decode_logits(posterior.sample())
        loss = reconstruction_loss(logits, batch, "mse") + gaussian_kl(posterior.mean, posterior.logvar)
        loss.mean().backward()

    return count_flops(update) / _BATCH


def _denoiser_flops(denoiser: MLPDenoiser) -> float:
    """Operations a sample of one update, forward and backward."""
    batch = torch.randn(_BATCH, *denoiser.config.sample_shape)
    return count_flops(lambda: denoising_loss(denoiser(batch, torch.zeros(_BATCH)).sample, batch).backward()) / _BATCH
