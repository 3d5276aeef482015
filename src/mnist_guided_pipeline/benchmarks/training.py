"""Speed of training: the scripts beside a notebook's loops, with the same networks, data, batch size and epochs.

The scripts train by the preset ``notebook``, whose optimizer is the loops' own. They do what the loops do, and watch
for values that are not finite, log and validate besides.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.images import load_images, to_unit_range
from ..data.posteriors import encode_images
from ..models.autoencoders import MLPVAE
from ..models.mlp import MLPClassifier, MLPDenoiser
from ..training.config import TrainingConfig
from ..training.history import read_history
from ..training.losses import reconstruction_loss
from ..training.noise import noise_scheduler
from ..training.presets import PRESETS
from .loops import plain_classifier_training, plain_denoiser_training, plain_vae_training
from .timing import count_flops, matmul_rate, time_rounds

__all__ = ["benchmark_training"]

_BATCH = 128
_KL_WEIGHT = 0.1
_LOGGED_AT_ONCE = 50  # the scripts log the mean speed of this many updates
_MEMORY_UPDATES = 20


def benchmark_training(
    scripts: Path, dataset_name: str, epochs: int | None, rounds: int, folder: Path
) -> dict[str, Any]:
    """Train the networks of the preset ``notebook`` both ways, in turn, round after round.

    Args:
        scripts: the folder ``training`` of a checkout.
        dataset_name: Hub id or folder.
        epochs: passes over the training set, for each network and way; the preset's own if None.
        rounds: trainings of each network and way.
        folder: where the scripts write.

    Returns:
        A figure's record. In ``rows``, a network each: images a second of both ways and their ratio (medians), that
        ratio if an update were its forward and backward pass alone, the ratio of the wall-clock times when all that a
        script does counts (its start, reading data, encoding, validation), the loss of the last epoch of both ways,
        and the share of the machine's matrix-product rate that the script reaches. In ``peak_memory``, bytes of the
        processes that train the preset ``default``.

    Raises:
        RuntimeError: a script failed; its last lines are in the message.
    """
    data = load_images(dataset_name, "train")
    images, labels = to_unit_range(data.images), data.labels
    vae_path = str(folder / "vae")
    networks = _notebook_networks(vae_path, str(folder / "denoiser"))
    table = noise_scheduler(PRESETS["notebook"].denoiser).alphas_cumprod
    latents: list[Tensor] = []

    def plainly(network: str, epochs: int) -> Iterator[float]:
        if network == "vae":
            return plain_vae_training(MLPVAE(latent_dim=16), images, labels, epochs, _BATCH, _KL_WEIGHT)
        if not latents:
            posteriors = encode_images(MLPVAE.from_pretrained(vae_path), data.images, progress=False)
            latents.append(posteriors.draw(torch.arange(len(data)), torch.randn(posteriors.mean.shape)))
        if network == "denoiser":
            return plain_denoiser_training(MLPDenoiser((16,)), latents[0], labels, table, epochs, _BATCH)
        return plain_classifier_training(MLPClassifier((16,)), latents[0], labels, table, epochs, _BATCH)

    measured: dict[str, list[dict[str, float]]] = {name: [] for ways in networks.values() for name in ways}
    # the passes alone are timed as the scripts make them, the loops as a notebook does
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        for _ in range(rounds):
            for network, ways in networks.items():
                count = epochs or ways[network].num_train_epochs
                ours = {}
                for name, config in ways.items():
                    config = dataclasses.replace(
                        config, num_train_epochs=count, dataset_name=dataset_name, report_to="none"
                    )
                    ours[name] = _run_script(scripts, network, config, folder / name.replace(", ", "-"))
                plain = _run_loop(plainly(network, count), len(data))
                for name, run in ours.items():
                    passes_alone = pool.submit(_passes_a_second, network, ways[name].mixed_precision).result() * _BATCH
                    measured[name].append(
                        run
                        | {f"plain_{figure}": value for figure, value in plain.items()}
                        | {"speed_ratio": run["images_per_second"] / plain["images_per_second"]}
                        | {"passes_alone_ratio": passes_alone / plain["images_per_second"]}
                        | {"wall_clock_ratio": plain["seconds"] / run["seconds"]}
                    )
    flops = {network: count_flops(_passes(network, "no")) / _BATCH for network in networks}
    rates = {
        name: matmul_rate(dtype, torch.device("cpu"))
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    }
    rows: dict[str, dict[str, float]] = {}
    for name, runs in measured.items():
        rows[name] = {figure: statistics.median(run[figure] for run in runs) for figure in runs[0]}
        rate = rates["bfloat16" if "bf16" in name else "float32"]
        rows[name]["share_of_matmul_rate"] = flops[name.partition(",")[0]] * rows[name]["images_per_second"] / rate
    return {
        "rows": rows,
        "batch_size": _BATCH,
        "threads": torch.get_num_threads(),
        "peak_memory": _default_memory(scripts, dataset_name, folder),
        **{f"matmul_flops_per_second_{name}": rate for name, rate in rates.items()},
    }


def _notebook_networks(vae_path: str, denoiser_path: str) -> dict[str, dict[str, TrainingConfig]]:
    """The trainings of the preset ``notebook``: for each network its own settings, and those that may be faster."""
    preset = PRESETS["notebook"]
    assert preset.vae is not None and preset.classifier is not None
    denoiser = dataclasses.replace(preset.denoiser, vae_path=vae_path)
    classifier = dataclasses.replace(preset.classifier, vae_path=vae_path, denoiser_path=denoiser_path)
    return {
        "vae": {"vae": dataclasses.replace(preset.vae, mixed_precision="no"), "vae, bf16": preset.vae},
        "denoiser": {"denoiser": denoiser},
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
    """Run a training script afresh: its median speed and its mean loss over the last epoch, from its history."""
    started = time.perf_counter()
    _launch(scripts / f"train_{name}.py", config, folder)
    seconds = time.perf_counter() - started
    events = [event for event in read_history(folder) if "images_per_second" in event]
    last = events[-max(1, 60_000 // _BATCH // _LOGGED_AT_ONCE) :]
    return {
        "images_per_second": statistics.median(event["images_per_second"] for event in events),
        "loss": statistics.fmean(event["loss"] for event in last),
        "seconds": seconds,
    }


def _launch(script: Path, config: TrainingConfig, folder: Path) -> int:
    """Run a training script in a process of its own; returns the largest memory that it held, in bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    settings, log = folder.with_suffix(".json"), folder.with_suffix(".log")
    settings.write_text(config.to_json())
    command = [sys.executable, str(script), "--config", str(settings), "--output_dir", str(folder)]
    with open(log, "w") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{script.name} failed: {' '.join(log.read_text().splitlines()[-3:])}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _default_memory(scripts: Path, dataset_name: str, folder: Path) -> dict[str, int]:
    """Peak memory of a few updates of every network of the preset ``default``, with all of the data."""
    preset = PRESETS["default"]
    vae_path, denoiser_path = str(folder / "default-vae"), str(folder / "default-denoiser")
    steps: dict[str, tuple[TrainingConfig | None, dict[str, Any]]] = {
        "vae": (preset.vae, {}),
        "denoiser": (preset.denoiser, {"vae_path": vae_path}),
        "classifier": (preset.classifier, {"vae_path": vae_path, "denoiser_path": denoiser_path}),
    }
    shared: dict[str, Any] = {"dataset_name": dataset_name, "report_to": "none", "lr_warmup_steps": 0}
    shared["max_train_steps"] = _MEMORY_UPDATES
    return {
        name: _launch(
            scripts / f"train_{name}.py", dataclasses.replace(config, **shared, **paths), folder / f"default-{name}"
        )
        for name, (config, paths) in steps.items()
        if config is not None
    }


def _passes_a_second(network: str, mixed_precision: str) -> float:
    """Forward and backward passes a second, the median of several spans."""
    passes = _passes(network, mixed_precision)

    def span() -> None:
        for _ in range(_LOGGED_AT_ONCE):
            passes()

    return _LOGGED_AT_ONCE / time_rounds({network: span}, rounds=10)[network].median


def _passes(network: str, mixed_precision: str) -> Callable[[], None]:
    """The forward and the backward pass of an update, and nothing else."""
    images, samples = torch.rand(_BATCH, 1, 28, 28), torch.randn(_BATCH, 16)
    times, labels = torch.zeros(_BATCH), torch.zeros(_BATCH, dtype=torch.int64)
    trained = {
        "vae": MLPVAE(latent_dim=16),
        "denoiser": MLPDenoiser((16,)),
        "classifier": MLPClassifier((16,)),
    }[network]

    def loss() -> Tensor:
        if network == "denoiser":
            return F.mse_loss(trained(samples, times, return_dict=False)[0], samples)
        if network == "classifier":
            return F.cross_entropy(trained(samples, times, return_dict=False)[0].float(), labels)
        posterior = trained.encode(images).latent_dist
        logits = trained.decode_logits(posterior.mean + posterior.std * samples)
        return (reconstruction_loss(logits, images, "mse") + posterior.kl()).mean()

    def passes() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed_precision == "bf16"):
            result = loss()
        result.backward()
        trained.zero_grad()

    return passes
