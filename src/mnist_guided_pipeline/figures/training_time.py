"""Quality against the minutes of training, drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import COLOURS, INK, new_figure, quiet

__all__ = ["training_time_figure"]


def training_time_figure(runs: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw the records of ``mnist-guided study training-time``.

    Args:
        runs: records by name, each with its ``training_minutes``.

    Returns:
        Two axes: error of the wanted class with its interval, and judge-FID, both against minutes on logarithmic axes,
        with the floors as lines across.
    """
    ordered = sorted(runs.values(), key=lambda run: run["figures"]["training_minutes"]["value"])
    minutes = [run["figures"]["training_minutes"]["value"] for run in ordered]
    floors = ordered[0]["floors"]
    figure = new_figure(9.0, 3.4)
    left, right = figure.subplots(1, 2)
    accuracy = [run["figures"]["accuracy"] for run in ordered]
    errors = [100 * (1 - value["value"]) for value in accuracy]
    bars = [
        [100 * (value["interval"][1] - value["value"]) for value in accuracy],
        [100 * (value["value"] - value["interval"][0]) for value in accuracy],
    ]
    left.errorbar(minutes, errors, bars, fmt="o-", color=COLOURS[0], markersize=3.5, linewidth=1.2, elinewidth=0.8)
    quiet(left, "minutes of training", "% not read as the wanted class (log)", "Agreement with the label")
    distances = [run["figures"]["judge_fid"]["value"] for run in ordered]
    right.plot(minutes, distances, "o-", color=COLOURS[1], markersize=3.5, linewidth=1.2)
    quiet(right, "minutes of training", "judge-FID (log)", "Distance to real images")
    for name, label in (("vae_reconstructions", "reconstructions"), ("real_training_images", "real images")):
        if "accuracy" in floors.get(name, {}):
            _across(left, 100 * (1 - floors[name]["accuracy"]["value"]), label)
        if name in floors:
            _across(right, floors[name]["judge_fid"]["value"], label)
    for axes in (left, right):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.tick_params(axis="y", which="minor", labelsize=7, colors=INK)
        axes.set_xlim(left=0)
    return figure


def _across(axes: Axes, value: float, label: str) -> None:
    axes.axhline(value, color="#aaaaaa", linewidth=1, linestyle=":")
    axes.annotate(
        label, (1, value), (-2, 2), ("axes fraction", "data"), "offset points", ha="right", fontsize=7, color=INK
    )
