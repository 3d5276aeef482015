"""``mnist-guided study points``: pipelines of points in the plane, measured alike."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import tyro

from .options import check_model, check_writable
from .points import agreement, draw_points, load_points_pipeline, real_points

__all__ = ["point_study"]

_NAME = "study-points"


def point_study(
    models: tyro.conf.Positional[tuple[str, ...]],
    output: Path = Path("metrics.json"),
    num_points: int = 2_000,
    num_inference_steps: int | None = None,
    seed: int = 0,
    device: str | None = None,
) -> None:
    """Distance from the data, time to draw and time to train of pipelines of points, a row each, filed and printed.

    The distance is that of figure points; its floor is the distance of other real points.

    Example: mnist-guided study points runs/points-dino runs/points-moons --output metrics.json

    Args:
        models: Folders that train_pipeline.py wrote by presets of points.
        output: File of measurements to add the table to; all other runs in it stay.
        num_points: Points of a pipeline, the classes in equal parts.
        num_inference_steps: Steps of the scheduler; each pipeline's own number if left out.
        seed: Of the samples.
        device: Where to compute; a CUDA device where there is one, else the CPU, if left out.
    """
    if not models:
        raise ValueError("study points takes the folder of at least one pipeline, such as runs/points-dino.")
    names = [Path(model).name for model in models]
    if len(set(names)) < len(names):
        raise ValueError(f"The rows are named by the folders, so these must differ, got {', '.join(names)}.")
    check_writable(output.parent)
    for model in models:
        check_model(model)
        if not (Path(model) / "steps").is_dir():
            raise ValueError(f"{model!r} has no steps/: study points takes folders that train_pipeline.py wrote.")

    import time

    from ..evaluation.fingerprints import fingerprint, pipeline_fingerprint
    from ..evaluation.records import machine, public_name, read_runs, versions, write_run
    from ..evaluation.tables import render_view
    from ..training.history import training_seconds

    read_runs(output)  # a file that cannot be added to is found before the work
    loaded = {
        name: load_points_pipeline(model, None, num_points, device) for name, model in zip(names, models, strict=True)
    }
    rows: dict[str, dict[str, Any]] = {}
    for (name, (pipe, data)), model in zip(loaded.items(), models, strict=True):
        draw_points(pipe, data, len(data.class_names), num_inference_steps, seed, None)  # to warm up
        started = time.perf_counter()
        labels, trajectory = draw_points(pipe, data, num_points, num_inference_steps, seed, None)
        seconds = time.perf_counter() - started
        floor = agreement(data, real_points(data, labels, seed=1), labels)
        trained = training_seconds(model)
        rows[name] = {"points": len(labels), "steps": pipe.num_timesteps}
        for figure, value in agreement(data, trajectory[-1], labels).items():
            rows[name] |= {figure: value, f"{figure}, real points": floor[figure]}
        rows[name] |= {"seconds": seconds} | ({} if trained is None else {"training_minutes": trained / 60.0})
    settings = {"num_points": num_points, "num_inference_steps": num_inference_steps, "seed": seed}
    words = [f"--{option}={value}" for option, value in settings.items() if value is not None]
    pipe = next(iter(loaded.values()))[0]
    record = {
        "command": shlex.join(["mnist-guided", "study", "points", *map(public_name, models), *words]),
        "model": {"name": _NAME, "fingerprint": fingerprint(*(pipeline_fingerprint(p) for p, _ in loaded.values()))},
        "settings": settings,
        "versions": versions(),
        "machine": machine(pipe.device, 1),
        "figures": {"rows": rows},
    }
    write_run(output, _NAME, record)
    print(render_view({_NAME: record}, _NAME, "rows"))
