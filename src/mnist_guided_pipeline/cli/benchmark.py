"""``mnist-guided benchmark NAME``: speed, measured beside what it is compared with, and filed."""

from __future__ import annotations

import os
import shlex
import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .options import check_model, check_writable, load_pipeline

__all__ = ["cold_start", "cost", "plan", "sampling", "training"]


def sampling(
    model: str | None = None,
    output: Path = Path("metrics.json"),
    num_images: int = 10_000,
    rounds: int = 5,
    num_processes: int | None = None,
    device: str | None = None,
) -> None:
    """Time sampling beside a hand-written loop, diffusers' pixel-space pipeline and a matrix product.

    All are timed in turn, round after round, after a warm-up. Run it while nothing else does.

    Example: mnist-guided benchmark sampling --output metrics.json

    Args:
        model: Folder or Hub id of a pipeline; the one shipped with the package if left out.
        output: File of measurements to add it to; all other runs in it stay.
        num_images: Images of a round.
        rounds: Timed rounds.
        num_processes: Processes of one thread each that draw together, beside one process that uses all threads; one a
            core on a CPU, and none on an accelerator, if left out.
        device: Where to compute; a CUDA device where there is one, else the CPU, if left out.
    """
    _check(model, output, rounds)
    for option, value in (("num_images", num_images), ("num_processes", num_processes)):
        if value is not None and value < 1:
            raise ValueError(f"--{option} must be at least 1, got {value}.")

    from ..benchmarks.sampling import benchmark_sampling

    pipe = load_pipeline(model, device)
    if num_processes is None:
        num_processes = (os.cpu_count() or 1) if pipe.device.type == "cpu" else 1
    figures = benchmark_sampling(partial(load_pipeline, model, str(pipe.device)), num_images, rounds, num_processes)
    settings = {"model": model, "num_images": num_images, "rounds": rounds, "num_processes": num_processes}
    _file("benchmark-sampling", figures, settings, output, pipe)


def cold_start(output: Path = Path("metrics.json"), rounds: int = 5) -> None:
    """Time new processes, from their command to the first image, and their imports.

    Example: mnist-guided benchmark cold-start --output metrics.json

    Args:
        output: File of measurements to add it to; all other runs in it stay.
        rounds: Timed rounds.
    """
    _check(None, output, rounds)

    from ..benchmarks.cold_start import benchmark_cold_start

    _file("benchmark-cold-start", benchmark_cold_start(rounds), {"rounds": rounds}, output, None)


def cost(
    model: str | None = None, output: Path = Path("metrics.json"), rounds: int = 3, device: str | None = None
) -> None:
    """Time sampling over numbers of images, steps, latent sizes and batch sizes; ``figure cost`` draws it.

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


def plan(output: Path = Path("metrics.json"), num_images: int = 1_000_000) -> None:
    """Plan many images on many cores from what ``benchmark sampling`` and ``cold-start`` have measured.

    Example: mnist-guided benchmark plan --num_images 1000000 --output metrics.json

    Args:
        output: File of measurements with those two runs, to which the plan is added.
        num_images: Images in all.
    """
    _check(None, output, 1)
    if num_images < 1:
        raise ValueError(f"--num_images must be at least 1, got {num_images}.")

    from ..benchmarks.plan import plan_images, png_bytes
    from ..evaluation.records import read_runs

    figures = {name: run["figures"] for name, run in read_runs(output).items()}
    needed = {"benchmark-sampling": "images_per_second_a_core", "benchmark-cold-start": "seconds_to_first_image"}
    for name, figure in needed.items():
        if figure not in figures.get(name, {}):
            command = f"mnist-guided benchmark {name.removeprefix('benchmark-')} --output {output}"
            raise ValueError(f"{str(output)!r} has no {figure}; measure it on a CPU: {command}")
    speed, start = (figures[name][figure] for name, figure in needed.items())
    pipe = load_pipeline(None, "cpu")
    images = pipe(list(range(10)), num_images_per_label=10).images
    _file(
        "benchmark-plan",
        plan_images(speed, start, png_bytes(images), num_images),
        {"num_images": num_images},
        output,
        pipe,
    )


def training(
    scripts: Path = Path("training"),
    output: Path = Path("metrics.json"),
    dataset_name: str = "ylecun/mnist",
    num_train_epochs: int | None = None,
    rounds: int = 3,
) -> None:
    """Time the training scripts beside a notebook's loops with the same networks, those of the preset seed.

    Both ways are timed in turn, round after round. Run it while nothing else does.

    Example: mnist-guided benchmark training --output metrics.json

    Args:
        scripts: Folder of the training scripts, in a checkout of the repository.
        output: File of measurements to add it to; all other runs in it stay.
        dataset_name: Hub id or folder of the data set.
        num_train_epochs: Passes over the training set, for each network and way; the preset's own if left out.
        rounds: Trainings of each network and way.
    """
    if not (scripts / "train_vae.py").is_file():
        raise FileNotFoundError(
            f"--scripts {str(scripts)!r} has no train_vae.py; give the training folder of a checkout."
        )
    if num_train_epochs is not None and num_train_epochs < 1:
        raise ValueError(f"--num_train_epochs must be at least 1, got {num_train_epochs}.")
    _check(None, output, rounds)

    from ..benchmarks.training import benchmark_training

    with tempfile.TemporaryDirectory() as folder:
        figures = benchmark_training(scripts, dataset_name, num_train_epochs, rounds, Path(folder))
    settings = {"num_train_epochs": num_train_epochs, "rounds": rounds}
    _file("benchmark-training", figures, settings, output, None)


def _check(model: str | None, output: Path, rounds: int) -> None:
    if model is not None:
        check_model(model)
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
    from ..evaluation.tables import render_view

    given = {option: value for option, value in settings.items() if value is not None}
    words = [word for option, value in given.items() for word in (f"--{option}", str(value))]
    model = settings.get("model")
    record = {
        "command": shlex.join(["mnist-guided", *name.split("-", 1), *words]),
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
