"""Loading one network by the class its folder names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from diffusers import ModelMixin

from .atomic import verify_manifest
from .pipelines import download_snapshot
from .places import find_folder
from .safety import check_network, warn_without_manifest
from .weight_files import read_json, weight_files

__all__ = ["load_network"]

_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision")


def load_network(path: str | os.PathLike[str], component: str | None = None, **options: Any) -> ModelMixin:
    """Load a network of this package, in ``eval()`` mode, safetensors only, after the checks of ``safety.py``.

    Args:
        path: folder or Hub id of the network, or of a pipeline that holds it.
        component: the network's name in a pipeline, such as ``"vae"``.
        options: passed to ``from_pretrained``, such as ``torch_dtype``, ``variant``, ``subfolder`` or ``revision``.

    Raises:
        FileNotFoundError: the path is neither a folder nor a Hub id.
        IntegrityError: a file is missing, damaged or does not fit the others; the message names it.
        ValueError: the folder names a class that is not one of this package.
    """
    import mnist_guided_pipeline as package

    path = os.fspath(path)
    found_folder = find_folder(path)
    if found_folder is None:
        hub_options = {name: options.pop(name) for name in _HUB_OPTIONS if name in options}
        path = download_snapshot(path, options.get("variant"), **hub_options)
    else:
        path = os.fspath(found_folder)
    subfolder = options.pop("subfolder", None)
    if component is not None and os.path.isfile(os.path.join(path, "model_index.json")):
        subfolder = component
    folder = Path(path, subfolder or "")
    name = read_json(folder / "config.json").get("_class_name", "nothing")
    found = getattr(package, str(name), None)
    if not (isinstance(found, type) and issubclass(found, ModelMixin)):
        raise ValueError(f"{str(folder)!r} holds a {name}, which is not a network of mnist_guided_pipeline.")
    network_class: type[ModelMixin] = found
    files = [folder / "config.json", *weight_files(folder, options.get("variant"))]
    if not verify_manifest(path, [file.relative_to(path).as_posix() for file in files]):
        warn_without_manifest(folder)
    check_network(folder, network_class, options.get("variant"))
    if options.get("variant") and f".{options['variant']}" not in files[1].name:
        options.pop("variant")  # this network has none, as in a pipeline where only some have
    return network_class.from_pretrained(folder, use_safetensors=True, **options)
