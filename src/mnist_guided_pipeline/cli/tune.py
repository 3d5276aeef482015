"""``mnist-guided tune``: the best settings of each scheduler, from a sweep, into a pipeline's config."""

from __future__ import annotations

from pathlib import Path

import tyro

from .options import check_pipeline_folder

__all__ = ["tune"]


def tune(
    metrics: tyro.conf.Positional[Path],
    name: str,
    model: Path | None = None,
) -> None:
    """Say which settings of a sweep are the best for each scheduler, and make them a pipeline's defaults.

    Of the runs that reach the accuracy of the VAE's reconstructions, the smallest judge-FID wins; within 5 percent of
    it the fewest steps. Scales are not portable between deterministic and stochastic schedulers, so each gets its own.

    Example: mnist-guided tune sweep.jsonl --name scales --model runs/pipeline

    Args:
        metrics: File that evaluate wrote, .json or .jsonl.
        name: Name of the sweep in it: what evaluate was given as --name.
        model: Folder of the pipeline whose defaults these become; nothing is written if left out.
    """
    if not metrics.is_file():
        raise FileNotFoundError(f"There is no file of measurements {str(metrics)!r}; mnist-guided evaluate makes one.")
    if model is not None:
        if not model.is_dir():
            raise FileNotFoundError(f"--model: there is no folder {str(model)!r}.")
        check_pipeline_folder(str(model))

    from ..evaluation.records import read_runs
    from ..evaluation.sweeps import best_defaults, check_sweep, store_defaults
    from ..evaluation.tables import find_runs

    runs = find_runs(read_runs(metrics), name)
    check_sweep(runs, name)
    best = best_defaults(runs)
    for scheduler, settings in best.items():
        print(f"{scheduler}: {', '.join(f'{setting} {value}' for setting, value in settings.items())}")
    if model is not None:
        store_defaults(model, best)
        print(f"{model}: these are its defaults now.")
