"""Sets of points in the plane: a shape is seen at a glance, and a network for one trains in a minute.

``points:NAME`` takes the place of a Hub id wherever a data set is named:

* ``points:moons`` (2 classes), ``points:mixture`` (8 Gaussians on a circle, a class each), ``points:swiss-roll``;
* ``points:dino`` and the twelve other shapes of the Datasaurus Dozen (``point_sets/LICENSE`` has their source), or
  ``points:datasaurus`` for all of them, a class each.

A shape has 142 points. Repeated as they are, a perfect denoiser would give back these points and nothing else, so each
stands for a Gaussian of standard deviation ``JITTER`` around it, from which every epoch draws afresh, as it draws
latents from the posteriors of a VAE.

Networks see *normalised* points: mean 0 and variance 1 along each axis, jitter included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..seeding import fingerprint, keyed_generator
from .images import DatasetError

JITTER = 0.02
"""Standard deviation around a point of a shape, in normalised units."""

_PREFIX = "points:"
_DATASAURUS = Path(__file__).parent / "point_sets" / "DatasaurusDozen.tsv"
_SIZES = {"train": 20_000, "test": 4_000}
_COMPASS = ("E", "NE", "N", "NW", "W", "SW", "S", "SE")
_MADE = {"moons": ("upper", "lower"), "mixture": _COMPASS, "swiss-roll": ("swiss-roll",)}  # with the names of classes


@dataclass(frozen=True)
class PointSet:
    """One split of a set of points, normalised.

    Attributes:
        points: float32 (N, 2); with ``jitter``, the centres of Gaussians.
        labels: int64 (N,), in ``[0, len(class_names))``.
        class_names: the name of each class, in label order.
        jitter: standard deviation of the Gaussian around each point; 0 for none.
        mean: (2,), the mean of the training split in data units.
        std: (2,), its standard deviation in data units.
    """

    points: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    jitter: float
    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return self.labels.shape[0]

    @property
    def fingerprint(self) -> str:
        """A hash of points and labels."""
        return fingerprint(self.points, self.labels)

    def to_data_units(self, points: Tensor) -> Tensor:
        """Normalised points (..., 2), such as what a pipeline draws, in the units of the data."""
        return points * self.std.to(points) + self.mean.to(points)

    def draw(self, label: int, count: int, seed: int) -> Tensor:
        """Fresh real points of a class (count, 2), normalised."""
        generator = keyed_generator(seed, "points", label)
        rows = torch.nonzero(self.labels == label).flatten()
        chosen = rows[torch.randint(len(rows), (count,), generator=generator)]
        return self.points[chosen] + self.jitter * torch.randn(count, 2, generator=generator)

    def nearest_class(self, points: Tensor) -> Tensor:
        """The class (B,) of the real point that is nearest to each normalised point (B, 2)."""
        nearest = [torch.cdist(part, self.points).argmin(dim=1) for part in points.split(500)]
        return self.labels[torch.cat(nearest)]


def is_point_set(dataset_name: str) -> bool:
    """Whether a data set's name is one of points in the plane rather than images."""
    return dataset_name.startswith(_PREFIX)


def load_points(dataset_name: str, split: str = "train", *, max_samples: int | None = None) -> PointSet:
    """Read or make one split of a set of points.

    Sets that are made have other points in their test split; a shape has the same ones, with jitter of their own.

    Args:
        dataset_name: ``points:`` and a name, see above.
        split: ``"train"`` or ``"test"``.
        max_samples: only the first this many rows; all of them if None.

    Raises:
        DatasetError: there is no such name or split, or scikit-learn, which makes moons and swiss rolls, is missing.
    """
    if max_samples is not None and max_samples < 1:
        raise DatasetError(f"max_samples must be at least 1 (or None for all rows), got {max_samples}.")
    if split not in _SIZES:
        raise DatasetError(f"split {split!r} is unknown; a set of points has train and test.")
    check_point_set(dataset_name)
    name, jitter = dataset_name.removeprefix(_PREFIX), 0.0
    if name in _MADE:
        names = _MADE[name]
        training, classes = _made(name, _SIZES["train"], 0)
        points, labels = (training, classes) if split == "train" else _made(name, _SIZES["test"], 1)
    else:
        shapes = {shape: table for shape, table in _shapes().items() if name in (shape, "datasaurus")}
        names, jitter = tuple(shapes), JITTER
        training = np.concatenate(list(shapes.values()))
        classes = np.repeat(np.arange(len(shapes)), [len(table) for table in shapes.values()])
        order = torch.randperm(len(training), generator=keyed_generator("order")).numpy()
        rows = np.resize(order, len(order) * math.ceil(_SIZES[split] / len(order)))  # each point as often
        points, labels = training[rows], classes[rows]
    mean, std = training.mean(axis=0), training.std(axis=0) / math.sqrt(1 - jitter**2)
    return PointSet(
        points=torch.from_numpy(((points - mean) / std).astype(np.float32))[:max_samples],
        labels=torch.from_numpy(labels.astype(np.int64))[:max_samples],
        class_names=names,
        jitter=jitter,
        mean=torch.from_numpy(mean),
        std=torch.from_numpy(std),
    )


def check_point_set(dataset_name: str) -> None:
    """Refuse a name that no set of points has, by a DatasetError that says what there is."""
    name, known = dataset_name.removeprefix(_PREFIX), [*_MADE, "datasaurus", *_shapes()]
    if name not in known:
        raise DatasetError(f"dataset_name {dataset_name!r}: there is no set {name!r}; there are {', '.join(known)}.")


def _shapes() -> dict[str, np.ndarray]:
    """The points (142, 2) of each shape, in data units, in the order of the file."""
    table = np.loadtxt(_DATASAURUS, dtype=str, delimiter="\t", skiprows=1)
    return {name: table[table[:, 0] == name, 1:].astype(float) for name in dict.fromkeys(table[:, 0].tolist())}


def _made(name: str, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (count, 2) in data units and classes (count,) of a set that is made."""
    if name == "mixture":  # Gaussians of standard deviation 0.1, evenly on the unit circle
        rng = np.random.default_rng(seed)
        labels = rng.integers(len(_COMPASS), size=count)
        angles = labels * (2 * np.pi / len(_COMPASS))
        return np.stack([np.cos(angles), np.sin(angles)], axis=1) + 0.1 * rng.normal(size=(count, 2)), labels
    try:
        from sklearn.datasets import make_moons, make_swiss_roll
    except ImportError as error:
        raise DatasetError(
            f"points:{name} needs scikit-learn, which is missing: pip install 'mnist-guided-pipeline[evaluation]'."
        ) from error
    if name == "moons":
        return make_moons(count, noise=0.06, random_state=seed)
    return make_swiss_roll(count, noise=0.3, random_state=seed)[0][:, [0, 2]], np.zeros(count)  # from its side
