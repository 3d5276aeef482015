"""A quicker cold start: diffusers without the packages that drawing does not need.

diffusers imports transformers and torchvision where it finds them, and a good part of the time to the first image is
theirs. It runs as well without: both are optional to it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

__all__ = ["hidden_packages"]


@contextlib.contextmanager
def hidden_packages(*names: str) -> Iterator[None]:
    """Let packages look as if they were not installed to what is imported in the block; later imports find them.

    Args:
        names: packages; those that are imported already stay as they are.
    """
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is how Python marks a missing module
    try:
        yield
    finally:
        for name in hidden:
            if sys.modules[name] is None:
                del sys.modules[name]
