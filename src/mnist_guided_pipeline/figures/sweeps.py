"""A sweep as one figure; which axes it has follows from what was varied.

* the number of steps: judge-FID against steps, and against seconds;
* the guidance scale, or another number: accuracy against judge-FID, the points named by the number, and
  coverage against it;
* nothing that is a number: accuracy against judge-FID, and judge-FID against seconds, a point a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..evaluation.studies import seconds_per_thousand, sweep_lines, varied_settings
from .style import COLOURS, INK, new_figure, quiet

__all__ = ["sweep_figure"]

_Record = Mapping[str, Any]
_Lines = Mapping[str, list[_Record]]
_FID, _SECONDS = "judge-FID", "seconds for 1,000 images"
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")


def sweep_figure(runs: Mapping[str, _Record]) -> Figure:
    """Draw a sweep.

    Args:
        runs: records of ``mnist-guided evaluate`` by name, at least two.

    Returns:
        A figure of two axes for each setting that was varied and is a number, or of two in all.
    """
    numbers = [
        name for name in varied_settings(runs) if name not in ("scheduler", "scheduler_options", "guidance_interval")
    ]
    figure = new_figure(10.0, 3.7 * max(1, len(numbers)))
    rows = figure.subplots(max(1, len(numbers)), 2, squeeze=False)
    for name, (left, right) in zip(numbers, rows, strict=True) if numbers else ():
        lines = sweep_lines(runs, name)
        title = name.replace("_", " ")
        if name == "num_inference_steps":
            _draw(left, lines, lambda record: record["settings"]["num_inference_steps"], _value("judge_fid"))
            quiet(left, "steps", _FID, "Quality against steps")
            _draw(right, lines, seconds_per_thousand, _value("judge_fid"), name)
            quiet(right, _SECONDS, _FID, "Quality against time")
            left.set_xscale("log")
            right.set_xscale("log")
            steps = sorted({record["settings"][name] for record in runs.values()})
            left.set_xticks(steps, [str(count) for count in steps])
            left.minorticks_off()
        else:
            _draw(left, lines, _value("judge_fid"), _value("accuracy"), name)
            quiet(left, _FID, "accuracy of the wanted class", f"Accuracy against distance, by {title}")
            _draw(right, lines, _setting(name), _value("judge_coverage"))
            quiet(right, title, "judge-coverage", f"Variety against {title}")
        _floor(left if name == "num_inference_steps" else None, runs)
        if len(lines) > 1:
            left.legend(frameon=False, fontsize=7, labelcolor=INK)
    if not numbers:
        points = {_label(name): [record] for name, record in runs.items()}
        left, right = rows[0]
        _draw(left, points, _value("judge_fid"), _value("accuracy"))
        quiet(left, _FID, "accuracy of the wanted class", "Accuracy against distance")
        _draw(right, points, seconds_per_thousand, _value("judge_fid"))
        quiet(right, _SECONDS, _FID, "Quality against time")
        left.legend(frameon=False, fontsize=7, labelcolor=INK)
    return figure


def _draw(
    axes: Axes,
    lines: _Lines,
    x: Callable[[_Record], float],
    y: Callable[[_Record], float],
    named_by: str | None = None,
) -> None:
    """A line a label; ``named_by`` writes that setting beside every point."""
    for index, (label, records) in enumerate(lines.items()):
        colour = COLOURS[index % len(COLOURS)]
        mark = _MARKS[index // len(COLOURS) % len(_MARKS)]
        xs, ys = [x(record) for record in records], [y(record) for record in records]
        axes.plot(xs, ys, marker=mark, color=colour, markersize=3.5, linewidth=1.3, label=label)
        if named_by is not None:
            for record, place in zip(records, zip(xs, ys, strict=True), strict=True):
                name = f"{record['settings'][named_by]:g}"
                axes.annotate(name, place, (3, 3), textcoords="offset points", fontsize=7, color=INK)


def _floor(axes: Axes | None, runs: Mapping[str, _Record]) -> None:
    """What perfect images reach, as lines across."""
    if axes is None:
        return
    floors = next(iter(runs.values()))["floors"]
    for name, label in (("vae_reconstructions", "reconstructions"), ("real_training_images", "real images")):
        if name in floors:
            value = floors[name]["judge_fid"]["value"]
            axes.axhline(value, color="#aaaaaa", linewidth=1, linestyle=":")
            axes.annotate(
                label, (1, value), (-2, 2), ("axes fraction", "data"), "offset points", ha="right", fontsize=7
            )


def _value(figure: str) -> Callable[[_Record], float]:
    """Reads a figure; where a run has none, such as the accuracy of a pipeline without labels, no point is drawn."""
    return lambda record: record["figures"].get(figure, {}).get("value", float("nan"))


def _setting(name: str) -> Callable[[_Record], float]:
    return lambda record: record["settings"][name]


def _label(run: str) -> str:
    return run.rpartition("/")[2].removeprefix("scheduler=").removesuffix("Scheduler")
