"""Folders that are either the old or the new, never a mixture, and that know when a bit has flipped.

A folder is written under a temporary name beside its place, flushed to disk, given a manifest of SHA-256 sums, and
renamed. A process killed at any moment leaves the old folder, the new one, or (for the instant between two renames)
the old one under its backup name, which the next call puts back.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

__all__ = ["MANIFEST", "IntegrityError", "atomic_folder", "atomic_write", "verify_manifest", "write_manifest"]

MANIFEST = "manifest.json"


class IntegrityError(OSError):
    """A saved folder is damaged: a file is missing, or differs from what was written."""


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty temporary folder that takes the place of ``path`` when the block ends without an error."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    backup = target.with_name(f".{target.name}.backup")
    _restore(target, backup)
    partial.mkdir()
    try:
        yield partial
        write_manifest(partial)
        _flush(partial)
        if target.exists():
            os.rename(target, backup)
        os.rename(partial, target)
        shutil.rmtree(backup, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        _restore(target, backup)


def atomic_write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write one file under a temporary name, flush it, and rename it into place."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def write_manifest(folder: Path) -> None:
    """Write the SHA-256 sum of every file in the folder to its manifest."""
    sums = {str(file.relative_to(folder).as_posix()): _sha256(file) for file in _files(folder)}
    (folder / MANIFEST).write_text(json.dumps(sums, indent=2, sort_keys=True) + "\n")


def verify_manifest(folder: str | os.PathLike[str]) -> bool:
    """Compare every file with the folder's manifest.

    Returns:
        False where the folder has no manifest, so nothing could be compared.

    Raises:
        IntegrityError: a listed file is missing or differs, or the manifest itself cannot be read.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        return False
    try:
        sums = json.loads((folder / MANIFEST).read_text())
        listed = {str(name): str(value) for name, value in sums.items()}
    except (ValueError, AttributeError, OSError) as error:
        raise IntegrityError(f"{folder / MANIFEST} cannot be read: {error}") from error
    for name, expected in listed.items():
        file = folder / name
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise IntegrityError(f"{folder / MANIFEST} names {name!r}, which is outside its folder.")
        if not file.is_file():
            raise IntegrityError(f"{file} is missing, though {MANIFEST} lists it.")
        if _sha256(file) != expected:
            raise IntegrityError(f"{file} is damaged: its SHA-256 sum differs from the one in {MANIFEST}.")
    return True


def _restore(target: Path, backup: Path) -> None:
    """Put the old folder back, if a process died between the two renames."""
    if backup.exists():
        if target.exists():
            shutil.rmtree(backup, ignore_errors=True)
        else:
            os.rename(backup, target)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / MANIFEST)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _flush(folder: Path) -> None:
    """Flush every file and folder below ``folder`` to disk."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
