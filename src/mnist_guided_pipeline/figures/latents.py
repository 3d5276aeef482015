"""Where the classes lie in latent space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from numpy.typing import NDArray

from .style import COLOURS, INK, new_figure, quiet

__all__ = ["latent_scatter", "principal_plane"]


def principal_plane(latents: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates in the plane of greatest variance, by the singular value decomposition of the centred latents.

    Args:
        latents: (N, D), with N and D at least 2.

    Returns:
        Coordinates (N, 2), and the share of the variance along each (2,).
    """
    centred = np.asarray(latents, dtype=np.float64) - np.mean(latents, axis=0, dtype=np.float64)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    return left[:, :2] * singular[:2], singular[:2] ** 2 / np.sum(singular**2)


def latent_scatter(
    points: NDArray[np.floating],
    labels: NDArray[np.integer],
    class_names: Sequence[str],
    axis_labels: tuple[str, str] = ("$z_1$", "$z_2$"),
    title: str = "",
) -> Figure:
    """A point an image, a colour a class.

    Args:
        points: (N, 2).
        labels: (N,), in ``[0, len(class_names))``.
        class_names: for the legend; more than ten share colours.
        axis_labels: below and at the left.
        title: above.

    Returns:
        A figure with one axes; one collection of points for each class that has any.
    """
    figure = new_figure(6.0, 5.2)
    axes = figure.subplots()
    for index, name in enumerate(class_names):
        chosen = points[labels == index]
        if len(chosen):
            colour = COLOURS[index % len(COLOURS)]
            axes.scatter(chosen[:, 0], chosen[:, 1], s=4, color=colour, alpha=0.6, linewidths=0, label=name)
    quiet(axes, *axis_labels, title)
    axes.set_aspect("equal", adjustable="datalim")
    axes.legend(
        loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9, labelcolor=INK, markerscale=3
    ).set_title("class", prop=FontProperties(size=9))
    return figure
