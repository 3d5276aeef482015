"""What an image costs, drawn: a line through what is linear, and the knee of the batch size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..benchmarks.cost import fit_line
from .style import COLOURS, INK, new_figure, quiet

__all__ = ["cost_figure"]

_BATCH = "images at a time"


def cost_figure(figures: Mapping[str, Any]) -> Figure:
    """Draw the record of :func:`~mnist_guided_pipeline.benchmarks.cost.benchmark_cost`.

    Args:
        figures: its ``rows`` and ``points``.

    Returns:
        An axes for each thing that was varied: the median of the rounds, a bar from the fastest to the slowest, and
        the line that fits; against the batch size the time an image, with the knee.
    """
    panels = figures["points"]
    figure = new_figure(3.3 * len(panels) + 0.4, 3.2)
    for index, (axes, (name, points)) in enumerate(
        zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True)
    ):
        if name == _BATCH:
            _draw_batches(axes, points, figures["rows"][name]["knee"], COLOURS[index])
        else:
            _draw_line(axes, name, points, COLOURS[index])
    return figure


def _draw_line(axes: Axes, name: str, points: Mapping[str, list[float]], colour: str) -> None:
    fit = fit_line(points["x"], points["seconds"])
    ends = np.array([0.0, max(points["x"])])
    axes.plot(ends, fit.fixed + fit.each * ends, color=colour, linewidth=1)
    _draw_points(axes, points, np.ones(len(points["x"])), colour)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    quiet(axes, name, "seconds", f"at most {100 * fit.residual:.0f} % from a line")


def _draw_batches(axes: Axes, points: Mapping[str, list[float]], knee: int, colour: str) -> None:
    """Milliseconds an image; at the knee an image costs a quarter more than at best."""
    scale = 1e3 / np.asarray(points["x"])
    axes.axvline(knee, color="#aaaaaa", linewidth=1, linestyle=":")
    axes.plot(points["x"], np.asarray(points["seconds"]) * scale, color=colour, linewidth=1)
    _draw_points(axes, points, scale, colour)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.annotate(
        f"knee: {knee}", (knee, 0.92), (3, 0), ("data", "axes fraction"), "offset points", fontsize=8, color=INK
    )
    quiet(axes, f"{_BATCH} (log)", "milliseconds an image (log)", "small batches cost more")


def _draw_points(axes: Axes, points: Mapping[str, list[float]], scale: np.ndarray, colour: str) -> None:
    middle, low, high = (np.asarray(points[key]) for key in ("seconds", "fastest_round", "slowest_round"))
    spread = np.stack([middle - low, high - middle]) * scale
    axes.errorbar(points["x"], middle * scale, spread, fmt="o", color=colour, markersize=3.5, elinewidth=1, capsize=2)
