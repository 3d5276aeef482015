"""Names for what a figure was measured on: hashes of weights, settings, code and data.

A cache is only as honest as its key. Samples are kept under a hash of everything that they depend on, so a retrained
network, another scheduler setting or a changed line of sampling code never meets old samples.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["SAMPLING_CODE", "code_fingerprint", "fingerprint", "pipeline_fingerprint", "public_config"]

_PACKAGE = Path(__file__).parents[1]
SAMPLING_CODE = (
    *(f"sampling/{name}" for name in ("checks", "guidance", "labels", "latents", "noise", "pipeline", "schedulers")),
    *("data/images", "training/streams", "evaluation/samples"),
)
"""The modules of this package that decide what an image looks like, beside the networks in ``models``."""


def fingerprint(*parts: Any) -> str:
    """Sixteen hexadecimal digits of SHA-256 over networks, tensors and whatever JSON can write, in this order.

    Args:
        parts: ``nn.Module`` (class, config and weights count), ``Tensor`` (type, shape and values count), or plain
            values; other objects count by their text.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, nn.Module):
            _add_network(digest, part)
        elif isinstance(part, Tensor):
            _add_tensor(digest, part)
        else:
            digest.update(json.dumps(part, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()[:16]


def pipeline_fingerprint(pipe: Any) -> str:
    """Hash of a pipeline's networks and class names; its scheduler and sampling defaults are settings, not weights."""
    parts: list[Any] = [_class_name(pipe), pipe.config.id2label, dict(pipe.config.training_noise)]
    for name, component in sorted(pipe.components.items()):
        if name != "scheduler":
            parts += [name, component]
    return fingerprint(*parts)


def code_fingerprint() -> str:
    """Hash of the code that draws images."""
    files = [_PACKAGE / f"{name}.py" for name in SAMPLING_CODE] + sorted((_PACKAGE / "models").glob("*.py"))
    return fingerprint([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])


def public_config(component: Any) -> dict[str, Any]:
    """The settings of a diffusers component, without those that diffusers keeps for itself."""
    return {name: value for name, value in dict(component.config).items() if not name.startswith("_")}


def _class_name(component: Any) -> str:
    return f"{type(component).__module__}.{type(component).__qualname__}"


def _add_network(digest: Any, network: nn.Module) -> None:
    config = getattr(network, "config", {})
    if hasattr(config, "to_dict"):  # transformers
        config = config.to_dict()
    public = {name: value for name, value in dict(config).items() if not name.startswith("_")}
    digest.update(json.dumps([_class_name(network), public], sort_keys=True, default=str).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        _add_tensor(digest, tensor)


def _add_tensor(digest: Any, tensor: Tensor) -> None:
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
