"""Speed of training: the scripts beside a notebook's loops, with the same networks, data, batch size and epochs.

The scripts train by the preset ``notebook``, whose optimizer is the loops' own. They do what the loops do, and watch
for values that are not finite, log and validate besides.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.images import load_images, to_unit_range
from ..data.posteriors import encode_images
from ..models.autoencoders import MLPVAE
from ..models.mlp import MLPClassifier, MLPDenoiser
from ..training.config import TrainingConfig
from ..training.history import read_history
from ..training.noise import noise_scheduler
from ..training.presets import PRESETS
from .loops import plain_latent_training, plain_vae_training

_PRESET = "notebook"
_BATCH = 128
_KL_WEIGHT = 0.1
_LOGGED_AT_ONCE = 50  # the scripts log the mean speed of this many updates


def benchmark_training(
    scripts: Path, dataset_name: str, epochs: int | None, rounds: int, folder: Path
) -> dict[str, Any]:
    """Train the networks of the preset both ways, in turn, round after round; the scripts write in ``folder``.

    Returns:
        ``rows``, one per network, of medians: images per second of both ways and their ratio, the ratio of the
        wall-clock times when all that a script does counts (its start, reading data, encoding, validation), the loss of
        the last epoch of both ways, and the largest memory of the script's process in bytes.

    Raises:
        RuntimeError: a script failed; its last lines are in the message.
    """
    data = load_images(dataset_name, "train")
    images, labels = to_unit_range(data.images), data.labels
    vae_path = str(folder / "vae")
    ways = _ways(vae_path, str(folder / "denoiser"))
    table = noise_scheduler(PRESETS[_PRESET].denoiser).alphas_cumprod
    latents: list[Tensor] = []

    def plainly(network: str, epochs: int) -> Iterator[float]:
        if network == "vae":
            return plain_vae_training(MLPVAE(latent_dim=16), images, labels, epochs, _BATCH, _KL_WEIGHT)
        if not latents:
            posteriors = encode_images(MLPVAE.from_pretrained(vae_path), data.images, progress=False)
            latents.append(posteriors.draw(torch.arange(len(data)), torch.randn(posteriors.mean.shape)))
        trained = MLPDenoiser((16,)) if network == "denoiser" else MLPClassifier((16,))
        return plain_latent_training(trained, latents[0], labels, table, epochs, _BATCH)

    runs: dict[str, list[dict[str, float]]] = {name: [] for configs in ways.values() for name in configs}
    for _ in range(rounds):
        for network, configs in ways.items():
            count = epochs or configs[network].num_train_epochs
            changes: dict[str, Any] = {"num_train_epochs": count, "dataset_name": dataset_name, "report_to": "none"}
            ours = {
                name: _run_script(scripts, network, dataclasses.replace(config, **changes), folder / name)
                for name, config in configs.items()
            }
            plain = _run_loop(plainly(network, count), len(data))
            for name, run in ours.items():
                runs[name].append(
                    run
                    | {f"plain_{value}": plain[value] for value in plain}
                    | {"speed_ratio": run["images_per_second"] / plain["images_per_second"]}
                    | {"wall_clock_ratio": plain["seconds"] / run["seconds"]}
                )
    return {
        "rows": {
            name: {value: statistics.median(run[value] for run in found) for value in found[0]}
            for name, found in runs.items()
        },
        "batch_size": _BATCH,
        "threads": torch.get_num_threads(),
    }


def _ways(vae_path: str, denoiser_path: str) -> dict[str, dict[str, TrainingConfig]]:
    """The trainings of the preset by network, and of the VAE in float32 and in bfloat16."""
    preset = PRESETS[_PRESET]
    if preset.vae is None or preset.classifier is None:
        raise ValueError(f"preset {_PRESET!r} must have a VAE and a classifier.")
    classifier = dataclasses.replace(preset.classifier, vae_path=vae_path, denoiser_path=denoiser_path)
    return {
        "vae": {"vae": dataclasses.replace(preset.vae, mixed_precision="no"), "vae-bf16": preset.vae},
        "denoiser": {"denoiser": dataclasses.replace(preset.denoiser, vae_path=vae_path)},
        "classifier": {"classifier": classifier},
    }


def _run_loop(losses: Iterator[float], num_images: int) -> dict[str, float]:
    """Run a notebook's loop: its speed in the median epoch, the loss of the last epoch, and seconds in all."""
    times, of_epochs = [time.perf_counter()], []
    for loss in losses:
        times.append(time.perf_counter())
        of_epochs.append(loss)
    epochs = [end - start for start, end in pairwise(times)]
    return {
        "images_per_second": num_images / statistics.median(epochs),
        "loss": of_epochs[-1],
        "seconds": times[-1] - times[0],
    }


def _run_script(scripts: Path, name: str, config: TrainingConfig, folder: Path) -> dict[str, float]:
    """Run a training script afresh: its median speed and mean loss of the last epoch, from its history, and memory."""
    folder.mkdir(parents=True, exist_ok=True)
    settings, log = folder.with_suffix(".json"), folder.with_suffix(".log")
    settings.write_text(config.to_json(), encoding="utf-8")
    script = scripts / f"train_{name}.py"
    started = time.perf_counter()
    with open(log, "w", encoding="utf-8") as output:
        command = [sys.executable, str(script), "--config", str(settings), "--output_dir", str(folder)]
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{script.name} failed: {' '.join(log.read_text(encoding='utf-8').splitlines()[-3:])}")
    events = [event for event in read_history(folder) if "images_per_second" in event]
    last = events[-max(1, 60_000 // _BATCH // _LOGGED_AT_ONCE) :]
    return {
        "images_per_second": statistics.median(event["images_per_second"] for event in events),
        "loss": statistics.fmean(event["loss"] for event in last),
        "seconds": seconds,
        "peak_memory": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }
