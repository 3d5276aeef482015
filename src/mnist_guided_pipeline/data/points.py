"""Sets of points in the plane: a shape is seen at a glance, and a network for one trains in a minute.

``points:NAME`` takes the place of a Hub id wherever a data set is named:

* ``points:moons`` (2 classes), ``points:mixture`` (8 Gaussians on a circle, a class each), ``points:swiss-roll``;
* ``points:dino`` and the twelve other shapes of the Datasaurus Dozen (``point_sets/LICENSE`` has their source), or
  ``points:datasaurus`` for all of them, a class each;
* ``points:FILE.tsv``, a file with the columns dataset, x and y, each data set a class; ``points:FILE.tsv#NAME`` takes
  one of them.

A file holds few points, such as the dinosaur's 142. Repeated as they are, a perfect denoiser would give back these
points and nothing else, so each stands for a Gaussian of standard deviation ``JITTER`` around it, from which every
epoch draws afresh, as it draws latents from the posteriors of a VAE.

Networks see *normalised* points: mean 0 and variance 1 along each axis, jitter included.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..seeding import fingerprint, keyed_generator
from .images import DatasetError

JITTER = 0.02
"""Standard deviation around a point of a file, in normalised units."""

_PREFIX = "points:"
_DATASAURUS = Path(__file__).parent / "point_sets" / "DatasaurusDozen.tsv"
_COLUMNS = ("dataset", "x", "y")
_FEWEST_POINTS = 10
_SIZES = {"train": 20_000, "test": 4_000}
_COMPASS = ("E", "NE", "N", "NW", "W", "SW", "S", "SE")


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

    Sets that are made have other points in their test split; a file has the same ones, with jitter of their own.

    Args:
        dataset_name: ``points:`` and a name or a file, see above.
        split: ``"train"`` or ``"test"``.
        max_samples: only the first this many rows; all of them if None.

    Raises:
        DatasetError: the name, the split, the file or one of its rows is not what it must be, or scikit-learn, which
            makes moons and swiss rolls, is missing.
    """
    if max_samples is not None and max_samples < 1:
        raise DatasetError(f"max_samples must be at least 1 (or None for all rows), got {max_samples}.")
    if split not in _SIZES:
        raise DatasetError(f"split {split!r} is unknown; a set of points has train and test.")
    check_point_set(dataset_name)
    name = dataset_name.removeprefix(_PREFIX)
    if name in _MADE:
        jitter, names = 0.0, _MADE[name].class_names
        training, classes = _MADE[name].make(_SIZES["train"], 0)
        points, labels = (training, classes) if split == "train" else _MADE[name].make(_SIZES["test"], 1)
    else:
        jitter = JITTER
        training, classes, names = _read_file(dataset_name, *_file_and_set(name))
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
    name = dataset_name.removeprefix(_PREFIX)
    if name in _MADE:
        return
    file, wanted = _file_and_set(name)
    if file != _DATASAURUS and not file.is_file():
        raise DatasetError(f"dataset_name {dataset_name!r}: there is no file {str(file)!r}.")
    names = _names(dataset_name, file)
    if wanted is not None and wanted not in names:
        built_in = ", ".join([*_MADE, "datasaurus"]) + ", " if file == _DATASAURUS else ""
        raise DatasetError(
            f"dataset_name {dataset_name!r}: there is no set {wanted!r}; there are {built_in}{', '.join(names)}"
            + (", or FILE.tsv for a file with the columns dataset, x and y." if built_in else ".")
        )


def _file_and_set(name: str) -> tuple[Path, str | None]:
    """The file of a name, and which of its data sets is wanted; None for all of them."""
    if name == "datasaurus":
        return _DATASAURUS, None
    file, _, wanted = name.partition("#")
    if file.endswith((".tsv", ".txt")) or "/" in file:
        return Path(file).expanduser(), wanted or None
    return _DATASAURUS, name


def _rows(dataset_name: str, file: Path) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream, delimiter="\t")
        found = reader.fieldnames or []
        if not set(_COLUMNS) <= set(found):
            raise DatasetError(
                f"dataset_name {dataset_name!r}: the file must have the columns {', '.join(_COLUMNS)}, separated by "
                f"tabs; its first line has {', '.join(found) or 'nothing'}."
            )
        return list(reader)


def _names(dataset_name: str, file: Path) -> tuple[str, ...]:
    return tuple(dict.fromkeys(row["dataset"] for row in _rows(dataset_name, file)))


def _read_file(dataset_name: str, file: Path, wanted: str | None) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Points (N, 2) in data units, classes (N,) and the name of each class, in the order of the file."""
    points, sets = [], []
    for line, row in enumerate(_rows(dataset_name, file), start=2):
        if wanted is not None and row["dataset"] != wanted:
            continue
        try:
            point = [float(row["x"]), float(row["y"])]
        except (TypeError, ValueError):
            point = [math.nan, math.nan]
        if not all(map(math.isfinite, point)):
            raise DatasetError(
                f"dataset_name {dataset_name!r}: line {line} has x {row['x']!r} and y {row['y']!r}; both must be "
                "finite numbers."
            )
        points.append(point)
        sets.append(row["dataset"])
    names = tuple(dict.fromkeys(sets))
    table = np.array(points).reshape(-1, 2)
    if len(table) < _FEWEST_POINTS or (table.std(axis=0) == 0).any():
        raise DatasetError(
            f"dataset_name {dataset_name!r}: there must be at least {_FEWEST_POINTS} points that differ in x and in y, "
            f"got {len(table)}."
        )
    return table, np.array([names.index(name) for name in sets]), names


def _from_sklearn(name: str) -> Any:
    """``make_NAME`` of scikit-learn."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise DatasetError(
            f"make_{name} is in scikit-learn, which is not installed: pip install 'mnist-guided-pipeline[evaluation]'."
        ) from error
    return getattr(datasets, f"make_{name}")


def _moons(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return _from_sklearn("moons")(count, noise=0.06, random_state=seed)


def _swiss_roll(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The roll seen from its side."""
    return _from_sklearn("swiss_roll")(count, noise=0.3, random_state=seed)[0][:, [0, 2]], np.zeros(count)


def _mixture(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Gaussians of standard deviation 0.1, evenly on the unit circle."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(len(_COMPASS), size=count)
    angles = labels * (2 * np.pi / len(_COMPASS))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) + 0.1 * rng.normal(size=(count, 2)), labels


class _Made(NamedTuple):
    """A set that is made: ``make(count, seed)`` gives points (count, 2) in data units and classes (count,)."""

    make: Callable[[int, int], tuple[np.ndarray, np.ndarray]]
    class_names: tuple[str, ...]


_MADE = {
    "moons": _Made(_moons, ("upper", "lower")),
    "mixture": _Made(_mixture, _COMPASS),
    "swiss-roll": _Made(_swiss_roll, ("swiss-roll",)),
}
