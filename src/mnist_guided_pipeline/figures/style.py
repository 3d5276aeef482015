"""What all figures look like: one size of type, few lines, one order of colours."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = (
    *("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee"),
    *("#aa3377", "#999999", "#ee7733", "#332288", "#44aa99"),
)
"""Ten colours that colour-blind readers can tell apart (after Tol, https://sronpersonalpages.nl/~pault/), in order."""

INK = "#333333"
_DPI = 150


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, without pyplot's global state."""
    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white")


def quiet(axes: Axes, x_label: str = "", y_label: str = "", title: str = "") -> None:
    """Label axes, and take away what carries no data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, labelsize=8)
    axes.grid(True, color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(x_label, fontsize=9, color=INK)
    axes.set_ylabel(y_label, fontsize=9, color=INK)
    if title:
        axes.set_title(title, fontsize=10, color=INK, loc="left")
