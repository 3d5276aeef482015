"""The file of measurements: a record per run, with all that is needed to measure it again.

``metrics.json`` holds ``{"runs": {name: record}}`` and is what README and model card are rendered from. It is written
in one rename, keeps every other run, and is never written over where it cannot be read.

A record:

============  ==========================================================================================
command       what was typed; absolute paths are cut to their last part
model         name, and hash of its networks
judge         likewise
dataset       name, and hash of its images and labels
settings      what the values depend on: the sampling, ``seed`` and ``num_images``, or what a study varies
versions      of this package, torch, diffusers and Python
machine       processor, its cores, threads, processes and device
figures       the values; those of images are described in ``scores.py``
============  ==========================================================================================

A run of ``mnist-guided evaluate`` also has ``key`` (a hash of networks, settings, judge and data: a run with a known
key need not be repeated), ``class_names`` in the order of the confusion matrix, ``scheduler_config`` of the scheduler
that was used, and ``floors``: the same values of real images and of reconstructions, and the judge's own accuracy.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from ..storage.atomic import atomic_write
from ..storage.places import public_name
from ..weights import DEFAULT_FOLDER, JUDGE_FOLDER


def check_name(name: str) -> None:
    """Refuse a run's name that cannot stand in files and in the markers of documents."""
    if not re.fullmatch(r"[\w.,=+/-]+", name):
        raise ValueError(f"name must be letters, digits and any of _ . , = + / -, got {name!r}.")


def read_runs(file: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """The records of a file by name, in its order; none where there is no file.

    A file that is something else, or whose name does not end in ``.json``, is a ValueError.
    """
    file = Path(file)
    if file.suffix != ".json":
        raise ValueError(f"output {str(file)!r} must end in .json.")
    if not file.exists():
        return {}
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))["runs"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(file)!r} is not a file of measurements ({error!r}); name another file.") from error


def write_run(file: str | os.PathLike[str], name: str, record: dict[str, Any]) -> None:
    """Add a run to a file that :func:`read_runs` can read, or replace the one of its name; all others stay."""
    check_name(name)
    atomic_write(file, json.dumps({"runs": read_runs(file) | {name: record}}, indent=1) + "\n")


def make_record(
    identities: Mapping[str, Mapping[str, str]],
    settings: Mapping[str, Any],
    figures: Mapping[str, Any],
    device: torch.device | str = "cpu",
    num_processes: int = 1,
) -> dict[str, Any]:
    """A record of what was measured, here and now, on ``device``; ``identities`` are such as :func:`identity` makes."""
    device = torch.device(device)
    return {
        "command": typed_command(),
        **identities,
        "settings": dict(settings),
        "versions": versions(),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "processes": num_processes,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        },
        "figures": dict(figures),
    }


def identity(name: str, *parts: Any) -> dict[str, str]:
    """A name without its path, and the :func:`fingerprint` of what it stands for."""
    return {"name": public_name(name), "fingerprint": fingerprint(*parts)}


def shown_name(component: Any) -> str:
    """The name that a pipeline or a network was loaded by; ``shipped`` for those of this package."""
    name = getattr(component.config, "_name_or_path", None) or type(component).__name__
    return "shipped" if name in (str(DEFAULT_FOLDER), str(JUDGE_FOLDER)) else public_name(name)


def typed_command() -> str:
    """The line that this program was started by, without the folders of this machine."""
    program, *words = sys.argv
    start = ["python", public_name(program)] if program.endswith(".py") else [Path(program).name]
    shown = []
    for word in words:
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        shown.append(option + equals + public_name(value))
    return shlex.join(start + shown)


def versions() -> dict[str, str]:
    """Versions of what computes."""
    return {
        "mnist_guided_pipeline": metadata.version("mnist-guided-pipeline"),
        "torch": torch.__version__,
        "diffusers": metadata.version("diffusers"),
        "python": platform.python_version(),
    }


def fingerprint(*parts: Any) -> str:
    """Sixteen hexadecimal digits of SHA-256 over networks, tensors and whatever JSON can write, in this order.

    Of a module count class, config and weights, of a tensor type, shape and values, of a pipeline the fingerprint of
    its :func:`pipeline_parts`; objects that JSON cannot write count by their text.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, nn.Module):
            _add_network(digest, part)
        elif isinstance(part, Tensor):
            _add_tensor(digest, part)
        else:
            part = fingerprint(*pipeline_parts(part)) if isinstance(part, DiffusionPipeline) else part
            digest.update(json.dumps(part, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()[:16]


def pipeline_parts(pipe: Any) -> list[Any]:
    """A pipeline's networks and class names; its scheduler and sampling defaults are settings, not weights."""
    parts: list[Any] = [_class_name(pipe), pipe.config.id2label, dict(pipe.config.training_noise)]
    for name, component in sorted(pipe.components.items()):
        if name != "scheduler":
            parts += [name, component]
    return parts


def public_config(component: Any) -> dict[str, Any]:
    """The settings of a diffusers or transformers component, without those that the library keeps for itself."""
    config = getattr(component, "config", {})
    settings = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return {name: value for name, value in settings.items() if not name.startswith("_")}


def _class_name(component: Any) -> str:
    return f"{type(component).__module__}.{type(component).__qualname__}"


def _add_network(digest: Any, network: nn.Module) -> None:
    described = [_class_name(network), public_config(network)]
    digest.update(json.dumps(described, sort_keys=True, default=str).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        _add_tensor(digest, tensor)


def _add_tensor(digest: Any, tensor: Tensor) -> None:
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _processor() -> str:
    """The processor's name: Linux keeps it in a file, elsewhere Python knows the architecture at least."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()
