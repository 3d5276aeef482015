"""``mnist-guided figure sweep``: a sweep that has been measured, drawn."""

from __future__ import annotations

from pathlib import Path

import tyro

from .figures import check_figure, save_figure

__all__ = ["sweep"]


def sweep(
    metrics: tyro.conf.Positional[Path],
    name: str,
    output: Path,
    force: bool = False,
) -> None:
    """Draw a sweep that evaluate has filed; which axes the figure has follows from what was varied.

    Example: mnist-guided figure sweep sweep.jsonl --name scales --output scales.png

    Args:
        metrics: File that evaluate wrote, .json or .jsonl.
        name: Name of the sweep in it: what evaluate was given as --name.
        output: Picture to write, such as scales.png.
        force: Overwrite the output.
    """
    check_figure(output, force)
    if not metrics.is_file():
        raise FileNotFoundError(f"There is no file of measurements {str(metrics)!r}; mnist-guided evaluate makes one.")

    from ..evaluation.records import read_runs
    from ..evaluation.studies import check_sweep
    from ..evaluation.tables import find_runs
    from ..figures.sweeps import sweep_figure

    runs = find_runs(read_runs(metrics), name)
    check_sweep(runs, name)
    save_figure(sweep_figure(runs), output)
    print(f"{output}: {len(runs)} runs of {name}.")
