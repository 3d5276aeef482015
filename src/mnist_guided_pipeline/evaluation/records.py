"""The file of measurements: one record a run, each with all that is needed to measure it again.

``metrics.json`` holds ``{"runs": {name: record}}`` and is what README and model card are rendered from; a ``.jsonl``
file holds one record a line, ``{"name": ..., **record}``, for sweeps. Both are written in one rename, keep every other
run, and are never written over where they cannot be read.

A record:

============  ==========================================================================================
command       line that measures it again; absolute paths are cut to their last part
key           hash of networks, settings, judge and data: a run with a known key need not be repeated
model         name as given, and hash of its networks
judge         likewise
dataset       name, and hash of its images and labels
class_names   in the order of the confusion matrix
settings      of the sampling, with the pipeline's own values filled in, ``seed`` and ``num_images`` among them
scheduler_config  of the scheduler that was used
versions      of this package, torch, diffusers and Python
machine       processor, its cores, threads, processes and device
figures       see ``scoring.py``, and ``images_per_second`` of the sampling alone
floors        the same figures of real images and of reconstructions, and the judge's own accuracy
============  ==========================================================================================
"""

from __future__ import annotations

import json
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

from ..storage.atomic import atomic_write

__all__ = ["check_name", "machine", "read_runs", "versions", "write_run"]


def check_name(name: str) -> None:
    """A run's name is used in files and in README's markers.

    Raises:
        ValueError: a character that has no place there.
    """
    if not re.fullmatch(r"[\w.,=+/-]+", name):
        raise ValueError(f"name must be letters, digits and any of _ . , = + / -, got {name!r}.")


def read_runs(file: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """The records of a file by name, in its order; none where there is no file.

    The last line of a ``.jsonl`` file is left out where it was cut off.

    Raises:
        ValueError: the file is something else, or its name ends in neither ``.json`` nor ``.jsonl``.
    """
    file = Path(file)
    if file.suffix not in (".json", ".jsonl"):
        raise ValueError(f"output {str(file)!r} must end in .json, or in .jsonl for one line a run.")
    if not file.exists():
        return {}
    text = file.read_text()
    try:
        if file.suffix == ".json":
            return dict(json.loads(text)["runs"])
        complete = [line for line in text.splitlines(keepends=True) if line.endswith("\n") and line.strip()]
        lines = [json.loads(line) for line in complete]
        return {line["name"]: {name: value for name, value in line.items() if name != "name"} for line in lines}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(file)!r} is not a file of measurements ({error!r}); name another file.") from error


def write_run(file: str | os.PathLike[str], name: str, record: dict[str, Any]) -> None:
    """Add a run, or replace the one of its name; all others stay.

    Raises:
        ValueError: a bad name, or the file holds something else.
    """
    check_name(name)
    runs = read_runs(file) | {name: record}
    if Path(file).suffix == ".jsonl":
        text = "".join(json.dumps({"name": name, **run}) + "\n" for name, run in runs.items())
    else:
        text = json.dumps({"runs": runs}, indent=1) + "\n"
    atomic_write(file, text)


def versions() -> dict[str, str]:
    """Versions of what computes."""
    import diffusers

    import mnist_guided_pipeline

    return {
        "mnist_guided_pipeline": mnist_guided_pipeline.__version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "python": platform.python_version(),
    }


def machine(device: torch.device, num_processes: int) -> dict[str, Any]:
    """Where it was computed."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": num_processes,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def _processor() -> str:
    """The processor's name: Linux keeps it in a file, elsewhere Python knows the architecture at least."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()
