"""The only reader of images: a Hub id or a folder of the same layout becomes uint8 tensors, once.

``datasets.load_dataset`` treats a Hub id (``ylecun/mnist``) and a local folder that holds the same parquet
files alike, so both go through one call. ``Dataset.map`` keeps what is decoded in its cache, so that later runs read
60,000 images back in a moment.

Everything that is not a 28x28 grey image with a named class is refused with an error that names the
first offender; ``datasets`` itself accepts such rows without a word.

Ranges used in this package:

* ``uint8`` (B, 28, 28) in memory,
* *unit range* [0, 1] (B, 1, 28, 28) for losses and pictures,
* *model range* [-1, 1] (B, 1, 28, 28), the input of every VAE and of pixel-space denoisers: standard
  Gaussian noise is symmetric around zero, so the data must be too.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image as PILImage
from torch import Tensor

__all__ = [
    "DEFAULT_DATASET",
    "IMAGE_SIZE",
    "DatasetError",
    "LabelledImages",
    "load_images",
    "to_model_range",
    "to_uint8",
    "to_unit_range",
]

DEFAULT_DATASET = "ylecun/mnist"
IMAGE_SIZE = 28


class DatasetError(ValueError):
    """A data set that is missing, or that is not 28x28 grey images with class names."""


@dataclass(frozen=True)
class LabelledImages:
    """One split of a data set, decoded.

    Attributes:
        images: uint8 (N, 28, 28), 0 is background.
        labels: int64 (N,), in ``[0, len(class_names))``.
        class_names: the name of each class, in label order.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return self.labels.shape[0]

    @property
    def id2label(self) -> dict[int, str]:
        """Class index to class name, as pipelines and transformers configs store it."""
        return dict(enumerate(self.class_names))


def load_images(
    dataset_name: str | os.PathLike[str] = DEFAULT_DATASET,
    split: str = "train",
    *,
    dataset_config_name: str | None = None,
    image_column: str = "image",
    label_column: str = "label",
    max_samples: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> LabelledImages:
    """Read one split of a 28x28 grey image data set.

    Args:
        dataset_name: a Hub id such as ``"ylecun/mnist"``, or a folder of the same layout.
        split: ``"train"``, ``"test"`` or another split of the data set.
        dataset_config_name: the configuration, where the data set has several.
        image_column: the column that holds the images.
        label_column: the column that holds the class, a ``ClassLabel`` feature.
        max_samples: read only the first this many rows; all of them if None.
        cache_dir: where ``datasets`` keeps its files; the library's default if None.

    Returns:
        The decoded split.

    Raises:
        DatasetError: the data set, the split or a column is missing, or a row is not a 28x28 grey image
            with a known class. The message says what was found and what would do.
    """
    if max_samples is not None and max_samples < 1:
        raise DatasetError(f"max_samples must be at least 1 (or None for all rows), got {max_samples}.")
    table = _open_split(os.fspath(dataset_name), split, dataset_config_name, cache_dir)
    class_names = _class_names(table, image_column, label_column)
    if max_samples is not None and max_samples < len(table):
        table = table.select(range(max_samples))
    labels = _labels(table, label_column, len(class_names))
    return LabelledImages(_decoded(table, image_column), labels, class_names)


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 (B, 28, 28) or (B, 1, 28, 28) to float32 (B, 1, 28, 28) in [0, 1]."""
    return images.reshape(-1, 1, *images.shape[-2:]).to(torch.float32) / 255.0


def to_model_range(images: Tensor) -> Tensor:
    """uint8 (B, 28, 28) or (B, 1, 28, 28) to float32 (B, 1, 28, 28) in [-1, 1]."""
    return to_unit_range(images) * 2.0 - 1.0


def to_uint8(model_range: Tensor) -> Tensor:
    """Model range [-1, 1] (B, 1, 28, 28) to uint8 (B, 28, 28), rounded; values outside are clamped."""
    unit = (model_range.float() * 0.5 + 0.5).clamp(0.0, 1.0)
    return (unit * 255.0).round().to(torch.uint8).squeeze(1)


def _open_split(name: str, split: str, config: str | None, cache_dir: Any) -> Any:
    """Open the split with ``datasets``; translate its errors into one that says what would do."""
    from datasets import get_dataset_split_names, load_dataset

    is_folder = os.path.isdir(name)
    try:
        return load_dataset(name, config, split=split, cache_dir=cache_dir)
    except Exception as error:
        if isinstance(error, ValueError) and "Unknown split" in str(error):
            reason = f"it has no split {split!r}; it has {', '.join(get_dataset_split_names(name, config))}."
        elif isinstance(error, ValueError) and "corresponds to no data" in str(error):
            reason = "the split is empty."
        elif is_folder:
            reason = "the folder must hold parquet files named train-*.parquet and test-*.parquet, as on the Hub."
        else:
            reason = (
                "it is neither a folder nor a data set that the Hub (or, without a network, the local cache) has. "
                "Give a Hub id such as 'ylecun/mnist', or a folder with the same parquet files; "
                "set HF_HUB_OFFLINE=1 to use the cache at once when there is no network."
            )
        raise DatasetError(
            f"Cannot read split {split!r} of dataset_name {name!r}: {reason} ({type(error).__name__}: {error})"
        ) from error


def _class_names(table: Any, image_column: str, label_column: str) -> tuple[str, ...]:
    """Check both columns and return the class names."""
    from datasets import ClassLabel, Image

    columns = ", ".join(table.column_names)
    for argument, column in (("image_column", image_column), ("label_column", label_column)):
        if column not in table.column_names:
            raise DatasetError(f"{argument} {column!r} is not a column of the data set; its columns are {columns}.")
    if not isinstance(table.features[image_column], Image):
        raise DatasetError(
            f"image_column {image_column!r} must be an Image feature, it is {table.features[image_column]}."
        )
    label = table.features[label_column]
    if not isinstance(label, ClassLabel):
        raise DatasetError(
            f"label_column {label_column!r} must be a ClassLabel feature (it names the classes), it is {label}."
        )
    return tuple(label.names)


def _labels(table: Any, column: str, num_classes: int) -> Tensor:
    labels = table[column][:]
    for row, label in enumerate(labels):
        if label is None or not 0 <= label < num_classes:
            raise DatasetError(
                f"Row {row}: column {column!r} is {label}; it must be a class index from 0 to {num_classes - 1}."
            )
    return torch.tensor(labels, dtype=torch.int64)


def _decoded(table: Any, column: str) -> Tensor:
    from datasets import Features, Image, Value

    pixels = (
        table.select_columns(column)
        .cast_column(column, Image(decode=False))
        .map(
            _decode_rows,
            batched=True,
            with_indices=True,
            fn_kwargs={"column": column},
            remove_columns=column,
            features=Features({"pixels": Value("binary")}),
            desc="decoding images",
        )
    )
    return torch.frombuffer(bytearray(b"".join(pixels["pixels"])), dtype=torch.uint8).reshape(
        -1, IMAGE_SIZE, IMAGE_SIZE
    )


def _decode_rows(cells: dict[str, list[Any]], rows: list[int], column: str) -> dict[str, list[bytes]]:
    return {"pixels": [_decode_image(cell, row, column) for cell, row in zip(cells[column], rows, strict=True)]}


def _decode_image(cell: dict[str, Any] | None, row: int, column: str) -> bytes:
    """One image cell to its 28x28 bytes.

    Pillow decodes, because torchvision's decoder crashes the process on some damaged files. ``verify`` compares the
    checksums, so a flipped bit is found too.
    """
    if cell is None or (cell.get("bytes") is None and cell.get("path") is None):
        raise DatasetError(f"Row {row}: column {column!r} holds no image.")
    try:
        encoded = cell["bytes"] if cell.get("bytes") is not None else Path(cell["path"]).read_bytes()
        PILImage.open(BytesIO(encoded)).verify()
        image = PILImage.open(BytesIO(encoded))  # a verified image has to be opened again
        if image.mode == "L" and image.size == (IMAGE_SIZE, IMAGE_SIZE):
            return image.tobytes()
    except (OSError, ValueError, SyntaxError, PILImage.DecompressionBombError) as error:
        raise DatasetError(f"Row {row}: column {column!r} is not a readable image ({error}).") from error
    if image.mode != "L":
        raise DatasetError(
            f"Row {row}: column {column!r} has mode {image.mode!r}; this package works on grey images. "
            "Convert the data set to mode 'L' first."
        )
    raise DatasetError(
        f"Row {row}: column {column!r} is {image.height}x{image.width}; images must be {IMAGE_SIZE}x{IMAGE_SIZE}. "
        "Resize the data set first."
    )
