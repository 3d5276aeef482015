"""``mnist-guided figure scheduler-table``: every scheduler, measured."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from .options import check_model, check_writable, load_pipeline

__all__ = ["scheduler_table"]


def scheduler_table(
    model: str | None = None,
    output: Path = Path("metrics.json"),
    num_images: int = 1_000,
    seed: int = 0,
    dataset_name: str = "ylecun/mnist",
) -> None:
    """Measure every supported scheduler, file the table, and print it.

    Its error with exact networks at 10, 25 and 50 steps, and what it makes of a trained pipeline at 10 and 25 steps.

    Example: mnist-guided study schedulers --output metrics.json

    Args:
        model: Folder or Hub id of a pipeline; the one shipped with the package if left out.
        output: File of measurements to add it to; all other runs in it stay.
        num_images: Images of a setting, the classes in turn.
        seed: Of the images and of the exact networks' noise.
        dataset_name: Hub id or folder of the data set that the pipeline was trained on.
    """
    if model is not None:
        check_model(model)
    check_writable(output.parent)
    missing = [package for package in ("scipy", "torchmetrics", "torchsde") if find_spec(package) is None]
    if missing:
        raise ValueError(f"scheduler-table needs {', '.join(missing)}: pip install 'mnist-guided-pipeline[test]'.")

    from ..data.images import load_images
    from ..evaluation.fingerprints import fingerprint, pipeline_fingerprint
    from ..evaluation.judge import load_judge
    from ..evaluation.records import machine, read_runs, versions, write_run
    from ..evaluation.scheduler_table import measure_schedulers
    from ..evaluation.tables import render_view

    read_runs(output)
    judge, pipe = load_judge(), load_pipeline(model, None)
    real = judge.features(load_images(dataset_name, "test").images)
    table = measure_schedulers(pipe, judge, real, num_images, seed)
    record = {
        "command": f"mnist-guided figure scheduler-table --num_images {num_images} --seed {seed}",
        "model": {"name": "shipped" if model is None else Path(model).name, "fingerprint": pipeline_fingerprint(pipe)},
        "judge": {"name": "shipped", "fingerprint": fingerprint(judge.model)},
        "settings": {"num_images": num_images, "seed": seed},
        "versions": versions(),
        "machine": machine(pipe.device, 1),
        "figures": table,
    }
    write_run(output, "scheduler-table", record)
    print(render_view({"scheduler-table": record}, "scheduler-table", "schedulers"))
