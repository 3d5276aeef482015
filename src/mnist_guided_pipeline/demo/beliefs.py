"""What a classifier believes as the noise changes: one line per class, those that matter named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ..figures.style import COLOURS

_INK = "#808894"  # readable on white and on near-black, as the figure has no background of its own
_STRONG, _OTHERS = COLOURS[0], (COLOURS[7], COLOURS[2], COLOURS[1])
_NAMED_ABOVE = 0.15


def plot_beliefs(
    beliefs: Tensor, positions: Sequence[float], names: Sequence[str], wanted: int | None, axis: str
) -> Figure:
    """Class probabilities (T, C) at T positions along a path, the class ``wanted`` stressed where there is one.

    The figure is transparent, for light and dark pages; ``axis`` says what the positions are.
    """
    values = np.asarray(beliefs)
    figure, axes = _canvas(axis, whole=True)
    peaks = values.max(axis=0)
    rivals = [index for index in np.argsort(-peaks) if index != wanted and peaks[index] > _NAMED_ABOVE]
    colours = dict(zip(rivals, _OTHERS, strict=False))
    if wanted is not None:
        colours[wanted] = _STRONG
    for index in sorted(range(len(names)), key=lambda index: (index == wanted, peaks[index])):
        colour = colours.get(index, _INK)
        stressed = index in colours
        label = names[index] + (" (asked for)" if index == wanted else "") if stressed else None
        width = 2.6 if index == wanted else 1.6 if stressed else 0.7
        axes.plot(positions, values[:, index], color=colour, linewidth=width, alpha=1 if stressed else 0.5, label=label)
    _legend(axes, last_first=True)
    return figure


def plot_belief_in(paths: Sequence[tuple[str, Tensor]]) -> Figure:
    """The belief in what was asked for, (T,) in [0, 1] per setting, each over its own steps from 0 to 1."""
    figure, axes = _canvas("share of the way from noise to image", whole=False)
    for (name, values), colour in zip(paths, (_STRONG, *_OTHERS), strict=False):
        axes.plot(np.linspace(0, 1, len(values)), np.asarray(values), color=colour, linewidth=2.2, label=name)
    _legend(axes, last_first=False)
    return figure


def _canvas(axis: str, whole: bool) -> tuple[Figure, Any]:
    figure = Figure(figsize=(5.4, 3.0), dpi=150, layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel(axis, color=_INK)
    axes.set_ylabel("probability", color=_INK)
    axes.tick_params(colors=_INK)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=whole))
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_INK)
    return figure, axes


def _legend(axes: Any, last_first: bool) -> None:
    if axes.get_legend_handles_labels()[0]:
        place = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "ncols": 4}
        axes.legend(frameon=False, labelcolor=_INK, reverse=last_first, handlelength=1.2, columnspacing=1.2, **place)
