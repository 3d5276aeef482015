"""Folders to the Hugging Face Hub: the repository first, then one commit of what belongs to the model.

Only named files are uploaded, so no checkpoint, log or leftover of a run goes along. A commit is whole or not made at
all. huggingface_hub tries the upload of a file again where a server is busy or a connection is lost; here a commit is
tried again too, and files that are there are not sent twice.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from .atomic import MANIFEST, atomic_write, verify_manifest, write_manifest
from .strict import read_json

Result = TypeVar("Result")

_BESIDE = ("README.md", "train_config.json", "metrics.json", MANIFEST)
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
_ATTEMPTS = 3
_PAUSE = 0.5  # seconds before the second attempt, twice as many before the third
_CARD = """\
---
library_name: {library}
license: apache-2.0
tags:
- mnist
- classifier-guidance
---

# {name}

Made with `mnist_guided_pipeline`.
"""


def model_files(folder: str | os.PathLike[str]) -> list[str]:
    """The files of a pipeline's or a network's folder that belong on the Hub, with forward slashes.

    A folder that holds neither is a FileNotFoundError, an index that cannot be read an IntegrityError.
    """
    folder = Path(folder)
    files = [folder / name for name in _BESIDE]
    files += [file for file in folder.glob("*") if file.suffix.lower() in _PICTURES]
    if (folder / "model_index.json").is_file():
        index = read_json(folder / "model_index.json")
        parts = [folder / name for name, entry in index.items() if isinstance(entry, list) and entry[0] is not None]
        files += [folder / "model_index.json"]
        if isinstance(index.get("_class_name"), list):  # exported with its code
            files += list(folder.glob("*.py"))
            files += [file for part in parts for file in part.glob("modeling_*.py")]
    elif (folder / "config.json").is_file():
        parts = [folder, *(folder / name for name in ("scheduler", "discriminator", "denoiser", "denoiser/scheduler"))]
    else:
        raise FileNotFoundError(f"{str(folder)!r} holds no model_index.json and no config.json: nothing to push.")
    files += [file for part in parts for pattern in ("*.safetensors", "*.json") for file in part.glob(pattern)]
    return sorted({file.relative_to(folder).as_posix() for file in files if file.is_file()})


def open_repo(repo_id: str, private: bool = False) -> str:
    """Create the repository, or find it; called before any work, so that what fails, fails early.

    Returns:
        The full Hub id.

    Raises:
        OSError: the Hub cannot be reached, refuses the token or the name.
    """
    from huggingface_hub import create_repo

    return _tried(lambda: create_repo(repo_id, private=private or None, exist_ok=True).repo_id, repo_id)


def push_folder(
    folder: str | os.PathLike[str], repo_id: str, private: bool = False, revision: str | None = None
) -> str:
    """Upload a pipeline or a network in one commit to ``user/name``, or to a name of the user's own.

    The folder is of ``save_pretrained``, ``export`` or a training script. The repository and the branch ``revision``
    are made where there is none; the branch is the main one if None. The token is the saved one.

    Returns:
        The address of the commit.

    Raises:
        IntegrityError: a file differs from the folder's manifest; nothing was uploaded.
        OSError: the Hub could not be reached or refused; the repository holds the old commit or the new one.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    folder = Path(folder)
    names = model_files(folder)
    verify_manifest(folder, [name for name in names if name.endswith((".safetensors", ".py"))])
    repo_id = open_repo(repo_id, private)
    api = HfApi()
    if revision is not None:
        _tried(lambda: api.create_branch(repo_id, branch=revision, exist_ok=True), repo_id)
    contents: dict[str, Path | bytes] = {name: folder / name for name in names}
    contents.setdefault("README.md", _placeholder_card(folder, repo_id).encode())

    def commit() -> str:
        operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
        return str(api.create_commit(repo_id, operations, commit_message="Upload model", revision=revision).commit_url)

    return _tried(commit, repo_id)


def start_push(config: Any) -> None:
    """With ``push_to_hub`` in a script's settings: make the repository before the training; a dry run makes none."""
    if config.push_to_hub and not config.dry_run:
        open_repo(_repo_name(config), config.hub_private_repo)


def save_result(config: Any, settings: str) -> None:
    """Finish a training script's ``output_dir``: settings as JSON, manifest, and with ``push_to_hub`` the upload."""
    atomic_write(f"{config.output_dir}/train_config.json", settings)
    names = [name for name in model_files(config.output_dir) if name.endswith((".json", ".safetensors"))]
    write_manifest(config.output_dir, [name for name in names if name != MANIFEST])
    finish_push(config)


def finish_push(config: Any) -> None:
    """With ``push_to_hub``: upload what is in ``output_dir``."""
    if config.push_to_hub:
        print("pushed:", push_folder(config.output_dir, _repo_name(config), config.hub_private_repo))


def _repo_name(config: Any) -> str:
    return config.hub_model_id or Path(config.output_dir).resolve().name


def _tried(action: Callable[[], Result], repo_id: str) -> Result:
    """The action's result; a lost connection or a busy server is tried again."""
    attempt = 1
    while True:
        try:
            return action()
        except ValueError:
            raise
        except Exception as error:  # of the HTTP library too, which changes between versions of huggingface_hub
            status = getattr(getattr(error, "response", None), "status_code", 500)
            if status < 500 and status != 429:
                raise
            if attempt == _ATTEMPTS:
                raise ConnectionError(
                    f"The Hub could not be reached for {repo_id!r} ({type(error).__name__}: {error}). The repository "
                    "holds its old commit or the new one, never a part; run it again."
                ) from error
        time.sleep(_PAUSE * attempt)
        attempt += 1


def _placeholder_card(folder: Path, repo_id: str) -> str:
    """A card for a folder that has none; ``mnist-guided render --card`` makes one of measurements."""
    of_diffusers = (folder / "model_index.json").is_file() or "_class_name" in read_json(folder / "config.json")
    library = "diffusers" if of_diffusers else "transformers"
    return _CARD.format(library=library, name=repo_id.rpartition("/")[2])
