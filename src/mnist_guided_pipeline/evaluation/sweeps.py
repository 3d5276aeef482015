"""What a sweep says: which settings were varied, the lines through its runs, and the best settings of each scheduler.

A sweep is a group of runs that ``mnist-guided evaluate`` has filed, such as ``scales/guidance_scale=1``. Frechet
distances are biased by an amount that depends on the number of images (``metrics.judge_fid``), so its runs must all
have the same number.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["best_defaults", "check_sweep", "seconds_per_thousand", "store_defaults", "sweep_lines", "varied_settings"]

Runs = Mapping[str, Mapping[str, Any]]

_SETTINGS = ("scheduler", "num_inference_steps", "guidance_scale", "guidance_interval")
_OPTIONS = {"cfg_scale": 1.0, "eta": 0.0, "guidance_rescale": 0.0}  # what a call leaves off; never a default
_ENOUGH = 1.05
"""A distance within this factor of the smallest is as good, and fewer steps decide."""


def check_sweep(runs: Runs, name: str) -> None:
    """Refuse what is no sweep.

    Raises:
        ValueError: a single run, runs without images, or with different numbers of images.
    """
    strangers = [run for run, record in runs.items() if "judge_fid" not in record["figures"]]
    if len(runs) < 2 or strangers:
        found = f"{strangers[0]!r} is not of it" if strangers else "it is one run"
        raise ValueError(f"name {name!r} is no sweep of 'mnist-guided evaluate': {found}.")
    counts = sorted({record["settings"]["num_images"] for record in runs.values()})
    if len(counts) > 1:
        raise ValueError(
            f"The runs of {name!r} have {', '.join(map(str, counts))} images: distances compare at one number only. "
            "Measure them with the same --num_images."
        )


def varied_settings(runs: Runs) -> list[str]:
    """The settings that have more than one value among the runs."""
    return [
        setting
        for setting in (*_SETTINGS, *_OPTIONS)
        if len({_plain(_setting(record, setting)) for record in runs.values()}) > 1
    ]


def sweep_lines(runs: Runs, axis: str) -> dict[str, list[Mapping[str, Any]]]:
    """Lines along one setting: the records that share all other settings, by what tells them apart.

    Args:
        runs: of one sweep.
        axis: a setting that is a number.

    Returns:
        Records in the order of the axis, by a label such as ``"DDIM, 20 steps"``; a single line has the label ``""``.
    """
    others = [setting for setting in varied_settings(runs) if setting != axis]
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for record in runs.values():
        label = ", ".join(_described(setting, _setting(record, setting)) for setting in others)
        lines.setdefault(label, []).append(record)
    return {label: sorted(line, key=lambda record: _setting(record, axis)) for label, line in lines.items()}


def seconds_per_thousand(record: Mapping[str, Any]) -> float:
    """Seconds of sampling for 1,000 images, on the machine that the record names."""
    return 1000.0 / record["figures"]["images_per_second"]["value"]


def best_defaults(runs: Runs) -> dict[str, dict[str, Any]]:
    """The settings that images of each scheduler are best at.

    Of the runs whose accuracy is not surely below that of the VAE's reconstructions (below the judge's own where there
    is no VAE), or of all where none reaches it: the smallest judge-FID; and among those within 5 percent of it, the
    fewest steps. Runs with an option that is no default of a pipeline (``cfg_scale``, ``eta``, ``guidance_rescale``)
    are left out.

    Returns:
        ``guidance_scale``, ``num_inference_steps``, and where it was limited ``guidance_interval``, by scheduler class.

    Raises:
        ValueError: every run has such an option.
    """
    plain = [
        record for record in runs.values() if all(_setting(record, option) == off for option, off in _OPTIONS.items())
    ]
    if not plain:
        raise ValueError(f"Every run sets one of {', '.join(_OPTIONS)}, which a pipeline has no defaults for.")
    best = {}
    for scheduler in dict.fromkeys(record["settings"]["scheduler"] for record in plain):
        candidates = [record for record in plain if record["settings"]["scheduler"] == scheduler]
        candidates = [record for record in candidates if _reads_well(record)] or candidates
        smallest = min(_fid(record) for record in candidates)
        good = [record for record in candidates if _fid(record) <= _ENOUGH * smallest]
        chosen = min(good, key=lambda record: (record["settings"]["num_inference_steps"], _fid(record)))["settings"]
        best[scheduler] = {name: chosen[name] for name in ("guidance_scale", "num_inference_steps")}
        if chosen.get("guidance_interval") is not None:
            best[scheduler]["guidance_interval"] = _ends(chosen["guidance_interval"])
    return best


def store_defaults(folder: str | os.PathLike[str], defaults: Mapping[str, Mapping[str, Any]]) -> None:
    """Write settings by scheduler class into a saved pipeline's ``sampling_defaults``; all others stay.

    Raises:
        IntegrityError: a file of the folder is damaged.
    """
    from ..storage.atomic import verify_manifest, write_listed

    verify_manifest(folder)
    index = json.loads((Path(folder) / "model_index.json").read_text())
    own = index.get("sampling_defaults") or {}
    index["sampling_defaults"] = {**own, "schedulers": {**own.get("schedulers", {}), **defaults}}
    write_listed(folder, {"model_index.json": json.dumps(index, indent=2, sort_keys=True) + "\n"})


def _setting(record: Mapping[str, Any], name: str) -> Any:
    """A setting of a record; older records lack options that came later, and had them off."""
    return record["settings"].get(name, _OPTIONS.get(name))


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _ends(interval: list[float | None]) -> list[float]:
    """Both ends as numbers: an open one is kept as None in JSON."""
    low, high = interval
    return [0.0 if low is None else low, math.inf if high is None else high]


def _described(setting: str, value: Any) -> str:
    if setting == "scheduler":
        return value.removesuffix("Scheduler").removesuffix("Discrete")
    if setting == "num_inference_steps":
        return f"{value} steps"
    if setting == "guidance_interval":
        return "all levels" if value is None else "levels {:g}-{:g}".format(*_ends(value))
    return f"{setting.removeprefix('guidance_').removesuffix('_scale') or setting} {value:g}"


def _reads_well(record: Mapping[str, Any]) -> bool:
    floors = record["floors"]
    ceiling = floors.get("vae_reconstructions", floors["judge"])["accuracy"]["value"]
    accuracy = record["figures"].get("accuracy")
    return accuracy is None or accuracy["interval"][1] >= ceiling


def _fid(record: Mapping[str, Any]) -> float:
    return record["figures"]["judge_fid"]["value"]
