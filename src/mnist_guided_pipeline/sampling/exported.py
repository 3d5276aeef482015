"""The code of an exported pipeline, which diffusers runs from its module cache: saving takes it along.

The package itself, where it is installed, has no use for this.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

_CACHE = "diffusers_modules"


def is_exported(part: Any) -> bool:
    """Whether an object's class is code that came with a folder or a repository."""
    return type(part).__module__.startswith(_CACHE)


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
