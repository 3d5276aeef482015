"""Points in the plane: samples over data, and their way there from noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .style import COLOURS, INK, new_figure

__all__ = ["point_frames", "point_panels"]

_FRAME_INCHES = 3.2  # at 150 dots an inch a multiple of 16 dots, which video needs


def point_panels(
    panels: Sequence[tuple[str, NDArray[np.floating]]],
    labels: NDArray[np.integer],
    class_names: Sequence[str],
    data: NDArray[np.floating],
    limits: NDArray[np.floating] | None = None,
) -> Figure:
    """Panels beside each other with the same axes: samples, coloured by class, over the data in grey.

    Args:
        panels: the title and the samples (N, 2) of each.
        labels: the class of each sample (N,), in ``[0, len(class_names))``.
        class_names: for the legend, which one class does not need; more than ten share colours.
        data: real points (M, 2).
        limits: lower and upper end of both axes (2, 2), as ``[[x, y], [x, y]]``; those of the data if None.
    """
    figure = new_figure(3.2 * len(panels), 3.4)
    every = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, samples) in zip(every, panels, strict=True):
        _scatter(axes, samples, labels, data, limits)
        axes.set_title(title, fontsize=10, color=INK)
    if len(class_names) > 1:
        for index, name in enumerate(class_names):
            every[-1].scatter([], [], s=12, color=COLOURS[index % len(COLOURS)], label=name)
        figure.legend(loc="outside right center", frameon=False, fontsize=8, labelcolor=INK)
    return figure


def point_frames(
    trajectory: NDArray[np.floating],
    labels: NDArray[np.integer],
    data: NDArray[np.floating],
    limits: NDArray[np.floating] | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """One frame a step, uint8 (480, 480, 3).

    Args:
        trajectory: samples after every step (T, N, 2).
        labels: the class of each sample (N,).
        data: real points (M, 2), in grey in every frame.
        limits: as for :func:`point_panels`.
    """
    figure = new_figure(_FRAME_INCHES, _FRAME_INCHES)
    canvas = FigureCanvasAgg(figure)
    points = _scatter(figure.subplots(), trajectory[0], labels, data, limits)
    for samples in trajectory:
        points.set_offsets(samples)
        canvas.draw()
        yield np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _scatter(
    axes: Axes,
    samples: NDArray[np.floating],
    labels: NDArray[np.integer],
    data: NDArray[np.floating],
    limits: NDArray[np.floating] | None,
) -> PathCollection:
    low, high = (data.min(axis=0), data.max(axis=0)) if limits is None else limits
    margin = 0.06 * (np.asarray(high) - low)
    axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
    axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.scatter(data[:, 0], data[:, 1], s=5, color="#d4d4d4", linewidths=0, rasterized=True)
    colours = np.array(COLOURS)[labels % len(COLOURS)]
    return axes.scatter(samples[:, 0], samples[:, 1], s=3, c=colours, alpha=0.8, linewidths=0)
