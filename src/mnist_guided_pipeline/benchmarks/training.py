"""Time to a notebook's own loss: the training scripts beside a notebook's loops, with the same networks and data.

The loops train as the preset ``notebook`` says; the scripts by the preset ``notebook-tuned``, which has other batches,
rates and numbers of epochs. What counts is the loss on the test set that each ends at, and the time it took.
"""

from __future__ import annotations

import dataclasses
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.images import load_images, to_unit_range
from ..data.posteriors import encode_images
from ..models.autoencoders import MLPVAE
from ..models.mlp import MLPClassifier, MLPDenoiser
from ..training.config import TrainingConfig
from ..training.history import training_seconds
from ..training.noise import noise_scheduler
from ..training.presets import PRESETS
from .loops import latent_loss, plain_training, vae_loss

_NETWORKS = {"vae": MLPVAE, "denoiser": MLPDenoiser, "classifier": MLPClassifier}
_KL_WEIGHT = 0.1
_DRAWS = 10  # of noise per test image


def benchmark_training(
    scripts: Path, dataset_name: str, epochs: int | None, rounds: int, folder: Path
) -> dict[str, Any]:
    """Train each network both ways, in turn, round after round, each of another seed; scripts write in ``folder``.

    Returns:
        ``rows``, one per network, of medians: ``loss`` on the test set, ``seconds`` of the updates, ``whole_seconds``
        with the script's start, reading data, encoding and validation, and the largest memory of its process in bytes;
        ``plain_loss`` and ``plain_seconds`` of the loop; ``times_faster``, the ratio of the seconds, and
        ``whole_times_faster``, with the whole run's.

    Raises:
        RuntimeError: a script failed; its last lines are in the message.
    """
    plain, tuned = PRESETS["notebook"], PRESETS["notebook-tuned"]
    train, test = (load_images(dataset_name, split) for split in ("train", "test"))
    images = to_unit_range(train.images)
    table = noise_scheduler(plain.denoiser).alphas_cumprod
    latents: list[Tensor] = []

    def plain_loss(network: Any, inputs: Tensor, labels: Tensor) -> Tensor:
        """Of a VAE, whose encoder sees images in [0, 1] as in the notebook, or of a network of latents."""
        if isinstance(network, MLPVAE):
            return vae_loss(network, inputs, inputs, _KL_WEIGHT)
        return latent_loss(network, inputs, labels, table)

    def test_loss(network: Any, by_hand: bool = False) -> float:
        """With the same noise for every network of a kind; a script's encoder sees images in [-1, 1]."""
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            if isinstance(network, MLPVAE):
                unit = to_unit_range(test.images)
                return vae_loss(network, unit if by_hand else 2 * unit - 1, unit, _KL_WEIGHT).item() / len(test)
            return plain_loss(network, latents[1].repeat(_DRAWS, 1), test.labels.repeat(_DRAWS)).item()

    runs: dict[str, list[dict[str, float]]] = {name: [] for name in _NETWORKS}
    for seed in range(rounds):
        for name, network_class in _NETWORKS.items():
            config: TrainingConfig = getattr(tuned, name)
            changes: dict[str, Any] = {"dataset_name": dataset_name, "seed": seed}
            changes["num_train_epochs"] = epochs or config.num_train_epochs
            if name != "vae":
                changes["vae_path"] = str(folder / "vae")
            found = _run_script(scripts, name, dataclasses.replace(config, **changes), folder / name)
            if name == "denoiser":
                vae = MLPVAE.from_pretrained(folder / "vae")
                latents[:] = (_one_draw(vae, data.images) for data in (train, test))
            found["loss"] = test_loss(network_class.from_pretrained(folder / name))

            by_hand = MLPVAE(latent_dim=16) if name == "vae" else network_class((16,))
            inputs, own = images if name == "vae" else latents[0], getattr(plain, name)
            count = epochs or own.num_train_epochs
            started = time.perf_counter()
            plain_training(by_hand, plain_loss, inputs, train.labels, count, own.train_batch_size, own.learning_rate)
            seconds = time.perf_counter() - started
            found |= {"plain_loss": test_loss(by_hand, by_hand=True), "plain_seconds": seconds}
            found |= {"times_faster": seconds / found["seconds"]}
            runs[name].append(found | {"whole_times_faster": seconds / found["whole_seconds"]})
    return {
        "rows": {
            name: {value: statistics.median(run[value] for run in found) for value in found[0]}
            for name, found in runs.items()
        },
        "threads": torch.get_num_threads(),
    }


def _one_draw(vae: MLPVAE, images: Tensor) -> Tensor:
    """A latent (N, d) of each image, from its posterior."""
    posteriors = encode_images(vae, images, progress=False)
    return posteriors.draw(torch.arange(len(images)), torch.randn(posteriors.mean.shape))


def _run_script(scripts: Path, name: str, config: TrainingConfig, folder: Path) -> dict[str, float]:
    """Run a training script afresh: the seconds of its updates and of all, and its largest memory."""
    folder.mkdir(parents=True, exist_ok=True)
    settings, log = folder.with_suffix(".json"), folder.with_suffix(".log")
    settings.write_text(config.to_json(), encoding="utf-8")
    script = scripts / f"train_{name}.py"
    started = time.perf_counter()
    with open(log, "w", encoding="utf-8") as output:
        command = [sys.executable, str(script), "--config", str(settings), "--output_dir", str(folder), "--force"]
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{script.name} failed: {' '.join(log.read_text(encoding='utf-8').splitlines()[-3:])}")
    return {
        "seconds": training_seconds(folder) or math.nan,
        "whole_seconds": seconds,
        "peak_memory": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }
