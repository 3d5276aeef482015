"""``mnist-guided benchmark NAME``: speed, measured beside what it is compared with, and filed."""

from __future__ import annotations

import shlex
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .options import check_pipeline_folder, check_writable, load_pipeline

__all__ = ["cost", "sampling", "training"]


def sampling(
    model: str | None = None,
    output: Path = Path("metrics.json"),
    num_images: int = 1_000,
    rounds: int = 5,
    device: str | None = None,
) -> None:
    """Time sampling beside a hand-written loop, diffusers' pixel-space pipeline and a matrix product.

    All are timed in turn, round after round, after a warm-up. Run it while nothing else does.

    Example: mnist-guided benchmark sampling --output metrics.json

    Args:
        model: Folder or Hub id of a pipeline; the one shipped with the package if left out.
        output: File of measurements to add it to; all other runs in it stay.
        num_images: Images of a round, a multiple of ten.
        rounds: Timed rounds.
        device: Where to compute; a CUDA device where there is one, else the CPU, if left out.
    """
    _check(model, output, rounds)

    from ..benchmarks.sampling import benchmark_cold_start, benchmark_sampling

    pipe = load_pipeline(model, device)
    figures = benchmark_sampling(pipe, num_images, rounds) | {"cold_start": benchmark_cold_start(min(rounds, 3))}
    _file("benchmark-sampling", figures, {"model": model, "num_images": num_images, "rounds": rounds}, output, pipe)


def cost(
    model: str | None = None, output: Path = Path("metrics.json"), rounds: int = 3, device: str | None = None
) -> None:
    """Time sampling over numbers of images, steps and latent sizes.

    Example: mnist-guided benchmark cost --output metrics.json

    Args:
        model: Folder or Hub id of a pipeline; the one shipped with the package if left out.
        output: File of measurements to add it to; all other runs in it stay.
        rounds: Timed rounds.
        device: Where to compute; a CUDA device where there is one, else the CPU, if left out.
    """
    _check(model, output, rounds)

    from ..benchmarks.cost import benchmark_cost

    pipe = load_pipeline(model, device)
    _file("benchmark-cost", benchmark_cost(pipe, rounds), {"model": model, "rounds": rounds}, output, pipe)


def training(
    scripts: Path = Path("training"),
    output: Path = Path("metrics.json"),
    dataset_name: str = "ylecun/mnist",
    num_train_epochs: int = 2,
) -> None:
    """Time the training scripts beside a notebook's loop with the same networks.

    Example: mnist-guided benchmark training --output metrics.json

    Args:
        scripts: Folder of the training scripts, in a checkout of the repository.
        output: File of measurements to add it to; all other runs in it stay.
        dataset_name: Hub id or folder of the data set.
        num_train_epochs: Passes over the training set, for each network and way.
    """
    if not (scripts / "train_vae.py").is_file():
        raise FileNotFoundError(
            f"--scripts {str(scripts)!r} has no train_vae.py; give the training folder of a checkout."
        )
    if num_train_epochs < 1:
        raise ValueError(f"--num_train_epochs must be at least 1, got {num_train_epochs}.")
    _check(None, output, 1)

    from ..benchmarks.training import benchmark_training

    with tempfile.TemporaryDirectory() as folder:
        figures = benchmark_training(scripts, dataset_name, num_train_epochs, Path(folder))
    _file("benchmark-training", figures, {"num_train_epochs": num_train_epochs}, output, None)


def _check(model: str | None, output: Path, rounds: int) -> None:
    if model is not None:
        check_pipeline_folder(model)
    if rounds < 1:
        raise ValueError(f"--rounds must be at least 1, got {rounds}.")
    check_writable(output.parent)
    if find_spec("torchmetrics") is None:
        raise ValueError("benchmark needs the evaluation extra: pip install 'mnist-guided-pipeline[evaluation]'.")

    from ..evaluation.records import read_runs

    read_runs(output)  # a file that cannot be added to is found before the work


def _file(name: str, figures: dict[str, Any], settings: dict[str, Any], output: Path, pipe: Any) -> None:
    """File the record, and print its rows and its single figures."""
    import torch

    from ..evaluation.fingerprints import pipeline_fingerprint
    from ..evaluation.records import machine, versions, write_run
    from ..evaluation.report import render_view

    given = {option: value for option, value in settings.items() if value is not None}
    words = [word for option, value in given.items() for word in (f"--{option}", str(value))]
    model = settings.get("model")
    record = {
        "command": shlex.join(["mnist-guided", *name.split("-"), *words]),
        "settings": settings,
        "versions": versions(),
        "machine": machine(torch.device("cpu") if pipe is None else pipe.device, 1),
        "figures": figures,
    }
    if pipe is not None:
        shown = "shipped" if model is None else Path(model).name
        record["model"] = {"name": shown, "fingerprint": pipeline_fingerprint(pipe)}
    write_run(output, name, record)
    print(render_view({name: record}, name, "rows"))
    for figure, value in figures.items():
        if isinstance(value, (int, float)):
            print(f"{figure}: {value:.4g}")
