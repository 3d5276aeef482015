"""What a caller means by an argument: labels, scales, counts and numbers.

Each error names the argument, what it was, and what would do; it is raised before any work.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_LARGEST = torch.finfo(torch.float32).max


def check_count(name: str, value: Any) -> int:
    """An integer of at least 1, of Python, NumPy or torch."""
    if not _is_index(value) or operator.index(value) < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")
    return operator.index(value)


def check_number(name: str, value: Any, low: float, high: float = _LARGEST, meaning: str = "") -> float:
    """A number in [low, high] that float32 can hold, of Python, NumPy or torch."""
    number = _number(value)
    if number is None or not low <= number <= high:
        bounds = f"at least {low:g}" if high == _LARGEST else f"from {low:g} to {high:g}"
        raise ValueError(f"{name} must be a number {bounds}{meaning}, and finite, got {value!r}.")
    return number


def check_falling(name: str, values: Any, low: float, high: float) -> list[float]:
    """Numbers in [low, high], each smaller than the one before it: the way from noise to a sample."""
    numbers = _numbers(values)
    if numbers is None:
        raise TypeError(f"{name} must be a list of numbers, got {values!r}.")
    fits = all(low <= number <= high for number in numbers) and numbers
    if not fits or any(later >= earlier for earlier, later in zip(numbers, numbers[1:], strict=False)):
        raise ValueError(
            f"{name} must fall from noise to sample, each number from {low:g} to {high:g} and none twice, "
            f"got {values!r}."
        )
    return numbers


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """One of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def check_interval(name: str, value: Any) -> tuple[float, float]:
    """A pair (low, high) with 0 <= low < high."""
    numbers = _numbers(value)
    if numbers is None or len(numbers) != 2 or not 0 <= numbers[0] < numbers[1]:
        raise ValueError(
            f"{name} must be (low, high) with 0 <= low < high, in units of sigma / alpha, got {value!r}; "
            "(0, float('inf')) is every level."
        )
    return numbers[0], numbers[1]


def check_class_names(id2label: Mapping[int, str]) -> None:
    """Names of the classes 0, 1, ..., none left out and none twice."""
    if sorted(id2label) != list(range(len(id2label))) or len(set(id2label.values())) != len(id2label):
        raise ValueError(f"id2label must name the classes 0, 1, ... without a gap, each its own way, got {id2label!r}.")


def parse_scales(name: str, value: Any, num_labels: int) -> Tensor:
    """A finite number of at least 0, or one per label; a float32 tensor () or (num_labels,) on the CPU."""
    one = _number(value)
    numbers = _numbers(value) if one is None else [one]
    if numbers is None:
        raise TypeError(f"{name} must be a number or a list of numbers, got {value!r}.")
    if one is None and len(numbers) != num_labels:
        raise ValueError(
            f"{name} has shape ({len(numbers)},) for {num_labels} labels; give one number, or one per label."
        )
    if not all(0 <= number <= _LARGEST for number in numbers):
        raise ValueError(f"{name} must be finite and at least 0 (0 is off), got {value!r}.")
    return torch.tensor(numbers if one is None else one, dtype=torch.float32)


def resolve_labels(class_labels: Any, id2label: Mapping[int, str], argument: str = "class_labels") -> Tensor:
    """Turn labels into a tensor with one row per label.

    Args:
        class_labels: an index; a name of ``id2label``; a sequence of either; an integer tensor (L,); or a float tensor
            (L, num_classes) of weights, for labels that are one of several.
        id2label: class index to name.
        argument: the argument's name, for errors.

    Returns:
        int64 (L,) on the CPU, or float32 (L, num_classes) where labels are distributions.

    Raises:
        TypeError: something that cannot be a label.
        ValueError: an index or name that is none of the classes, an empty list, or weights that are no distribution.
    """
    if isinstance(class_labels, Tensor) and class_labels.ndim:
        labels = class_labels.detach().cpu()
        if labels.is_floating_point() and labels.ndim == 2 and labels.shape[1] == len(id2label) and len(labels):
            return _normalised(labels.float(), argument)
        if labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex() or labels.ndim > 1:
            raise TypeError(
                f"{argument} must be an integer tensor of shape (L,), or a float tensor of shape (L, {len(id2label)}) "
                f"of class weights, got {labels.dtype} of shape {tuple(labels.shape)}."
            )
        class_labels = labels.tolist()
    elif hasattr(class_labels, "tolist"):  # an array, or a scalar of NumPy or torch
        class_labels = class_labels.tolist()
    if isinstance(class_labels, str) or _is_index(class_labels):
        class_labels = [class_labels]
    if not isinstance(class_labels, Sequence):
        raise TypeError(
            f"{argument} must be a class index, a class name, a list of either or a 1-D tensor, "
            f"got {type(class_labels).__name__}."
        )
    if not class_labels:
        raise ValueError(f"{argument} is empty; give at least one label, or None for unconditional samples.")
    return torch.tensor([_index(label, id2label, argument) for label in class_labels], dtype=torch.int64)


def excluded_classes(labels: Tensor, num_classes: int) -> Tensor:
    """The distribution "any class but this": int64 (L,) to float32 (L, num_classes) of zeros and ones."""
    return 1.0 - torch.nn.functional.one_hot(labels, num_classes).to(torch.float32)


def _is_scalar(value: Any) -> bool:
    """No truth value, no text and no array of more than 0 dimensions, each of which Python may take for a number."""
    dtype, ndim = str(getattr(value, "dtype", "")), getattr(value, "ndim", 0)
    return not (isinstance(value, (bool, str, bytes)) or "bool" in dtype or ndim)


def _number(value: Any) -> float | None:
    """A number of Python, NumPy or torch; None for everything else."""
    try:
        return float(value) if _is_scalar(value) else None
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None


def _numbers(values: Any) -> list[float] | None:
    """A list, a range or an array of numbers; None for everything else."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, (list, tuple, range)):
        return None
    numbers = [number for number in map(_number, values) if number is not None]
    return numbers if len(numbers) == len(values) else None


def _is_index(value: Any) -> bool:
    """What ``operator.index`` takes, but no truth value."""
    if not _is_scalar(value):
        return False
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def _index(label: Any, id2label: Mapping[int, str], argument: str) -> int:
    if isinstance(label, str):
        for index, name in id2label.items():
            if name == label:
                return int(index)
        raise ValueError(f"{argument}: {label!r} is not a class name; the names are {', '.join(id2label.values())}.")
    if not _is_index(label):
        raise TypeError(f"{argument} must hold class indices or names, got {label!r} of type {type(label).__name__}.")
    index = operator.index(label)
    if (id2label and index not in id2label) or index < 0:
        raise ValueError(f"{argument}: {index} is not a class; the classes are 0 to {len(id2label) - 1}.")
    return index


def _normalised(weights: Tensor, argument: str) -> Tensor:
    usable = torch.isfinite(weights).all() and (weights >= 0).all() and (weights.sum(dim=-1) > 0).all()
    if not usable:
        raise ValueError(f"{argument}: the weights of classes must be finite, not negative and not all zero.")
    return weights / weights.sum(dim=-1, keepdim=True)
