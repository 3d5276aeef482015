"""``mnist-guided figure cost``: what an image costs, as it was measured, drawn."""

from __future__ import annotations

from pathlib import Path

import tyro

from .figures import check_figure, save_figure

__all__ = ["cost_figure"]


def cost_figure(
    metrics: tyro.conf.Positional[Path | None] = None,
    output: Path = Path("cost.png"),
    name: str = "benchmark-cost",
    force: bool = False,
) -> None:
    """Draw what images, steps, the latent's size and the batch size cost, as ``benchmark cost`` has filed it.

    Example: mnist-guided figure cost metrics.json --output cost.png

    Args:
        metrics: File that the benchmark wrote; the one shipped with the package if left out.
        output: Picture to write, such as cost.png.
        name: Name of the run in that file.
        force: Overwrite the output.
    """
    from ..weights import METRICS_FILE

    check_figure(output, force)
    metrics = metrics or METRICS_FILE
    if not metrics.is_file():
        raise FileNotFoundError(f"There is no file of measurements {str(metrics)!r}; mnist-guided benchmark makes one.")

    from ..evaluation.records import read_runs
    from ..evaluation.tables import find_runs

    figures = find_runs(read_runs(metrics), name)[name]["figures"]
    if "points" not in figures:
        raise ValueError(f"run {name!r} was not filed by mnist-guided benchmark cost; name another one.")

    from ..figures.cost import cost_figure as draw

    save_figure(draw(figures), output)
    print(f"{output}: {len(figures['points'])} panels of {name}.")
