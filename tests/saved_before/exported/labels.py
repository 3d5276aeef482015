"""What a caller means by ``class_labels``: indices, names, lists of them, tensors, or distributions over classes."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

__all__ = ["excluded_classes", "resolve_labels"]


def resolve_labels(class_labels: Any, id2label: Mapping[int, str], argument: str = "class_labels") -> Tensor:
    """Turn labels into a tensor with one row a label.

    Args:
        class_labels: an index; a name of ``id2label``; a mapping from either to its weight, for a label that is one of
            several; a sequence of these; an integer tensor (L,); or a float tensor (L, num_classes) of weights.
        id2label: class index to name.
        argument: the argument's name, for errors.

    Returns:
        int64 (L,) on the CPU, or float32 (L, num_classes) where any label is a distribution.

    Raises:
        TypeError: something that cannot be a label.
        ValueError: an index or name that is none of the classes, an empty list, or weights that are no distribution.
    """
    if isinstance(class_labels, Tensor):
        return _from_tensor(class_labels, id2label, argument)
    if isinstance(class_labels, (str, Mapping)) or _is_index(class_labels):
        class_labels = [class_labels]
    if not isinstance(class_labels, Sequence) and not hasattr(class_labels, "tolist"):
        raise TypeError(
            f"{argument} must be a class index, a class name, a list of either or a 1-D tensor, "
            f"got {type(class_labels).__name__}."
        )
    entries = class_labels.tolist() if hasattr(class_labels, "tolist") else list(class_labels)
    entries = entries if isinstance(entries, list) else [entries]
    if not entries:
        raise ValueError(f"{argument} is empty; give at least one label, or None for unconditional samples.")
    if any(isinstance(entry, Mapping) for entry in entries):
        return torch.stack([_weights(entry, id2label, argument) for entry in entries])
    known: dict[Any, int] = {}  # thousands of labels are few different ones; True, which equals 1, is not looked up
    for entry in entries:
        if type(entry) not in (int, str):
            return torch.tensor([_index(entry, id2label, argument) for entry in entries], dtype=torch.int64)
        if entry not in known:
            known[entry] = _index(entry, id2label, argument)
    return torch.tensor([known[entry] for entry in entries], dtype=torch.int64)


def excluded_classes(labels: Tensor, num_classes: int) -> Tensor:
    """The distribution "any class but this": int64 (L,) to float32 (L, num_classes) of zeros and ones."""
    return 1.0 - torch.nn.functional.one_hot(labels, num_classes).to(torch.float32)


def _is_index(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _index(entry: Any, id2label: Mapping[int, str], argument: str) -> int:
    if isinstance(entry, str):
        for index, name in id2label.items():
            if name == entry:
                return int(index)
        raise ValueError(f"{argument}: {entry!r} is not a class name; the names are {', '.join(id2label.values())}.")
    if not _is_index(entry):
        raise TypeError(f"{argument} must hold class indices or names, got {entry!r} of type {type(entry).__name__}.")
    index = operator.index(entry)
    if (id2label and index not in id2label) or index < 0:
        raise ValueError(f"{argument}: {index} is not a class; the classes are 0 to {len(id2label) - 1}.")
    return index


def _weights(entry: Any, id2label: Mapping[int, str], argument: str) -> Tensor:
    weights = torch.zeros(len(id2label))
    items = entry.items() if isinstance(entry, Mapping) else [(entry, 1.0)]
    for label, weight in items:
        weights[_index(label, id2label, argument)] = float(weight)
    return _checked_weights(weights, argument)


def _checked_weights(weights: Tensor, argument: str) -> Tensor:
    usable = torch.isfinite(weights).all() and (weights >= 0).all() and (weights.sum(dim=-1) > 0).all()
    if not usable:
        raise ValueError(f"{argument}: the weights of classes must be finite, not negative and not all zero.")
    return weights / weights.sum(dim=-1, keepdim=True)


def _from_tensor(labels: Tensor, id2label: Mapping[int, str], argument: str) -> Tensor:
    labels = labels.detach().cpu()
    if labels.is_floating_point() and labels.ndim == 2 and labels.shape[1] == len(id2label) and len(labels):
        return _checked_weights(labels.float(), argument)
    if labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex() or labels.ndim > 1:
        raise TypeError(
            f"{argument} must be an integer tensor of shape (L,), or a float tensor of shape (L, {len(id2label)}) of "
            f"class weights, got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    return resolve_labels(labels.reshape(-1).tolist(), id2label, argument)
