"""Bounds on what a config may say, checked before anything is allocated.

A config is text that anyone may have written: a width of a billion asks for gigabytes before a shape is compared, and
a deviation of NaN gives pictures without an error. The bounds are far above every sensible network for 28x28 images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["MAX_INTEGER", "check_config_values"]

MAX_INTEGER = 65_536
_MAX_TIMESTEPS = 100_000
_MAX_LAYERS = 256
_MAX_SAMPLE = 1_048_576
_MAX_LENGTH = 100_000
_MAX_TEXT = 10_000
_NOT_FINITE = ("lambda_min_clipped",)  # schedulers write -Infinity here


def check_config_values(values: Mapping[str, Any]) -> None:
    """Refuse numbers that are not finite or far too large; names that begin with ``_`` are bookkeeping.

    Raises:
        ValueError: naming the setting, its value and the bound.
    """
    for name, value in values.items():
        if not str(name).startswith("_"):
            _check_value(str(name), value, 0)
    shape = values.get("sample_shape")
    if shape is not None:
        if not _is_shape(shape):
            raise ValueError(f"sample_shape must be a list of positive integers, got {shape!r}.")
        if math.prod(shape) > _MAX_SAMPLE:
            raise ValueError(
                f"sample_shape {shape!r} has {math.prod(shape):,} numbers; at most {_MAX_SAMPLE:,} will do."
            )
    deviations = values.get("latents_std")
    if deviations is not None and not (_is_numbers(deviations) and all(value > 0 for value in deviations)):
        raise ValueError(f"latents_std must be a list of positive numbers, got {deviations!r}.")
    if values.get("latents_mean") is not None and not _is_numbers(values["latents_mean"]):
        raise ValueError(f"latents_mean must be a list of numbers, got {values['latents_mean']!r}.")


def _check_value(name: str, value: Any, depth: int) -> None:
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, (int, float)):
        _check_number(name, value)
    elif isinstance(value, str):
        if len(value) > _MAX_TEXT:
            raise ValueError(f"{name} is a text of {len(value):,} characters; at most {_MAX_TEXT:,} will do.")
    elif depth > 4:
        raise ValueError(f"{name} is nested too deeply.")
    else:
        entries = value.items() if isinstance(value, Mapping) else [(name, entry) for entry in value]
        if len(value) > _MAX_LENGTH:
            raise ValueError(f"{name} has {len(value):,} entries; at most {_MAX_LENGTH:,} will do.")
        for key, entry in entries:
            _check_value(str(key), entry, depth + 1)


def _check_number(name: str, value: float) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        if name not in _NOT_FINITE or math.isnan(value):
            raise ValueError(f"{name} is {value}; it must be finite.")
    elif isinstance(value, int) and not -MAX_INTEGER <= value <= _bound(name):
        raise ValueError(f"{name} is {value:,}; at most {_bound(name):,} will do.")


def _bound(name: str) -> int:
    if "timesteps" in name or "steps" in name:
        return _MAX_TIMESTEPS
    return _MAX_LAYERS if any(word in name for word in ("layers", "blocks", "depth")) else MAX_INTEGER


def _is_shape(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and 0 < len(value) <= 4
        and all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in value)
    )


def _is_numbers(value: Any) -> bool:
    numeric = isinstance(value, (list, tuple)) and all(
        isinstance(entry, (int, float)) and not isinstance(entry, bool) for entry in value
    )
    return numeric and len(value) > 0
