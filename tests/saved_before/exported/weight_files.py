"""What a network's safetensors files hold, compared with what the network needs before it is loaded.

diffusers itself warns about missing and surplus weights, casts integers, and reads NaN as it finds it; here each of
them is an error that names the file. Pickled weights are never opened.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from .atomic import IntegrityError

__all__ = ["check_weights", "read_json", "weight_files"]

_WEIGHTS = "diffusion_pytorch_model"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_FLOATING = {"F16", "BF16", "F32", "F64"}


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        IntegrityError: the file is missing, or holds something else.
    """
    if not file.is_file():
        raise IntegrityError(f"{file} is missing.", file)
    try:
        content = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError, OSError) as error:
        raise IntegrityError(f"{file} cannot be read as JSON: {error}", file) from error
    if not isinstance(content, dict):
        raise IntegrityError(f"{file} must hold a JSON object, not {type(content).__name__}.", file)
    return content


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """The files that ``from_pretrained`` reads weights from: an index and its shards, or one file.

    Args:
        folder: the network's folder.
        variant: as for ``from_pretrained``; a network that has no such variant is read without.

    Raises:
        IntegrityError: there are none in safetensors; the index is damaged, or names something outside the folder.
    """
    for middle in ([f".{variant}"] if variant else []) + [""]:
        single = folder / f"{_WEIGHTS}{middle}.safetensors"
        index = folder / f"{_WEIGHTS}.safetensors.index{middle}.json"
        if index.is_file() and single.is_file():
            raise IntegrityError(
                f"{folder} holds both {index.name} and {single.name}; remove the one that is stale.", index
            )
        if index.is_file():
            return [index, *_shards(index)]
        if single.is_file():
            return [single]
    pickled = sorted(file.name for file in folder.glob("*") if file.suffix in _PICKLED)
    found = f" Its {', '.join(pickled)} can run code when read, so it is not." if pickled else ""
    raise IntegrityError(f"{folder / _WEIGHTS}.safetensors is missing.{found}", folder / f"{_WEIGHTS}.safetensors")


def check_weights(files: list[Path], network: nn.Module) -> None:
    """Compare the files with a network on the meta device, and look at every number.

    Raises:
        IntegrityError: a file cannot be read; a weight is missing, unknown, repeated, of another shape, not of a
            floating-point type, or not finite.
    """
    wanted = network.state_dict()
    index = read_json(files[0])["weight_map"] if files[0].suffix == ".json" else None
    found: dict[str, Path] = {}
    for file in [file for file in files if file.suffix == ".safetensors"]:
        try:
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():
                    if name in found:
                        raise IntegrityError(f"{file} and {found[name].name} both hold the weight {name!r}.", file)
                    if index is not None and index.get(name) != file.name:
                        raise IntegrityError(
                            f"{file} holds the weight {name!r}, which the index says is elsewhere.", file
                        )
                    found[name] = file
                    _check_tensor(file, name, weights, wanted)
        except (SafetensorError, OSError) as error:
            if isinstance(error, IntegrityError):
                raise
            raise IntegrityError(f"{file} cannot be read: {error}", file) from error
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        raise IntegrityError(f"{files[0]} lacks {_listed(missing)} of {type(network).__name__}.", files[0])


def _check_tensor(file: Path, name: str, weights: Any, wanted: dict[str, torch.Tensor]) -> None:
    if name not in wanted:
        raise IntegrityError(f"{file} holds {name!r}, which is no weight of the network.", file)
    header = weights.get_slice(name)
    shape = tuple(header.get_shape())
    if shape != tuple(wanted[name].shape):
        raise IntegrityError(
            f"{file}: {name!r} has shape {shape}, not {tuple(wanted[name].shape)} as config.json says.", file
        )
    if wanted[name].is_floating_point():
        if header.get_dtype() not in _FLOATING:
            raise IntegrityError(f"{file}: {name!r} is of type {header.get_dtype()}, not floating-point.", file)
        if not torch.isfinite(weights.get_tensor(name)).all():
            raise IntegrityError(f"{file}: {name!r} holds NaN or infinity.", file)


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise IntegrityError(f"{index} has no weight_map.", index)
    names = {str(name) for name in weight_map.values()}
    for name in sorted(names):
        if os.path.basename(name) != name or not name.endswith(".safetensors"):
            raise IntegrityError(f"{index} names {name!r}, which is not a safetensors file of its own folder.", index)
        if not (index.parent / name).is_file():
            raise IntegrityError(
                f"{index.parent / name} is missing, though {index.name} lists it.", index.parent / name
            )
    return [index.parent / name for name in sorted(names)]


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError(f"a name is given twice among {', '.join(name for name, _ in pairs)}")
    return content


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more weights" if len(names) > 3 else "")
