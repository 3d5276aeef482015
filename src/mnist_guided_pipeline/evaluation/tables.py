"""Tables and sentences made of ``metrics.json``: no figure is ever typed.

A Markdown document holds markers, ``<!-- metrics:NAME VIEW -->`` ... ``<!-- /metrics -->``; what is between them is
replaced. NAME is a run, or a group of runs ``NAME/...``; VIEW is one of

===============  ============================================================================
table            (if left out) a row a run, with the floors below
named            the same, with the part of a run's name after that of its group
per_class        accuracy and judge-FID of each class of a run
confusion        the confusion matrix of a run
provenance       how a run was measured: command, seed, images, versions, machine
timed            how a benchmark was measured: command, rounds, versions, machine
schedulers       the table of ``mnist-guided figure scheduler-table``
guide            the tables of ``mnist-guided figure guide-report``
rows             the table of a benchmark or a study, whose figure ``rows`` holds named rows
a figure's name  that figure of a run, such as ``accuracy``, in the line it stands in
===============  ============================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

__all__ = ["MARKER", "find_runs", "markdown_table", "render_document", "render_view"]

Runs = dict[str, dict[str, Any]]

MARKER = re.compile(r"<!-- metrics:(?P<name>\S+)(?: (?P<view>\w+))? -->(?P<body>.*?)<!-- /metrics -->", re.DOTALL)
_OPENING = re.compile(r"<!-- metrics:")


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _signed_power(value: float) -> str:
    return f"{value:.1e}" if abs(value) < 1e-2 else f"{value:.3f}"


_COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "accuracy": ("accuracy", _percent),
    "judge_fid": ("judge-FID", "{:.3f}".format),
    "judge_kid": ("judge-KID", _signed_power),
    "judge_precision": ("judge-precision", "{:.3f}".format),
    "judge_recall": ("judge-recall", "{:.3f}".format),
    "judge_density": ("judge-density", "{:.3f}".format),
    "judge_coverage": ("judge-coverage", "{:.3f}".format),
    "inception_fid": ("Inception-FID", "{:.2f}".format),
    "near_copies": ("near copies", _percent),
    "closer_than_typical": ("closer than typical", _percent),
    "copying_z": ("copying z", "{:.1f}".format),
    "classification_accuracy_score": ("CAS", _percent),
    "images_per_second": ("images/s", "{:.0f}".format),
    "training_minutes": ("training minutes", "{:.0f}".format),
    "non_finite_images": ("not finite", "{:.0f}".format),
}
_IN_TABLES = [name for name in _COLUMNS if name not in ("closer_than_typical", "copying_z", "non_finite_images")]
_OPTIONS = {"guidance_rescale": 0.0, "cfg_scale": 1.0, "eta": 0.0}  # shown where a run differs from these
_FLOORS = {
    "vae_reconstructions": "VAE reconstructions of test images",
    "real_training_images": "real training images",
    "judge": "real test images, by the judge",
}


def render_document(text: str, runs: Runs) -> str:
    """The text with everything between its markers made anew.

    Raises:
        ValueError: a marker without an end, or one that names no run, view or figure.
    """
    if len(_OPENING.findall(text)) != len(MARKER.findall(text)):
        raise ValueError("a marker <!-- metrics:... --> has no end; close each with <!-- /metrics -->.")

    def replace(match: re.Match[str]) -> str:
        name, view = match["name"], match["view"] or "table"
        rendered = render_view(runs, name, view)
        inline = view in _COLUMNS
        opening = match[0][: match[0].index("-->") + 3]
        return f"{opening}{rendered if inline else f'{chr(10)}{rendered}{chr(10)}'}<!-- /metrics -->"

    return MARKER.sub(replace, text)


def render_view(runs: Runs, name: str, view: str = "table") -> str:
    """One view of a run or a group as Markdown, without a newline at its end; see the module for the views.

    Raises:
        ValueError: there is no such run, view or figure.
    """
    chosen = find_runs(runs, name)
    if view in ("table", "named"):
        return _table(chosen, named=view == "named")
    if len(chosen) > 1:
        raise ValueError(f"view {view!r} needs one run; {name!r} is a group of {len(chosen)}.")
    run = next(iter(chosen.values()))
    if view in _VIEWS:
        return _VIEWS[view](run)
    if view not in _COLUMNS:
        raise ValueError(f"view {view!r} is unknown; there are {', '.join(('table', 'named', *_VIEWS, *_COLUMNS))}.")
    return _cell(_figure(run, view), _COLUMNS[view][1])


def find_runs(runs: Runs, name: str) -> Runs:
    """The run of this name, or those of the group ``name/...``.

    Raises:
        ValueError: there is none.
    """
    chosen = {key: run for key, run in runs.items() if key == name or key.startswith(f"{name}/")}
    if not chosen:
        raise ValueError(f"metrics has no run or group {name!r}; it has {', '.join(runs) or 'none'}.")
    return chosen


def _table(chosen: Runs, named: bool = False) -> str:
    """A row a run, then a row a floor; columns that nothing fills are left out."""
    sets = [run["figures"] for run in chosen.values()]
    first = next(iter(chosen.values()))
    floors = {label: first["floors"][floor] for floor, label in _FLOORS.items() if floor in first["floors"]}
    columns = [name for name in _IN_TABLES if any(name in figures for figures in sets)]
    options = [
        name for name, off in _OPTIONS.items() if any(run["settings"].get(name, off) != off for run in chosen.values())
    ]
    titles = [name.removeprefix("guidance_").replace("_", " ") for name in options]
    rows = [["images", "scheduler", "steps", "scale", *titles, *(_COLUMNS[name][0] for name in columns)]]
    for run in chosen.values():
        settings = run["settings"]
        described = [
            f"{settings['num_images']:,} generated",
            settings["scheduler"].removesuffix("Scheduler"),
            str(settings["num_inference_steps"]),
            f"{settings['guidance_scale']:g}",
            *(f"{settings.get(name, _OPTIONS[name]):g}" for name in options),
        ]
        rows.append(described + [_cell(run["figures"].get(name), _COLUMNS[name][1]) for name in columns])
    for label, figures in floors.items():
        count = next(iter(figures.values()))["num_images"]
        cells = [_cell(figures.get(name), _COLUMNS[name][1]) for name in columns]
        rows.append([f"*{count:,} {label}*", "", "", "", *([""] * len(options)), *cells])
    if named:
        names = ["", *(name.rpartition("/")[2] for name in chosen)]
        rows = [[name, *row] for name, row in zip(names + [""] * len(floors), rows, strict=True)]
    return markdown_table(rows, text_columns=2 + named)


def _per_class(run: dict[str, Any]) -> str:
    accuracies, distances = _figure(run, "accuracy_per_class"), _figure(run, "judge_fid_per_class")
    rows = [["class", "images", "accuracy", "judge-FID"]]
    for name, accuracy in accuracies.items():
        cells = [_cell(accuracy, _percent), _cell(distances[name], "{:.3f}".format)]
        rows.append([name, f"{accuracy['num_images']:,}", *cells])
    return markdown_table(rows)


def _confusion(run: dict[str, Any]) -> str:
    matrix = _figure(run, "confusion_matrix")
    names = run["class_names"]
    rows = [["wanted \\ seen", *names]]
    rows += [[name, *(str(count) if count else "" for count in row)] for name, row in zip(names, matrix, strict=True)]
    return markdown_table(rows)


def _provenance(run: dict[str, Any]) -> str:
    settings, machine = run["settings"], run["machine"]
    processes = f"{machine['processes']} process{'es' if machine['processes'] > 1 else ''}"
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    return (
        f"Measured by `{run['command']}`: {settings['num_images']:,} images, seed {settings['seed']}, judge "
        f"`{run['judge']['fingerprint']}`, networks `{run['model']['fingerprint']}`, on {machine['processor']} "
        f"({machine['cores']} cores, {processes} of {threads}, {machine['device']}) with {_software(run)}. Intervals "
        "are Wilson's, 95 %."
    )


def _timed(run: dict[str, Any]) -> str:
    """As of a run of images, but processes and threads are what a benchmark varies."""
    machine, rounds = run["machine"], run["settings"]["rounds"]
    return (
        f"Timed by `{run['command']}`: medians of {rounds} rounds after a warm-up, on {machine['processor']} "
        f"({machine['cores']} cores, {machine['device']}) with {_software(run)}."
    )


def _software(run: dict[str, Any]) -> str:
    versions = run["versions"]
    return (
        f"mnist_guided_pipeline {versions['mnist_guided_pipeline']}, torch {versions['torch']}, diffusers "
        f"{versions['diffusers']}"
    )


def _schedulers(run: dict[str, Any]) -> str:
    """A row a scheduler: the error of exact networks by steps, then the trained pipeline's figures by steps."""
    figures = run["figures"]
    parts = {"oracle_error": "oracle error", "accuracy": "accuracy", "judge_fid": "judge-FID"}
    forms = {"oracle_error": "{:.3f}".format, "accuracy": _percent, "judge_fid": "{:.2f}".format}
    steps = {part: next(iter(row[part] for row in figures.values() if part in row)) for part in parts}
    titles = [f"{title}, {count} steps" for part, title in parts.items() for count in steps[part]]
    rows = [["scheduler", "predictions", "stochastic", *titles]]
    for name, row in figures.items():
        cells = [forms[part](row[part][count]) if part in row else "" for part in parts for count in steps[part]]
        predictions = ", ".join(kind.removesuffix("_prediction") for kind in row["prediction_types"])
        rows.append([name.removesuffix("Scheduler"), predictions, row["stochastic"], *cells])
    return markdown_table(rows, text_columns=3)


def _guide(run: dict[str, Any]) -> str:
    """What the guide reads and how hard it pulls by noise, whom it convinces by scale, and the error of its kind."""
    by_noise = [["timesteps", "sigma / alpha", "accuracy", "calibration error", "confidence", "gradient share"]]
    for row in _figure(run, "by_noise"):
        first, last = row["timesteps"]
        cells = [_cell(row["accuracy"], _percent), _percent(row["calibration_error"]["value"])]
        cells += [_percent(row["confidence"]["value"]), f"{row['gradient_share']['value']:.4f}"]
        by_noise.append([f"{first}-{last}", f"{row['ratio']:.3g}", *cells])
    hacking = [["scale", "accuracy by the guide", "accuracy by the judge", "gap", "guide's confidence"]]
    for row in _figure(run, "hacking"):
        cells = [_cell(row[name], _percent) for name in ("guide_accuracy", "judge_accuracy", "gap")]
        hacking.append([f"{row['guidance_scale']:g}", *cells, _percent(row["guide_confidence"]["value"])])
    learned = _figure(run, "learned_scores")
    titles = [f"{error}, {name}" for error in ("relative error", "error of x0") for name in learned]
    scores = [["sigma / alpha", *titles]]
    for rows in zip(*learned.values(), strict=True):
        errors = [row[name] for name in ("relative_error", "clean_sample_error") for row in rows]
        scores.append([f"{rows[0]['ratio']:.3g}", *(f"{error:.3f}" for error in errors)])
    return "\n\n".join(markdown_table(table) for table in (by_noise, hacking, scores))


def _rows(run: dict[str, Any]) -> str:
    """Named rows of figures, a column a figure; what a row does not have stays empty."""
    found = _figure(run, "rows")
    columns = list(dict.fromkeys(name for row in found.values() for name in row))
    titles = [_COLUMNS[name][0] if name in _COLUMNS else name.replace("_", " ") for name in columns]
    table = [["", *titles]]
    for label, row in found.items():
        table.append([label, *(_free_cell(row.get(name), name) for name in columns)])
    return markdown_table(table)


def _free_cell(value: Any, name: str) -> str:
    """A cell of any column: text as it is, whole numbers in full, others to four figures."""
    if value is None:
        return ""
    if isinstance(value, (str, bool)):
        return str(value)
    form = _COLUMNS[name][1] if name in _COLUMNS else "{:.4g}".format
    if isinstance(value, dict):
        return _cell(value, form)
    return f"{value:,}" if isinstance(value, int) else form(value)


def _figure(run: dict[str, Any], name: str) -> Any:
    if name not in run["figures"]:
        raise ValueError(f"the run has no figure {name!r}; it has {', '.join(run['figures'])}.")
    return run["figures"][name]


def _cell(figure: dict[str, Any] | None, form: Callable[[float], str]) -> str:
    """A value, with its interval in brackets where it has one."""
    if figure is None:
        return ""
    if "interval" not in figure:
        return form(figure["value"])
    low, high = (form(end).removesuffix(" %") for end in figure["interval"])
    return f"{form(figure['value'])} ({low}-{high})"


def markdown_table(rows: list[list[str]], text_columns: int = 1) -> str:
    """A table whose columns line up as plain text too; the first ``text_columns`` to the left, numbers to the right."""
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    rules = [f":{'-' * (w - 1)}" if i < text_columns else f"{'-' * (w - 1)}:" for i, w in enumerate(widths)]
    lines = [
        [
            cell.ljust(w) if i < text_columns else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rules, *lines[1:]])


_VIEWS: dict[str, Callable[[dict[str, Any]], str]] = {
    "per_class": _per_class,
    "confusion": _confusion,
    "provenance": _provenance,
    "timed": _timed,
    "schedulers": _schedulers,
    "guide": _guide,
    "rows": _rows,
}
