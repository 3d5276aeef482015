"""A pipeline's folder that loads without this package.

``DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`` runs ``pipeline.py`` of the folder, and one file
beside each network's weights. The former are this package's ``sampling/``, unchanged: diffusers fetches ``pipeline.py``
and the files that ``pipeline.py`` itself imports. The latter are networks, ``models/layers.py`` in front.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import sys
from pathlib import Path

from .atomic import atomic_folder, write_manifest
from .card import PICTURE
from .pipelines import ClassifierGuidedLatentPipeline
from .strict import PACKAGE, REMOTE_CODE, check_pipeline, installed_names, read_json

_SAMPLING = Path(__file__).parents[1] / "sampling"
_KEPT = ("README.md", PICTURE, "metrics.json", "train_config.json")


def remote_modules() -> list[Path]:
    """``pipeline.py`` and the modules beside it, which it imports one by one, as diffusers fetches no others."""
    return sorted(file for file in _SAMPLING.glob("*.py") if file.name != "__init__.py")


def export_pipeline(folder: str | os.PathLike[str], output: str | os.PathLike[str]) -> None:
    """Write a pipeline's folder, which is checked first, with the code to run it.

    Raises:
        IntegrityError: the pipeline is damaged or incomplete.
        ValueError: a network is of a class that this package does not have, or that lies in no file of its own.
    """
    folder = Path(folder)
    check_pipeline(folder, ClassifierGuidedLatentPipeline, {})
    index = installed_names(read_json(folder / "model_index.json"))
    index["_class_name"] = ["pipeline", ClassifierGuidedLatentPipeline.__name__]
    components = [name for name, entry in index.items() if isinstance(entry, list) and entry[0] is not None]
    components.remove("_class_name")
    code = {module.name: module.read_text(encoding="utf-8") for module in remote_modules()}
    for name in components:
        library, class_name = index[name]
        if library == PACKAGE:
            file, source = network_code(class_name)
            code[f"{name}/{REMOTE_CODE}{file}"] = source
            index[name] = [f"{REMOTE_CODE}{file.removesuffix('.py')}", class_name]
        elif library != "diffusers":
            raise ValueError(f"{name} is a {class_name} of {library}, whose code is not exported with the pipeline.")
    with atomic_folder(output) as partial:
        for name in components:
            shutil.copytree(folder / name, partial / name, ignore=shutil.ignore_patterns("*.py", ".*", "*.bin"))
        for name in _KEPT:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, partial / name)
        for target, source in code.items():
            (partial / target).write_text(source, encoding="utf-8")
        (partial / "model_index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        write_manifest(partial)


def network_code(class_name: str) -> tuple[str, str]:
    """A network's file and its source, with ``layers.py`` in front in place of the import of it.

    A file that needs another one of this package is a ValueError.
    """
    file = Path(inspect.getfile(getattr(sys.modules[PACKAGE], class_name)))
    source, layers = file.read_text(encoding="utf-8"), (file.parent / "layers.py").read_text(encoding="utf-8")
    source = re.sub(r"^from \.layers import (\([^)]*\)|.*)\n", "", source, flags=re.MULTILINE)
    if needed := re.findall(rf"^\s*(?:from \.|from {PACKAGE}|import {PACKAGE}).*", source, flags=re.MULTILINE):
        raise ValueError(f"{file.name} has {needed[0].strip()!r}, so {class_name} cannot go alone.")
    future = "from __future__ import annotations\n"
    head, _, body = source.partition(future)
    return file.name, f"{head}{future}{layers.partition(future)[2]}{body}"
