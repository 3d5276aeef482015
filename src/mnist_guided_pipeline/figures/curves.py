"""Lines: a value against something else, losses over the updates, a sweep, and what a guide does.

A sweep has two axes for each number that was varied:

* the number of steps: judge-FID against steps, and against seconds;
* the guidance scale, or another number: accuracy against judge-FID, the points named by the number, and coverage
  against it;
* nothing that is a number: accuracy against judge-FID, and judge-FID against seconds, one point per run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..evaluation.studies import seconds_per_thousand, sweep_lines, varied_settings
from .style import COLOURS, INK, new_figure, quiet

_Record = Mapping[str, Any]
_Rows = Sequence[_Record]
_FID, _ACCURACY, _SECONDS = "judge-FID", "accuracy of the wanted class", "seconds for 1,000 images"
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
_PALE = "#aaaaaa"
_NO_NUMBERS = ("scheduler", "scheduler_options", "guidance_interval")


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


def sweep_figure(runs: Mapping[str, _Record]) -> Figure:
    """Two axes for each setting that was varied and is a number, or two in all; ``runs`` are two records or more."""
    numbers: list[str | None] = [name for name in varied_settings(runs) if name not in _NO_NUMBERS]
    numbers = numbers or [None]
    figure = new_figure(10.0, 3.7 * len(numbers))
    for name, (left, right) in zip(numbers, figure.subplots(len(numbers), 2, squeeze=False), strict=True):
        if name is None:
            lines = {_short(run): [record] for run, record in runs.items()}
            _draw_runs(left, lines, _value("judge_fid"), _value("accuracy"))
            quiet(left, _FID, _ACCURACY, "Accuracy against distance")
        elif name == "num_inference_steps":
            lines = sweep_lines(runs, name)
            _draw_runs(left, lines, _setting(name), _value("judge_fid"))
            quiet(left, "steps", _FID, "Quality against steps")
            _draw_floors(left, runs)
            steps = sorted({record["settings"][name] for record in runs.values()})
            left.set_xscale("log")
            left.set_xticks(steps, [str(count) for count in steps])
            left.minorticks_off()
        else:
            lines, title = sweep_lines(runs, name), name.replace("_", " ")
            _draw_runs(left, lines, _value("judge_fid"), _value("accuracy"), name)
            quiet(left, _FID, _ACCURACY, f"Accuracy against distance, by {title}")
            _draw_runs(right, lines, _setting(name), _value("judge_coverage"))
            quiet(right, title, "judge-coverage", f"Variety against {title}")
        if name in (None, "num_inference_steps"):
            _draw_runs(right, lines, seconds_per_thousand, _value("judge_fid"), name)
            quiet(right, _SECONDS, _FID, "Quality against time")
            right.set_xscale("log" if name else "linear")
        if len(lines) > 1:
            _legend(left, 7)
    return figure


def guide_report_figure(
    by_noise: _Rows, hacking: _Rows, learned_scores: Mapping[str, _Rows], gradient_errors: Mapping[str, _Rows]
) -> Figure:
    """Draw the report on a guide.

    Args:
        by_noise: rows of the reading through noise: values, each with its ``interval``, by the ratio sigma / alpha.
        hacking: rows of the accuracy by guide and by judge, by guidance scale.
        learned_scores: rows of the errors of learned gradients where the exact one is known, by the network's name.
        gradient_errors: rows of the errors of the classifier alone, by what it was measured on; may be empty.

    Returns:
        Eight axes: accuracy and calibration, share of the gradient, guide hacking, error of the gradient; two errors
        of learned gradients, the gap of the hacking by itself, and the error of the unconditional prediction.
    """
    figure = new_figure(16.0, 6.8)
    (reading, pull, hacked, guided), (relative, clean, gap, base) = figure.subplots(2, 4)
    for axes, title, part in (
        (
            guided,
            "Error of the gradient, relative",
            lambda row: row["gradient_error"]["value"] / row["wanted"]["value"],
        ),
        (base, "Error of the unconditional prediction", lambda row: row["base_error"]["value"]),
    ):
        curves = {
            name: Curve([row["ratio"] for row in rows], [part(row) ** (0.5 if axes is guided else 1.0) for row in rows])
            for name, rows in gradient_errors.items()
        }
        _draw(axes, curves)
        _by_noise(axes, "" if axes is guided else "squared norm", title, yscale="log")
    ratios = [row["ratio"] for row in by_noise]
    _draw(reading, {"accuracy": _banded(ratios, by_noise, "accuracy")})
    reading.plot(ratios, _values(by_noise, "confidence"), "--", color=COLOURS[0], linewidth=1, label="confidence")
    reading.plot(ratios, _values(by_noise, "calibration_error"), "o-", color=COLOURS[1], markersize=3.5, label="ECE")
    _by_noise(reading, "", "Reading through the noise", ylim=(-0.02, 1.04))
    _legend(reading)
    _draw(pull, {"": Curve(ratios, _values(by_noise, "gradient_share"))})
    _by_noise(pull, "sigma |gradient| / sqrt(d)", "Pull at scale 1, as a part of the score", yscale="log")

    scales = [row["guidance_scale"] for row in hacking]
    judge, guide = (_banded(scales, hacking, f"{reader}_accuracy") for reader in ("judge", "guide"))
    _draw(hacked, {"by the judge": judge, "by the guide": guide})
    hacked.fill_between(scales, judge.y, guide.y, color=COLOURS[6], alpha=0.25, linewidth=0, label="gap")
    _legend(hacked)
    _by_scale(hacked, scales, _ACCURACY, "Guide hacking")
    _draw(gap, {"": Curve(scales, _values(hacking, "gap"))})
    gap.axhline(0.0, color=_PALE, linewidth=1, linestyle=":")
    _by_scale(gap, scales, "guide's accuracy minus judge's", "Gap: what convinces the guide alone")

    for axes, name, title in (
        (relative, "relative_error", "Relative error of the gradient, exact one known"),
        (clean, "clean_sample_error", "The same as error of the predicted x0"),
    ):
        curves = {
            label: Curve([row["ratio"] for row in rows], [row[name] for row in rows])
            for label, rows in learned_scores.items()
        }
        _draw(axes, curves)
        _by_noise(axes, name.replace("_", " "), title, yscale="log")
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


def _legend(axes: Axes, size: int = 8) -> None:
    axes.legend(frameon=False, fontsize=size, labelcolor=INK)


def _draw_runs(
    axes: Axes,
    lines: Mapping[str, list[_Record]],
    x: Callable[[_Record], float],
    y: Callable[[_Record], float],
    named_by: str | None = None,
) -> None:
    """One line per label; ``named_by`` writes that setting beside every point."""
    for index, (label, records) in enumerate(lines.items()):
        colour, mark = COLOURS[index % len(COLOURS)], _MARKS[index // len(COLOURS) % len(_MARKS)]
        xs, ys = [x(record) for record in records], [y(record) for record in records]
        axes.plot(xs, ys, marker=mark, color=colour, markersize=3.5, linewidth=1.3, label=label)
        if named_by is not None:
            for record, place in zip(records, zip(xs, ys, strict=True), strict=True):
                name = f"{record['settings'][named_by]:g}"
                axes.annotate(name, place, (3, 3), textcoords="offset points", fontsize=7, color=INK)


def _draw_floors(axes: Axes, runs: Mapping[str, _Record]) -> None:
    """What perfect images reach, as lines across."""
    floors = next(iter(runs.values()))["floors"]
    for name, label in (("vae_reconstructions", "reconstructions"), ("real_training_images", "real images")):
        if name in floors:
            value = floors[name]["judge_fid"]["value"]
            axes.axhline(value, color=_PALE, linewidth=1, linestyle=":")
            axes.annotate(
                label, (1, value), (-2, 2), ("axes fraction", "data"), "offset points", ha="right", fontsize=7
            )


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
    return [row[name]["value"] for row in rows]


def _value(name: str) -> Callable[[_Record], float]:
    """Reads a value; where a run has none, such as the accuracy of a pipeline without labels, no point is drawn."""
    return lambda record: record["figures"].get(name, {}).get("value", float("nan"))


def _setting(name: str) -> Callable[[_Record], float]:
    return lambda record: record["settings"][name]


def _short(run: str) -> str:
    return run.rpartition("/")[2].removeprefix("scheduler=").removesuffix("Scheduler")
