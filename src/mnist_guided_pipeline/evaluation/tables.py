"""Tables and sentences made of ``metrics.json``: no number in a document is typed.

A Markdown document holds markers, ``<!-- metrics:NAME VIEW COLUMNS -->`` ... ``<!-- /metrics -->``; what stands between
them is replaced. NAME is a run, or a group of runs ``NAME/...``. COLUMNS may be left out, for all there are. VIEW is

===============  ============================================================================
table            (if left out) one row per run, with the settings in which the runs differ, and the floors below
provenance       how they were measured: command, shared settings, networks, machine, versions
a figure's name  a single value, such as ``accuracy``, in its sentence; named rows, such as ``rows``, as a table
===============  ============================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

Runs = dict[str, dict[str, Any]]

MARKER = re.compile(
    r"(?P<opening><!-- metrics:(?P<name>\S+)(?P<view>[^>]*?) -->)(?P<body>.*?)<!-- /metrics -->", re.DOTALL
)


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


_COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "accuracy": ("accuracy", _percent),
    "judge_fid": ("judge-FID", "{:.3f}".format),
    "judge_kid": ("judge-KID", "{:.1e}".format),
    "judge_precision": ("precision", "{:.3f}".format),
    "judge_recall": ("recall", "{:.3f}".format),
    "judge_density": ("density", "{:.3f}".format),
    "judge_coverage": ("coverage", "{:.3f}".format),
    "near_copies": ("near copies", _percent),
    "classification_accuracy_score": ("CAS", _percent),
    "images_per_second": ("images/s", "{:.0f}".format),
    "training_minutes": ("training minutes", "{:.0f}".format),
}
_FLOORS = {
    "vae_reconstructions": "VAE reconstructions of test images",
    "real_training_images": "real training images",
    "judge": "real test images, by the judge",
}


def render_document(text: str, runs: Runs) -> str:
    """The text with everything between its markers made anew.

    A marker without an end, or one that names no run or figure, is a ValueError.
    """
    if text.count("<!-- metrics:") != len(MARKER.findall(text)):
        raise ValueError("a marker <!-- metrics:... --> has no end; close each with <!-- /metrics -->.")

    def replace(match: re.Match[str]) -> str:
        view, *columns = match["view"].split() or ["table"]
        rendered = render_view(runs, match["name"], view, columns)
        if "\n" in match["body"]:  # else it stands in a sentence
            rendered = f"\n{rendered}\n"
        return f"{match['opening']}{rendered}<!-- /metrics -->"

    return MARKER.sub(replace, text)


def render_view(runs: Runs, name: str, view: str = "table", columns: Sequence[str] = ()) -> str:
    """One view of a run or a group as Markdown, without a newline at its end; see the module for the views."""
    chosen = find_runs(runs, name)
    if view == "table":
        return _table(chosen, columns)
    if view == "provenance":
        return _provenance(chosen)
    if len(chosen) > 1:
        raise ValueError(f"{view!r} needs one run; {name!r} is a group of {len(chosen)}.")
    figures = next(iter(chosen.values()))["figures"]
    if view not in figures:
        raise ValueError(f"{name!r} has no {view!r}; there are table, provenance, {', '.join(figures)}.")
    found = figures[view]
    if isinstance(found, list) or (isinstance(found, dict) and "value" not in found):
        return rows_table(found, columns, view)
    return _cell(found, view)


def find_runs(runs: Runs, name: str) -> Runs:
    """The run of this name, or those of the group ``name/...``; a ValueError if there is none."""
    chosen = {key: run for key, run in runs.items() if key == name or key.startswith(f"{name}/")}
    if not chosen:
        raise ValueError(f"metrics has no run or group {name!r}; it has {', '.join(runs) or 'none'}.")
    return chosen


def _table(chosen: Runs, columns: Sequence[str]) -> str:
    """One row per run, then one per floor; names where the settings do not tell the runs apart."""
    runs = list(chosen.values())
    columns = columns or [name for name in _COLUMNS if any(name in run["figures"] for run in runs)]
    settings = varied_settings(chosen)
    described = [[setting_text(run["settings"].get(name)) for name in settings] for run in runs]
    if len(set(map(tuple, described))) < len(runs):
        labels = [name.rpartition("/")[2] for name in chosen]
    else:
        labels = [f"{run['settings']['num_images']:,} generated" for run in runs]
    floors = {label: runs[0]["floors"][floor] for floor, label in _FLOORS.items() if floor in runs[0]["floors"]}
    floors = {label: figures for label, figures in floors.items() if set(columns) & set(figures)}
    rows = [["", *map(setting_title, settings), *map(column_title, columns)]]
    for label, values, run in zip(labels, described, runs, strict=True):
        rows.append([label, *values, *(_cell(run["figures"].get(name), name) for name in columns)])
    for label, figures in floors.items():
        count = next(iter(figures.values()))["num_images"]
        cells = [_cell(figures.get(name), name) for name in columns]
        rows.append([f"*{count:,} {label}*", *[""] * len(settings), *cells])
    return markdown_table(rows)


def rows_table(found: Any, columns: Sequence[str] = (), name: str = "value") -> str:
    """Rows of values as a Markdown table; a missing cell is empty.

    Args:
        found: a row, or a list of rows, by label; or a list of rows without labels. A row holds values by column.
        columns: which to show, all if empty.
        name: of the only column, where a row is a single value.
    """
    named = found.items() if isinstance(found, dict) else [("", found)]
    labelled = [(label, row) for label, rows in named for row in (rows if isinstance(rows, list) else [rows])]
    flat = [(label, _flat(row, name)) for label, row in labelled]
    columns = columns or list(dict.fromkeys(column for _, row in flat for column in row))
    rows = [[label, *(_cell(row.get(column), column) for column in columns)] for label, row in flat]
    table = [["", *map(column_title, columns)], *rows]
    return markdown_table(table if isinstance(found, dict) else [row[1:] for row in table])


def _flat(row: Any, view: str) -> dict[str, Any]:
    """One column ``name, key`` for each key of a cell that holds several values; a lone value is named by its view."""
    if not isinstance(row, dict) or "value" in row:
        return {view: row}
    cells: dict[str, Any] = {}
    for name, cell in row.items():
        several = isinstance(cell, dict) and "value" not in cell
        cells |= {f"{name}, {key}": value for key, value in cell.items()} if several else {name: cell}
    return cells


def _provenance(chosen: Runs) -> str:
    """How the runs were measured: what they share, and the command of the first."""
    runs, varied = list(chosen.values()), varied_settings(chosen)
    first, machine, versions = runs[0], runs[0]["machine"], runs[0]["versions"]
    others = len({run["command"] for run in runs}) - 1
    settings = {name: setting_text(value) for name, value in first["settings"].items() if name not in varied}
    parts = [f"{name} {value}" for name, value in settings.items() if value]
    for name, title in (("judge", "judge"), ("model", "networks")):
        if name in first and all(run[name] == first[name] for run in runs):
            parts.append(f"{title} `{first[name]['fingerprint']}`")
    return (
        f"Measured by `{first['command']}`{f' and {others} more like it' if others else ''}: {', '.join(parts)}; on "
        f"{machine['processor']} ({machine['cores']} cores, {machine['device']}) with mnist_guided_pipeline "
        f"{versions['mnist_guided_pipeline']}, torch {versions['torch']}, diffusers {versions['diffusers']}."
    )


def varied_settings(runs: Runs) -> list[str]:
    """The settings that have more than one value among the runs, in their order."""
    settings = [run["settings"] for run in runs.values()]
    names = dict.fromkeys(name for each in settings for name in each)
    return [name for name in names if any(each.get(name) != settings[0].get(name) for each in settings)]


def setting_title(name: str) -> str:
    """A setting's name, short enough for the head of a column."""
    return re.sub("^(guidance|num_inference)_", "", name).replace("_", " ")


def setting_text(value: Any) -> str:
    """A setting's value: numbers short, lists and options by their entries."""
    if isinstance(value, dict):
        return ", ".join(f"{name}={setting_text(entry)}" for name, entry in value.items())
    if isinstance(value, list):
        return (" to " if len(value) == 2 else ", ").join(map(setting_text, value))
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value).removesuffix("Scheduler")


def column_title(name: str) -> str:
    """A value's name at the head of its column."""
    base, comma, rest = name.partition(", ")
    return (_COLUMNS[base][0] if base in _COLUMNS else base.replace("_", " ")) + comma + rest


def _cell(value: Any, name: str) -> str:
    """A value in the form of its column, with its interval or range; whole numbers in full, text as it is."""
    base = name.partition(", ")[0]
    form = _COLUMNS[base][1] if base in _COLUMNS else "{:.4g}".format
    if isinstance(value, dict):
        form = _percent if "interval" in value else form
        if spread := value.get("interval") or value.get("range"):
            low, high = (form(end).removesuffix(" %") for end in spread)
            return f"{form(value['value'])} ({low}-{high})"
        value = value["value"]
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return form(value)
    return f"{value:,}" if type(value) is int else "" if value is None else str(value)


def markdown_table(rows: list[list[str]]) -> str:
    """A table whose columns line up as plain text too; the first to the left, the others, numbers, to the right."""
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    rules = [f":{'-' * (widths[0] - 1)}", *(f"{'-' * (w - 1)}:" for w in widths[1:])]
    sides = [str.ljust, *[str.rjust] * (len(widths) - 1)]
    lines = [[side(cell, w) for side, cell, w in zip(sides, row, widths, strict=True)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rules, *lines[1:]])
