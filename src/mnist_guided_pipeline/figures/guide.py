"""The guide report as one figure: reading, pull and gradient over the noise, and guide hacking over the scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import COLOURS, INK, new_figure, quiet

__all__ = ["guide_report_figure"]

_NOISE = "noise level sigma / alpha"
_Rows = Sequence[Mapping[str, Any]]


def guide_report_figure(by_noise: _Rows, hacking: _Rows, learned_scores: Mapping[str, _Rows]) -> Figure:
    """Draw the three parts of the report.

    Args:
        by_noise: rows of ``guide_report.guide_by_noise``.
        hacking: rows of ``guide_report.guide_hacking``.
        learned_scores: rows of ``learned_scores.compare_scores``, by the name of the network.

    Returns:
        A figure with six axes: accuracy and calibration, gradient share, guide hacking; the two errors of gradients
        that were trained where the exact one is known, and the gap of the hacking by itself.
    """
    figure = new_figure(12.0, 6.8)
    panels = figure.subplots(2, 3)
    _reading(panels[0, 0], by_noise)
    _share(panels[0, 1], by_noise)
    _hacking(panels[0, 2], hacking)
    _errors(panels[1, 0], learned_scores, "relative_error", "Relative error of the gradient, exact one known")
    _errors(panels[1, 1], learned_scores, "clean_sample_error", "The same as error of the predicted x0")
    _gap(panels[1, 2], hacking)
    return figure


def _reading(axes: Axes, rows: _Rows) -> None:
    ratios = [row["ratio"] for row in rows]
    _with_interval(axes, ratios, [row["accuracy"] for row in rows], "accuracy", COLOURS[0])
    axes.plot(ratios, _values(rows, "confidence"), "--", color=COLOURS[0], linewidth=1, label="confidence")
    axes.plot(ratios, _values(rows, "calibration_error"), "o-", color=COLOURS[1], markersize=3.5, label="ECE")
    quiet(axes, _NOISE, "", "Reading through the noise")
    axes.set(xscale="log", ylim=(-0.02, 1.04))
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)


def _share(axes: Axes, rows: _Rows) -> None:
    axes.plot([row["ratio"] for row in rows], _values(rows, "gradient_share"), "o-", color=COLOURS[2], markersize=3.5)
    quiet(axes, _NOISE, "sigma |gradient| / sqrt(d)", "Pull at scale 1, as a share of the score")
    axes.set(xscale="log", yscale="log")


def _hacking(axes: Axes, rows: _Rows) -> None:
    scales = [row["guidance_scale"] for row in rows]
    for name, label, colour in (
        ("guide_accuracy", "by the guide", COLOURS[1]),
        ("judge_accuracy", "by the judge", COLOURS[0]),
    ):
        _with_interval(axes, scales, [row[name] for row in rows], label, colour)
    guide, judge = _values(rows, "guide_accuracy"), _values(rows, "judge_accuracy")
    axes.fill_between(scales, judge, guide, color=COLOURS[6], alpha=0.25, linewidth=0, label="gap")
    quiet(axes, "guidance scale", "accuracy of the wanted class", "Guide hacking")
    _scale_axis(axes, scales)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)


def _gap(axes: Axes, rows: _Rows) -> None:
    scales = [row["guidance_scale"] for row in rows]
    axes.plot(scales, _values(rows, "gap"), "o-", color=INK, markersize=3.5)
    axes.axhline(0.0, color="#bbbbbb", linewidth=1, linestyle=":")
    quiet(axes, "guidance scale", "guide's accuracy minus judge's", "Gap: what convinces the guide alone")
    _scale_axis(axes, scales)


def _scale_axis(axes: Axes, scales: Sequence[float]) -> None:
    """Doublings at even distances, and room for 0."""
    axes.set_xscale("symlog", linthresh=0.5)
    axes.set_xticks(scales, [f"{scale:g}" for scale in scales])
    axes.set_xlim(min(scales) - 0.05, 1.15 * max(scales) + 0.05)
    axes.minorticks_off()


def _errors(axes: Axes, networks: Mapping[str, _Rows], name: str, title: str) -> None:
    for (label, rows), colour in zip(networks.items(), COLOURS, strict=False):
        ratios = [row["ratio"] for row in rows]
        axes.plot(ratios, [row[name] for row in rows], "o-", color=colour, markersize=3.5, label=label)
    if name == "relative_error":
        axes.axhline(1.0, color="#bbbbbb", linewidth=1, linestyle=":")
    quiet(axes, _NOISE, name.replace("_", " "), title)
    axes.set(xscale="log", yscale="log")
    if name == "relative_error":
        axes.set_ylim(top=20)  # where classes are certain the exact gradient is 0, and a ratio says nothing
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)


def _with_interval(axes: Axes, x: Sequence[float], figures: _Rows, label: str, colour: str) -> None:
    """A line with the intervals of its values around it."""
    low, high = zip(*(figure["interval"] for figure in figures), strict=True)
    axes.plot(x, [figure["value"] for figure in figures], "o-", color=colour, markersize=3.5, label=label)
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def _values(rows: _Rows, name: str) -> list[float]:
    return [row[name]["value"] for row in rows]
