"""Lines: a figure against something else, losses over the updates, and receiver operating characteristics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import COLOURS, INK, new_figure, quiet

__all__ = ["Curve", "line_panels", "metric_curves", "roc_curves"]


class Curve(NamedTuple):
    """One line, and optionally the band around it.

    Attributes:
        x: (N,).
        y: (N,).
        low: lower end of the band (N,), such as that of a confidence interval; None for no band.
        high: its upper end (N,).
    """

    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    low: Sequence[float] | np.ndarray | None = None
    high: Sequence[float] | np.ndarray | None = None


def metric_curves(
    curves: Mapping[str, Curve],
    x_label: str,
    y_label: str,
    title: str = "",
    *,
    log_x: bool = False,
    log_y: bool = False,
    markers: bool = True,
) -> Figure:
    """A figure against what it depends on: a line a name, with its error band.

    Args:
        curves: by the name that the legend shows; a single line has no legend.
        x_label: what the horizontal axis is, with its unit.
        y_label: likewise of the vertical axis.
        title: above.
        log_x: logarithmic horizontal axis.
        log_y: logarithmic vertical axis.
        markers: a dot at every value, for lines of few values.

    Returns:
        A figure with one axes.
    """
    figure = new_figure(5.4, 3.6)
    axes = figure.subplots()
    _draw(axes, curves, markers)
    quiet(axes, x_label, y_label, title)
    if log_x:
        axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")
    return figure


def line_panels(panels: Mapping[str, Mapping[str, Curve]], x_label: str, y_label: str = "") -> Figure:
    """Several sets of lines side by side, each with a scale of its own: losses whose terms differ in size.

    Args:
        panels: title of the panel to its curves by name; a name has one colour in all panels.
        x_label: below every panel.
        y_label: at the left of the first.

    Returns:
        A figure with one axes a panel.

    Raises:
        ValueError: no panel.
    """
    if not panels:
        raise ValueError("panels must hold at least one panel, got none.")
    figure = new_figure(3.4 * len(panels) + 0.4, 3.2)
    for index, (axes, (title, curves)) in enumerate(
        zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True)
    ):
        _draw(axes, curves, markers=False)
        quiet(axes, x_label, "" if index else y_label, title)
    return figure


def roc_curves(curves: Mapping[str, Curve], areas: Mapping[str, float], title: str = "") -> Figure:
    """Receiver operating characteristics, with their areas in the legend and the diagonal of a blind guess.

    Args:
        curves: false positive rate against true positive rate, by name.
        areas: the area under each, by the same names.
        title: above.

    Returns:
        A figure with one axes.
    """
    figure = new_figure(4.8, 4.5)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1, linestyle=":")
    for colour, (name, curve) in zip(_colours(len(curves)), curves.items(), strict=True):
        axes.plot(curve.x, curve.y, color=colour, linewidth=1.6, label=f"{name}: AUC {areas[name]:.3f}")
    quiet(axes, "false positive rate", "true positive rate", title)
    axes.set_aspect("equal")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.legend(loc="lower right", frameon=False, fontsize=8, labelcolor=INK)
    return figure


def _draw(axes: Axes, curves: Mapping[str, Curve], markers: bool) -> None:
    for colour, (name, curve) in zip(_colours(len(curves)), curves.items(), strict=True):
        axes.plot(
            curve.x, curve.y, color=colour, linewidth=1.4, marker="o" if markers else None, markersize=3.5, label=name
        )
        if curve.low is not None and curve.high is not None:
            axes.fill_between(np.asarray(curve.x), curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)


def _colours(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]
