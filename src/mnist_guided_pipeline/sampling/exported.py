"""The code of an exported pipeline, which diffusers runs from its module cache: saving takes it along.

The package itself, where it is installed, has no use for this.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

from torch import nn

_CACHE = "diffusers_modules"


def is_exported(part: Any) -> bool:
    """Whether an object's class is code that came with a folder or a repository."""
    return type(part).__module__.startswith(_CACHE)


def share_classes(pipe: Any) -> None:
    """Make an exported pipeline and its networks instances of the classes that their modules have now, for pickling.

    diffusers runs a file of code anew for each network and each load, and so makes its classes several times.
    """
    networks = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    for part in (pipe, *(module for network in networks for module in network.modules())):
        if is_exported(part):
            part.__class__ = getattr(sys.modules[type(part).__module__], type(part).__name__)


def exported_code(pipe: Any) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The code of an exported pipeline: sources by file name; by entry of ``model_index.json`` module and class.

    A file that the module cache has lost is an OSError.
    """
    main = Path(inspect.getfile(type(pipe)))
    names = re.findall(r"^from \.(\w+) import", main.read_text(encoding="utf-8"), re.MULTILINE)
    files = {f"{name}.py": main.with_name(f"{name}.py") for name in (main.stem, *names)}
    entries = {"_class_name": [main.stem, type(pipe).__name__]}
    for name, part in pipe.components.items():
        if is_exported(part):
            file = Path(inspect.getfile(type(part)))
            files[f"{name}/{file.name}"] = file
            entries[name] = [file.stem, type(part).__name__]
    return {name: file.read_text(encoding="utf-8") for name, file in files.items()}, entries
