"""Points in the plane: samples over data, their way there from noise, and where classes lie in latent space."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from numpy.typing import NDArray
from PIL import Image

from .style import COLOURS, INK, new_figure, quiet

_FRAME_INCHES = 3.2


def point_panels(
    panels: Sequence[tuple[str, NDArray[np.floating]]],
    labels: NDArray[np.integer],
    class_names: Sequence[str],
    data: NDArray[np.floating],
    limits: NDArray[np.floating] | None = None,
) -> Figure:
    """Panels beside each other with the same axes: samples (N, 2), coloured by class, over the data (M, 2) in grey.

    ``panels`` are titles and samples; ``labels`` (N,) are the classes of the samples, of which more than ten share
    colours. A legend names them where there are several. ``limits`` of both axes are ``[[x, y], [x, y]]``; those of the
    data if None.
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
) -> Iterator[Image.Image]:
    """One frame of 480x480 pixels per step of ``trajectory`` (T, N, 2); the rest as for :func:`point_panels`."""
    figure = new_figure(_FRAME_INCHES, _FRAME_INCHES)
    canvas = FigureCanvasAgg(figure)
    points = _scatter(figure.subplots(), trajectory[0], labels, data, limits)
    for samples in trajectory:
        points.set_offsets(samples)
        canvas.draw()
        yield Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def evenly_moved(trajectory: NDArray[np.floating], count: int) -> list[int]:
    """Steps of (T, N, 2) between which samples move equally far, ``count`` or fewer, from the first to the last.

    Steps themselves are no measure: where noise is high, hundreds of them move samples less than the last ten do.
    """
    moved = np.sqrt(np.square(np.diff(trajectory, axis=0)).mean(axis=(1, 2))).cumsum()
    steps = np.searchsorted(moved, np.linspace(0, moved[-1], count)[1:-1]) + 1
    return sorted({0, *steps.tolist(), len(moved)})


def latent_scatter(
    points: NDArray[np.floating],
    labels: NDArray[np.integer],
    class_names: Sequence[str],
    axis_labels: tuple[str, str] = ("$z_1$", "$z_2$"),
) -> Figure:
    """One point per image, ``points`` (N, 2), in the colour of its class; ``labels`` (N,) count ``class_names``."""
    figure = new_figure(6.0, 5.2)
    axes = figure.subplots()
    for index in np.unique(labels):
        chosen, colour = points[labels == index], COLOURS[index % len(COLOURS)]
        axes.scatter(chosen[:, 0], chosen[:, 1], s=4, color=colour, alpha=0.6, linewidths=0, label=class_names[index])
    quiet(axes, *axis_labels)
    axes.set_aspect("equal", adjustable="datalim")
    axes.legend(
        loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9, labelcolor=INK, markerscale=3
    ).set_title("class", prop=FontProperties(size=9))
    return figure


def principal_plane(latents: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates (N, 2) of latents (N, D) in the plane of greatest variance, and the part of it along each axis (2,).

    By the singular value decomposition of the centred latents; N and D are at least 2.
    """
    centred = np.asarray(latents, dtype=np.float64) - np.mean(latents, axis=0, dtype=np.float64)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    return left[:, :2] * singular[:2], singular[:2] ** 2 / np.sum(singular**2)


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
