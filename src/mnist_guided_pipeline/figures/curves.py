"""Lines: a value against something else, and what a guide does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import COLOURS, INK, new_figure, quiet

_Rows = Sequence[Mapping[str, Any]]
_PALE = "#aaaaaa"


class Curve(NamedTuple):
    """One line (N,), and optionally the band from ``low`` to ``high`` around it, such as a confidence interval."""

    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    low: Sequence[float] | np.ndarray | None = None
    high: Sequence[float] | np.ndarray | None = None


def line_panels(
    panels: Mapping[str, Mapping[str, Curve]],
    x_label: str,
    y_label: str = "",
    *,
    log_x: bool = False,
    log_y: bool = False,
) -> Figure:
    """Values against what they depend on, with their bands: sets of lines side by side, each with a scale of its own.

    ``panels`` are at least one, its title to its curves by name; ``y_label`` stands at the left of the first.
    """
    figure = new_figure(3.4 * len(panels) + 0.6, 3.4)
    every = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, curves) in zip(every, panels.items(), strict=True):
        _draw(axes, curves)
        quiet(axes, x_label, y_label if axes is every[0] else "", title)
        axes.set(xscale="log" if log_x else "linear", yscale="log" if log_y else "linear")
    return figure


def guide_report_figure(
    by_noise: _Rows, hacking: _Rows, learned_scores: Mapping[str, _Rows], gradient_errors: Mapping[str, _Rows]
) -> Figure:
    """Draw the report on a guide: the rows that ``evaluation/guide.py`` makes, two of the four by what they are of.

    Returns:
        Eight axes: accuracy and calibration, share of the gradient, guide hacking, error of the gradient; two errors
        of learned gradients, the gap of the hacking by itself, and the error of the unconditional prediction.
    """
    figure = new_figure(16.0, 6.8)
    (reading, pull, hacked, guided), (relative, clean, gap, base) = figure.subplots(2, 4)
    ratios = _values(by_noise, "ratio")
    _draw(reading, {"accuracy": _banded(ratios, by_noise, "accuracy")})
    reading.plot(ratios, _values(by_noise, "confidence"), "--", color=COLOURS[0], linewidth=1, label="confidence")
    reading.plot(ratios, _values(by_noise, "calibration_error"), "o-", color=COLOURS[1], markersize=3.5, label="ECE")
    _by_noise(reading, "", "Reading through the noise", ylim=(-0.02, 1.04))
    _legend(reading)

    scales = _values(hacking, "guidance_scale")
    judge, guide = (_banded(scales, hacking, f"{reader}_accuracy") for reader in ("judge", "guide"))
    _draw(hacked, {"by the judge": judge, "by the guide": guide})
    hacked.fill_between(scales, judge.y, guide.y, color=COLOURS[6], alpha=0.25, linewidth=0, label="gap")
    _legend(hacked)
    _by_scale(hacked, scales, "accuracy of the wanted class", "Guide hacking")
    _draw(gap, {"": Curve(scales, _values(hacking, "gap"))})
    gap.axhline(0.0, color=_PALE, linewidth=1, linestyle=":")
    _by_scale(gap, scales, "guide's accuracy minus judge's", "Gap: what convinces the guide alone")

    shares = {
        name: [{**row, "share": (row["gradient_error"]["value"] / row["wanted"]["value"]) ** 0.5} for row in rows]
        for name, rows in gradient_errors.items()
    }
    pulls, norm = "Pull at scale 1, as a part of the score", "sigma |gradient| / sqrt(d)"
    _against_noise(pull, {"": by_noise}, "gradient_share", norm, pulls)
    _against_noise(guided, shares, "share", "", "Error of the gradient, relative")
    _against_noise(base, gradient_errors, "base_error", "squared norm", "Error of the unconditional prediction")
    known = "Relative error of the gradient, exact one known"
    _against_noise(relative, learned_scores, "relative_error", "relative error", known)
    of_clean = "The same as error of the predicted x0"
    _against_noise(clean, learned_scores, "clean_sample_error", "clean sample error", of_clean)
    relative.axhline(1.0, color=_PALE, linewidth=1, linestyle=":")
    relative.set_ylim(top=20)  # where classes are certain the exact gradient is 0, and a ratio says nothing
    return figure


def _draw(axes: Axes, curves: Mapping[str, Curve]) -> None:
    for index, (name, curve) in enumerate(curves.items()):
        colour, marker = COLOURS[index % len(COLOURS)], "o" if len(curve.x) < 20 else None
        axes.plot(curve.x, curve.y, color=colour, linewidth=1.4, marker=marker, markersize=3.5, label=name)
        if curve.low is not None and curve.high is not None:
            axes.fill_between(np.asarray(curve.x), curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
    if len(curves) > 1:
        _legend(axes)


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)


def _against_noise(axes: Axes, tables: Mapping[str, _Rows], column: str, y_label: str, title: str) -> None:
    """A column of each table over its noise levels."""
    _draw(axes, {name: Curve(_values(rows, "ratio"), _values(rows, column)) for name, rows in tables.items()})
    _by_noise(axes, y_label, title, yscale="log")


def _by_noise(axes: Axes, y_label: str, title: str, **limits: Any) -> None:
    quiet(axes, "noise level sigma / alpha", y_label, title)
    axes.set(xscale="log", **limits)


def _by_scale(axes: Axes, scales: Sequence[float], y_label: str, title: str) -> None:
    """Doublings at even distances, and room for 0."""
    quiet(axes, "guidance scale", y_label, title)
    axes.set_xscale("symlog", linthresh=0.5)
    axes.set_xticks(scales, [f"{scale:g}" for scale in scales])
    axes.set_xlim(min(scales) - 0.05, 1.15 * max(scales) + 0.05)
    axes.minorticks_off()


def _banded(x: Sequence[float], rows: _Rows, name: str) -> Curve:
    low, high = zip(*(row[name]["interval"] for row in rows), strict=True)
    return Curve(x, _values(rows, name), low, high)


def _values(rows: _Rows, name: str) -> list[float]:
    return [row[name]["value"] if isinstance(row[name], Mapping) else row[name] for row in rows]
