"""A second data set of digits that needs no download: scikit-learn's, written as MNIST is on the Hub.

1,797 handwritten digits of 43 people (Alpaydin and Kaynak 1998, https://doi.org/10.24432/C50P49), 8x8 in 17 grey
levels, enlarged to 28x28. The last sixth, by writers of its own, is for testing, and the classes have names in words.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image as PILImage

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NUM_TRAIN = 1_500


def bundled_digits() -> tuple[list[PILImage.Image], list[int]]:
    """All images, mode L and 28x28, and their labels from 0 to 9; an ImportError where scikit-learn is missing."""
    from sklearn.datasets import load_digits

    bundled = load_digits()
    small = (bundled.images * (255 / 16)).astype(np.uint8)
    images = [PILImage.fromarray(image).resize((28, 28), PILImage.Resampling.BICUBIC) for image in small]
    return images, bundled.target.tolist()


def write_bundled_digits(folder: str | os.PathLike[str]) -> None:
    """Write the digits as parquet files that ``load_dataset(folder)`` reads, with splits ``train`` and ``test``."""
    from datasets import ClassLabel, Dataset, Features, Image

    features = Features({"image": Image(), "label": ClassLabel(names=list(NAMES))})
    images, labels = bundled_digits()
    data = Path(folder) / "digits"
    data.mkdir(parents=True, exist_ok=True)
    for split, rows in (("train", slice(None, NUM_TRAIN)), ("test", slice(NUM_TRAIN, None))):
        table = Dataset.from_dict({"image": images[rows], "label": labels[rows]}, features=features)
        table.to_parquet(str(data / f"{split}-00000-of-00001.parquet"))
