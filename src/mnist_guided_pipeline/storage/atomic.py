"""Folders that are either the old or the new, never a mixture, and that know when a bit has flipped.

A folder is written under a temporary name beside its place, flushed to disk, given a manifest of SHA-256 sums, and
renamed. A process killed at any moment leaves the old folder, the new one, or (for the instant between two renames)
the old one under its backup name, which :func:`standing_folder` finds and the next write puts back.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

MANIFEST = "manifest.json"


class IntegrityError(OSError):
    """A saved folder is damaged: a file is missing, differs from what was written, or cannot be what it claims to be.

    Args:
        message: the file and what is wrong with it.
        file: the file, for whoever wants to fetch it again.
        fix: what to do where the change was meant.
    """

    def __init__(self, message: str, file: str | os.PathLike[str] | None = None, fix: str = ""):
        super().__init__(message + fix)
        self.message = message
        self.file = None if file is None else Path(file)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty temporary folder that takes the place of ``path`` when the block ends without an error.

    The manifest lists every file, unless the block has written one itself.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    backup = target.with_name(f".{target.name}.backup")
    _restore(target, backup)
    partial.mkdir()
    try:
        yield partial
        if not (partial / MANIFEST).is_file():
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


def standing_folder(path: str | os.PathLike[str]) -> Path:
    """The folder, or its backup where a process died between the two renames of :func:`atomic_folder`."""
    target = Path(path)
    backup = target.absolute().with_name(f".{target.absolute().name}.backup")
    return backup if backup.is_dir() and not target.exists() else target


def write_manifest(
    folder: str | os.PathLike[str], names: Iterable[str] | None = None, known: Mapping[str, str] | None = None
) -> None:
    """Write the SHA-256 sums of files below the folder, named with forward slashes, to its manifest; of all if None.

    The sums of further files that are ``known`` are taken over as they are.
    """
    folder = Path(folder)
    if names is None:
        names = [file.relative_to(folder).as_posix() for file in _files(folder)]
    sums = {**(known or {}), **{name: _sha256(folder / name) for name in names}}
    atomic_write(folder / MANIFEST, json.dumps(sums, indent=2, sort_keys=True) + "\n")


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, str] | None:
    """The SHA-256 sums by file name; None where the folder has no manifest.

    A manifest that cannot be read, or names a file outside its folder, is an IntegrityError.
    """
    file = Path(folder) / MANIFEST
    if not file.is_file():
        return None
    try:
        listed = {str(name): str(value) for name, value in json.loads(file.read_text(encoding="utf-8")).items()}
    except (ValueError, AttributeError, OSError) as error:
        raise IntegrityError(f"{file} cannot be read: {error}", file) from error
    for name in listed:
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise IntegrityError(f"{file} names {name!r}, which is outside its folder.", file)
    return listed


def write_listed(folder: str | os.PathLike[str], texts: Mapping[str, str]) -> None:
    """Write texts, by name, into a saved folder, and their sums into its manifest where it has one.

    The folder's other files are checked first: damage must not get a new manifest, and is an IntegrityError.
    """
    folder = Path(folder)
    listed = read_manifest(folder)
    others = {name: sum for name, sum in (listed or {}).items() if name not in texts}
    verify_manifest(folder, others)
    for name, text in texts.items():
        atomic_write(folder / name, text)
    if listed is not None:
        write_manifest(folder, texts, others)


def verify_manifest(folder: str | os.PathLike[str], names: Iterable[str] | None = None) -> bool:
    """Compare files with the folder's manifest, every listed one if no names are given; False where there is none.

    A file that is missing, differs or is not listed is an IntegrityError, as is a manifest that cannot be read.
    """
    folder = Path(folder)
    listed = read_manifest(folder)
    if listed is None:
        return False
    for name in listed if names is None else names:
        file = folder / name
        if name not in listed:
            raise IntegrityError(f"{file} is not listed in {MANIFEST}.", file, _fix(folder))
        if not file.is_file():
            raise IntegrityError(f"{file} is missing, though {MANIFEST} lists it.", file)
        if _sha256(file) != listed[name]:
            raise IntegrityError(
                f"{file} is damaged: its SHA-256 sum differs from the one in {MANIFEST}.", file, _fix(folder)
            )
    return True


def _fix(folder: Path) -> str:
    """What to do where the change was meant."""
    return f" If you changed it yourself, run mnist_guided_pipeline.storage.atomic.write_manifest({str(folder)!r})."


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
