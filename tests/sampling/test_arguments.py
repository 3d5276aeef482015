"""What counts as a label, and what is refused."""

import numpy as np
import pytest
import torch

from mnist_guided_pipeline.sampling.arguments import resolve_labels

NAMES = {index: str(index) for index in range(11)}  # so that "10" is a name, and not "1" and "0"
ANIMALS = {0: "cat", 1: "dog", 2: "owl"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (3, [3]),
        ("3", [3]),
        ("10", [10]),
        (["10", "1"], [10, 1]),
        ([0, "10", 2], [0, 10, 2]),
        ((4, 4), [4, 4]),
        (range(3), [0, 1, 2]),
        (np.int64(7), [7]),
        ([np.int32(7), 1], [7, 1]),
        (np.array([5, 6]), [5, 6]),
        (np.array(5), [5]),
        (torch.tensor(9), [9]),
        (torch.tensor([9, 0], dtype=torch.uint8), [9, 0]),
    ],
    ids=repr,
)
def test_indices_and_names(given, expected):
    labels = resolve_labels(given, NAMES)
    assert labels.dtype == torch.int64 and labels.tolist() == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.tensor([[1.0, 1.0, 2.0]]), [[0.25, 0.25, 0.5]]),
        (torch.tensor([[0, 1, 0]], dtype=torch.float64), [[0, 1, 0]]),
    ],
    ids=repr,
)
def test_distributions_are_normalised(given, expected):
    weights = resolve_labels(given, ANIMALS)
    assert weights.dtype == torch.float32 and weights.tolist() == expected


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (True, TypeError, "class index"),
        (1.0, TypeError, "got float"),
        (None, TypeError, "got NoneType"),
        ([True], TypeError, "got True of type bool"),
        (np.array([True]), TypeError, "got True of type bool"),
        ([[0, 1]], TypeError, "of type list"),
        (-1, ValueError, "-1 is not a class; the classes are 0 to 2"),
        ([0, 3], ValueError, "3 is not a class"),
        ("bird", ValueError, "'bird' is not a class name; the names are cat, dog, owl"),
        ("catdog", ValueError, "'catdog' is not a class name"),
        ("0", ValueError, "'0' is not a class name"),
        ([], ValueError, "is empty"),
        (torch.tensor([], dtype=torch.int64), ValueError, "is empty"),
        (np.array([1.0]), TypeError, "of type float"),
        (torch.tensor([1.0]), TypeError, r"got torch.float32 of shape \(1,\)"),
        (torch.tensor([True]), TypeError, "got torch.bool"),
        (torch.tensor([[0, 1, 0]]), TypeError, r"got torch.int64 of shape \(1, 3\)"),
        (torch.ones(1, 2), TypeError, r"got torch.float32 of shape \(1, 2\)"),
        (torch.ones(0, 3), TypeError, r"shape \(0, 3\)"),
        (torch.tensor([3]), ValueError, "3 is not a class"),
        ({"cat": 1}, TypeError, "got dict"),
        (torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), ValueError, "not all zero"),
        (torch.tensor([[1.0, -0.1, 0.0]]), ValueError, "not negative"),
        (torch.tensor([[float("nan"), 1.0, 0.0]]), ValueError, "finite"),
        (torch.tensor([[float("inf"), 1.0, 0.0]]), ValueError, "finite"),
    ],
    ids=repr,
)
def test_everything_else_is_refused_by_name(given, error, words):
    with pytest.raises(error, match=f"^negative_class_labels.*{words}"):
        resolve_labels(given, ANIMALS, "negative_class_labels")
