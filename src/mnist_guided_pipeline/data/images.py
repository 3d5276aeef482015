"""The only reader of images: a Hub id or a folder of the same layout becomes uint8 tensors, once.

``datasets.load_dataset`` treats a Hub id (``ylecun/mnist``) and a local folder that holds the same parquet
files alike, so both go through one call. ``Dataset.map`` keeps what is decoded in its cache, so that later runs read
60,000 images back in a moment.

A data set of images that are all grey becomes one channel, any other three. Images of other modes (1 bit, palette, 16
bits, with transparency) are converted, which is logged once. What is no small image with a named class, or is of
another size than the first, is refused with an error that names the first offender; ``datasets`` accepts such rows.

Ranges used in this package:

* ``uint8`` (B, H, W) for grey images or (B, 3, H, W) for colour in memory,
* *unit range* [0, 1] (B, C, H, W) for losses and pictures,
* *model range* [-1, 1] (B, C, H, W), the input of every VAE and of pixel-space denoisers: standard
  Gaussian noise is symmetric around zero, so the data must be too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.utils import logging as hub_logging
from PIL import Image as PILImage
from torch import Tensor

from ..seeding import fingerprint
from . import DEFAULT_DATASET

IMAGE_SIZE = 28
"""Height and width of MNIST's images, which what is shipped makes and reads."""
SMALLEST, LARGEST = 8, 64
"""Bounds of the height and the width of images."""

logger = logging.getLogger(__name__)


class DatasetError(ValueError):
    """A data set that is missing, or that is not small images with class names."""


@dataclass(frozen=True)
class LabelledImages:
    """One split of a data set, decoded.

    Attributes:
        images: uint8 (N, H, W) or, in colour, (N, 3, H, W); 0 is background.
        labels: int64 (N,), in ``[0, len(class_names))``.
        class_names: the name of each class, in label order.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return self.labels.shape[0]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of one image as networks see it, (C, H, W)."""
        channels = 3 if self.images.ndim == 4 else 1
        return (channels, self.images.shape[-2], self.images.shape[-1])

    @property
    def fingerprint(self) -> str:
        """A hash of images and labels."""
        return fingerprint(self.images, self.labels)

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
    resolution: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> LabelledImages:
    """Read one split of a data set of small images.

    Args:
        dataset_name: a Hub id such as ``"ylecun/mnist"``, or a folder of the same layout.
        split: ``"train"``, ``"test"`` or another split of the data set.
        dataset_config_name: the configuration, where the data set has several.
        image_column: the column that holds the images.
        label_column: the column that holds the class, a ``ClassLabel`` feature; integers or strings become classes, in
            ascending order of the values of all splits, which is logged.
        max_samples: read only the first this many rows; all of them if None.
        resolution: resize every image to this height and width, from 8 to 64; None leaves them as they are.
        cache_dir: where ``datasets`` keeps its files; the library's default if None.

    Returns:
        The decoded split.

    Raises:
        DatasetError: the data set, the split or a column is missing, or a row is not a small
            image with a known class, of the size of the first. The message says what was found and what would do.
    """
    from datasets import ClassLabel, Value

    if max_samples is not None and max_samples < 1:
        raise DatasetError(f"max_samples must be at least 1 (or None for all rows), got {max_samples}.")
    if resolution is not None and not SMALLEST <= resolution <= LARGEST:
        raise DatasetError(
            f"resolution must be from {SMALLEST} to {LARGEST} (or None for no resizing), got {resolution}."
        )
    table = _open_split(os.fspath(dataset_name), split, dataset_config_name, cache_dir)
    _check_columns(table, image_column, label_column)
    if not isinstance(table.features[label_column], ClassLabel):
        values = _label_values(os.fspath(dataset_name), dataset_config_name, label_column, cache_dir)
        table = table.cast_column(label_column, Value("string")).cast_column(label_column, ClassLabel(names=values))
        logger.warning("The values of column %r became classes: %s.", label_column, ", ".join(values))
    class_names = tuple(table.features[label_column].names)
    if max_samples is not None and max_samples < len(table):
        table = table.select(range(max_samples))
    labels = _labels(table, label_column, len(class_names))
    return LabelledImages(_decoded(table, image_column, resolution), labels, class_names)


def load_image_splits(
    dataset_name: str | os.PathLike[str],
    max_train_samples: int | None = None,
    max_test_samples: int | None = None,
    **options: Any,
) -> tuple[LabelledImages, LabelledImages]:
    """The training and the test split, where there is one (:func:`load_test_images`); ``options`` of ``load_images``.

    Splits of different size or colour are a DatasetError, as is what ``load_images`` refuses.
    """
    test, rest = load_test_images(dataset_name, max_samples=max_test_samples, **options)
    train = load_images(dataset_name, rest, max_samples=max_train_samples, **options)
    if train.image_shape != test.image_shape:
        raise DatasetError(
            f"Images of the training split have the shape {train.image_shape}, of the test split {test.image_shape}; "
            "they must be of one size and all grey or all in colour. Give a resolution for one size."
        )
    return train, test


def load_test_images(dataset_name: str | os.PathLike[str], **options: Any) -> tuple[LabelledImages, str]:
    """The test split, and the name of what is trained on; ``options`` of ``load_images``.

    Of a data set without a test split the last tenth of the training split is held out, which is logged.
    """
    try:
        return load_images(dataset_name, "test", **options), "train"
    except DatasetError as error:
        if "has no split 'test'" not in str(error):
            raise
        logger.warning("There is no test split: the last tenth of the training split is held out.")
        return load_images(dataset_name, "train[90%:]", **options), "train[:90%]"


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 (B, H, W) or (B, C, H, W) to float32 (B, C, H, W) in [0, 1]."""
    return (images if images.ndim == 4 else images.unsqueeze(1)).to(torch.float32) / 255.0


def to_model_range(images: Tensor) -> Tensor:
    """uint8 (B, H, W) or (B, C, H, W) to float32 (B, C, H, W) in [-1, 1]."""
    return to_unit_range(images) * 2.0 - 1.0


def to_uint8(model_range: Tensor) -> Tensor:
    """Model range [-1, 1] (B, C, H, W) to uint8 (B, H, W) or, in colour, (B, 3, H, W), rounded and clamped."""
    unit = (model_range.float() * 0.5 + 0.5).clamp(0.0, 1.0)
    return (unit * 255.0).round().to(torch.uint8).squeeze(1)


def _open_split(name: str, split: str, config: str | None, cache_dir: Any) -> Any:
    """Open the split with ``datasets``; translate its errors into one that says what would do."""
    from datasets import get_dataset_split_names, load_dataset

    is_folder = os.path.isdir(name)
    try:
        with quiet_transport():
            return load_dataset(name, config, split=split, cache_dir=cache_dir)
    except Exception as error:
        if isinstance(error, ValueError) and "Unknown split" in str(error):
            reason = f"it has no split {split!r}; it has {', '.join(get_dataset_split_names(name, config))}."
        elif "corresponds to no data" in str(error) or "BatchSize must be greater than 0" in str(error.__cause__):
            reason = "the split is empty."
        elif is_folder:
            reason = "the folder must hold parquet files named train-*.parquet and test-*.parquet, as on the Hub."
        else:
            raise DatasetError(
                f"dataset_name {name!r} {is_nowhere(error)}; give a Hub id such as 'ylecun/mnist', or a folder with "
                "the same parquet files."
            ) from error
        raise DatasetError(
            f"Cannot read split {split!r} of dataset_name {name!r}: {reason} ({type(error).__name__}: {error})"
        ) from error


def is_nowhere(error: BaseException) -> str:
    """What an error of huggingface_hub or ``datasets`` says of a name that neither the disk nor the Hub has."""
    text = f"{error!r} {error.__cause__!r}".lower()
    hub = "the Hub"
    if "offline" in text or "outgoing traffic has been disabled" in text:
        hub = "the Hub (not asked, as HF_HUB_OFFLINE or local_files_only is set)"
    elif isinstance(error, ConnectionError):
        hub = "the Hub (which cannot be reached)"
    elif "localentrynotfound" in text:
        hub = f"the Hub ({str(error.__cause__).strip()})"
    return f"is no folder, and neither {hub} nor the local cache has it"


@contextlib.contextmanager
def quiet_transport() -> Iterator[None]:
    """Without huggingface_hub's lines on every try to reach a server; what comes of it is in the error."""
    before = hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()
    try:
        yield
    finally:
        hub_logging.set_verbosity(before)


def _check_columns(table: Any, image_column: str, label_column: str) -> None:
    """Refuse columns that are missing or of another type."""
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
    if not isinstance(label, ClassLabel) and not re.fullmatch("u?int.*|(large_)?string", getattr(label, "dtype", "")):
        raise DatasetError(
            f"label_column {label_column!r} must be a ClassLabel feature, integers or strings, it is {label}."
        )


def _label_values(name: str, config: str | None, column: str, cache_dir: Any) -> list[str]:
    """The classes of a column of integers or strings, ascending: its values in all splits."""
    from datasets import load_dataset

    values: set[Any] = set()
    for split, table in load_dataset(name, config, cache_dir=cache_dir).items():
        cells = table[column][:]
        for row, value in enumerate(cells):
            if value is None or value == -1:
                raise DatasetError(f"Row {row} of split {split!r}: column {column!r} is {value}, which is no class.")
        values.update(cells)
    return [str(value) for value in sorted(values)]


def _labels(table: Any, column: str, num_classes: int) -> Tensor:
    labels = table[column][:]
    for row, label in enumerate(labels):
        if label is None or not 0 <= label < num_classes:
            raise DatasetError(
                f"Row {row}: column {column!r} is {label}; it must be a class index from 0 to {num_classes - 1}."
            )
    return torch.tensor(labels, dtype=torch.int64)


def _decoded(table: Any, column: str, resolution: int | None) -> Tensor:
    from datasets import Features, Image, Value

    rows = (
        table.select_columns(column)
        .cast_column(column, Image(decode=False))
        .map(
            _decode_rows,
            batched=True,
            with_indices=True,
            fn_kwargs={"column": column, "resolution": resolution},
            remove_columns=column,
            features=Features({"pixels": Value("binary"), "size": Value("string"), "mode": Value("string")}),
            desc="decoding images",
        )
    )
    pixels, sizes = rows["pixels"][:], rows["size"][:]
    for row, size in enumerate(sizes):
        if size != sizes[0]:
            raise DatasetError(
                f"Row {row}: column {column!r} is {size}, row 0 is {sizes[0]}; images must be of one size. "
                "Give a resolution, which resizes them."
            )
    height, width = map(int, sizes[0].split("x"))
    if converted := {mode: count for mode, count in Counter(rows["mode"][:]).items() if mode not in ("L", "RGB")}:
        counts = ", ".join(f"{count} of mode {mode}" for mode, count in converted.items())
        logger.warning("Images were converted to 8 bits in grey or RGB: %s.", counts)
    grey = [len(content) == height * width for content in pixels]
    if all(grey):
        return torch.frombuffer(bytearray(b"".join(pixels)), dtype=torch.uint8).reshape(-1, height, width)
    images = [np.frombuffer(content, np.uint8).reshape(height, width, -1) for content in pixels]
    stacked = np.stack([np.broadcast_to(image, (height, width, 3)) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()


def _decode_rows(
    cells: dict[str, list[Any]], rows: list[int], column: str, resolution: int | None
) -> dict[str, list[Any]]:
    decoded: dict[str, list[Any]] = {"pixels": [], "size": [], "mode": []}
    for cell, row in zip(cells[column], rows, strict=True):
        image = _decode_image(cell, row, column)
        decoded["mode"].append(image.mode)
        image = _in_8_bits(image)
        if resolution is not None:
            image = image.resize((resolution, resolution), PILImage.Resampling.BILINEAR)
        size = f"{image.height}x{image.width}"
        if not (SMALLEST <= image.height <= LARGEST and SMALLEST <= image.width <= LARGEST):
            raise DatasetError(
                f"Row {row}: column {column!r} is {size}; height and width must be from {SMALLEST} to {LARGEST}. "
                "Give a resolution, which resizes the images."
            )
        decoded["pixels"].append(image.tobytes())
        decoded["size"].append(size)
    return decoded


def _in_8_bits(image: PILImage.Image) -> PILImage.Image:
    """Any image in mode L or RGB: 16 bits keep their upper 8, transparency is left out, RGB that is grey becomes L."""
    if image.mode.startswith("I"):
        return PILImage.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("1", "L", "LA", "F"):
        return image.convert("L")
    colour = image.convert("RGB")
    red, green, blue = colour.split()
    return red if red.tobytes() == green.tobytes() == blue.tobytes() else colour


def _decode_image(cell: dict[str, Any] | None, row: int, column: str) -> PILImage.Image:
    """One image cell to its image, in the mode that it is stored in.

    Pillow decodes, because torchvision's decoder crashes the process on some damaged files. ``verify`` compares the
    checksums, so a flipped bit is found too.
    """
    if cell is None or (cell.get("bytes") is None and cell.get("path") is None):
        raise DatasetError(f"Row {row}: column {column!r} holds no image.")
    try:
        encoded = cell["bytes"] if cell.get("bytes") is not None else Path(cell["path"]).read_bytes()
        PILImage.open(BytesIO(encoded)).verify()
        image = PILImage.open(BytesIO(encoded))  # a verified image has to be opened again
        image.load()
    except (OSError, ValueError, SyntaxError, PILImage.DecompressionBombError) as error:
        raise DatasetError(f"Row {row}: column {column!r} is not a readable image ({error}).") from error
    return image
