"""``mnist-guided digits``: a small data set other than MNIST, without a download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from .options import check_writable

__all__ = ["digits"]


def digits(output: Path) -> None:
    """Write scikit-learn's 1,797 handwritten digits as a data set like MNIST, with class names in words.

    Example: mnist-guided digits --output digits, then train with --dataset_name digits

    Args:
        output: Folder to write, new or empty.
    """
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise FileExistsError(f"--output {str(output)!r} exists; name another folder.")
    check_writable(next(parent for parent in output.absolute().parents if parent.exists()))
    if find_spec("sklearn") is None:
        raise ValueError("digits needs scikit-learn: pip install 'mnist-guided-pipeline[evaluation]'.")

    from datasets import disable_progress_bars

    from ..data.digits import NAMES, NUM_TRAIN, write_bundled_digits
    from ..storage.atomic import atomic_folder

    disable_progress_bars()  # of two small files
    with atomic_folder(output) as folder:
        write_bundled_digits(folder)
    print(f"{output}: {NUM_TRAIN} images to train on, 297 to test on, classes {', '.join(NAMES)}.")
