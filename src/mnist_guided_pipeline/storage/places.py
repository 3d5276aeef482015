"""Where a model or a data set is: a folder or a Hub id, and the name that records show of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .atomic import standing_folder


def find_folder(name: str | os.PathLike[str], argument: str = "") -> Path | None:
    """The folder of that name; None for what only the Hub can have, such as ``user/name``.

    Args:
        name: a path, or a Hub id; a path wins where both would do.
        argument: what the error calls the name, such as ``--model``.

    Raises:
        FileNotFoundError: there is no such folder, and no Hub id is written like that.
    """
    name = os.fspath(name)
    folder = standing_folder(name)
    if name and folder.is_dir():
        return folder
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        return None
    raise FileNotFoundError(f"{argument} {name!r} is neither a folder nor a Hub id such as 'user/name'.".lstrip())


def public_name(name: str | os.PathLike[str]) -> str:
    """A name without the folders above it where it is a path of one machine: absolute, or from ``.`` or ``~``."""
    name = os.fspath(name)
    private = os.path.isabs(name) or name.startswith((".", "~"))
    return os.path.basename(os.path.abspath(name)) if private else name
