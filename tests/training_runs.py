"""Trainings for the tests: tiny networks on small data, by the scripts' own ``main``, in this process.

As a program it runs a list of them in every process that a launcher starts, so that importing is paid for once:

    accelerate launch --config_file training/accelerate/cpu.yaml tests/training_runs.py plan.json
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import mnist_guided_pipeline.training.config as configs
from mnist_guided_pipeline.training.config import TrainingConfig
from mnist_guided_pipeline.training.history import read_history
from mnist_guided_pipeline.training.launch import end, make_accelerator

SCRIPTS = Path(__file__).parents[1] / "training"
sys.path.insert(0, str(SCRIPTS))

UPDATES = 16
CHECKPOINT = 7  # in the middle of an epoch of 15 updates
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "vae": ("VAEConfig", {"network": "MLPVAE", "network_config": '{"latent_dim": 4, "hidden_size": 16}'}),
    "denoiser": (
        "DenoiserConfig",
        {"network": "MLPDenoiser", "network_config": '{"hidden_size": 16, "num_classes": 10}', "snr_gamma": 5.0},
    ),
    "classifier": (
        "ClassifierConfig",
        {"network": "MLPClassifier", "network_config": '{"hidden_size": 16}', "score_matching_weight": 1.0},
    ),
    "pair": (
        "PairConfig",
        {"rollout_interval": 5, "rollout_steps": 3, "rollout_size": 6, "visited_size": 24},
    ),
    "gan": (
        "GANConfig",
        {
            "network_config": '{"num_classes": 10, "latent_dim": 8, "hidden_sizes": [16]}',
            "discriminator_config": '{"hidden_sizes": [16]}',
        },
    ),
    "decoder": ("DecoderConfig", {"discriminator_config": '{"hidden_sizes": [16]}'}),
    "judge": (
        "JudgeConfig",
        {
            "network_config": '{"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}',
            "norm_batch_size": 2,
        },
    ),
}


def make_config(name: str, data: str | Path, folder: Path, **changes: Any) -> TrainingConfig:
    """Settings of one script for a few updates of 8 images."""
    class_name, settings = NETWORKS[name]
    common = {
        "output_dir": str(folder),
        "dataset_name": str(data),
        "max_train_samples": 120,
        "max_eval_samples": 16,
        "train_batch_size": 8,
        "max_train_steps": UPDATES,
        "validation_steps": UPDATES // 2,
        "lr_warmup_steps": 5,
        "checkpointing_steps": CHECKPOINT,
    }
    config = getattr(configs, class_name)(**common | settings | changes)
    config.check()
    return config


@contextlib.contextmanager
def own_signals() -> Iterator[None]:
    """Afterwards, signals are handled as before: a script that fails ends its process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def train(name: str, config: TrainingConfig) -> None:
    """Run a script's ``main``, and end as its ``launch`` does."""
    accelerator = make_accelerator(config)
    with own_signals():
        importlib.import_module(f"train_{name}").main(config, accelerator)
    accelerator.wait_for_everyone()
    accelerator.free_memory()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All that the last checkpoint of a run and its result hold, by file and name."""
    last = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))[-1:]
    return {
        f"{file.relative_to(folder)}:{name}": tensor
        for place in (folder, folder / "denoiser", *last)
        for file in sorted(place.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def history(folder: Path) -> list[dict[str, float]]:
    """What a run logged, but for its speed."""
    speed = ("images_per_second", "seconds_per_update")
    return [{name: value for name, value in line.items() if name not in speed} for line in read_history(folder)]


def run_plan(plan: list[dict[str, Any]]) -> None:
    """Train everything in a list; ``copy`` is a checkpoint that goes into the run's folder before it starts."""
    for name in NETWORKS:
        importlib.import_module(f"train_{name}")
    gc.freeze()  # as conftest.py does
    for entry in plan:
        config = getattr(configs, NETWORKS[entry["name"]][0])(**entry["config"])
        accelerator = make_accelerator(config)
        if accelerator.is_main_process and "copy" in entry:
            shutil.copytree(entry["copy"], Path(config.output_dir, Path(entry["copy"]).name))
        accelerator.wait_for_everyone()
        with contextlib.suppress(SystemExit):  # the end of a dry run
            train(entry["name"], config)
    end(make_accelerator(config))


if __name__ == "__main__":
    run_plan(json.loads(Path(sys.argv[1]).read_text()))
