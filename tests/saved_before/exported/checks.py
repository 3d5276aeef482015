"""Checks of sampling arguments: each names the argument, what it was, and what would do."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["check_choice", "check_count", "check_interval", "check_number", "parse_scales"]


def check_count(name: str, value: Any) -> None:
    """An integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")


def check_number(name: str, value: Any, low: float, high: float = math.inf, meaning: str = "") -> None:
    """A finite number in [low, high]."""
    usable = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not usable or not (low <= value <= high) or (math.isinf(value) and not math.isinf(high)) or math.isnan(value):
        bounds = f"at least {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"
        raise ValueError(f"{name} must be a number {bounds}{meaning}, got {value!r}.")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """One of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def check_interval(name: str, value: Any) -> None:
    """A pair (low, high) with 0 <= low < high."""
    try:
        low, high = value
        fits = 0 <= low < high
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            f"{name} must be (low, high) with 0 <= low < high, in units of sigma / alpha, got {value!r}; "
            "(0, float('inf')) is every level."
        )


def parse_scales(name: str, value: Any, num_labels: int) -> Tensor:
    """A finite number of at least 0, or one a label; a float32 tensor () or (num_labels,) on the CPU."""
    try:
        scales = torch.as_tensor(value, dtype=torch.float32).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a number or a list of numbers, got {value!r}.") from error
    if scales.ndim and scales.shape != (num_labels,):
        raise ValueError(
            f"{name} has shape {tuple(scales.shape)} for {num_labels} labels; give one number, or one a label."
        )
    if not (torch.isfinite(scales).all() and (scales >= 0).all()):
        raise ValueError(f"{name} must be finite and at least 0 (0 is off), got {value!r}.")
    return scales
