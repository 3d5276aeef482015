"""Runs whose disk is full or read-only, and whose data set is gone: a clear error, and nothing that was there is lost.

A run whose data set vanishes while it trains goes on: the data are in memory.
"""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from conftest import write_split
from mnist_guided_pipeline.data.digits import bundled_digits
from mnist_guided_pipeline.storage.atomic import verify_manifest
from mnist_guided_pipeline.training.checkpoints import checkpoint_folders

from .course import Course, after_saving
from .processes import wait


def full_disks(course: Course) -> Iterator[bool]:
    """There is no room for the next checkpoint."""
    folder = _with_checkpoint(course, "full", 91)

    def is_small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # a checkpoint's weights take more

    good = _ends_with(course, folder, "checkpoint-98 could not be saved", is_small)
    yield good and _stands(folder, "checkpoint-91") and course.goes_on(folder)


def read_only_folders(course: Course) -> Iterator[bool]:
    """A folder is read-only: before a run, before it is resumed, and from some checkpoint on."""
    parent = course.root / "read-only"
    parent.mkdir()
    parent.chmod(0o555)
    good = _ends_with(course, parent / "run", str(parent / "run"), _heed_modes) and not any(parent.iterdir())
    parent.chmod(0o755)
    yield good and course.goes_on(parent / "run")

    folder = _with_checkpoint(course, "read-only-later", 91)
    folder.chmod(0o555)
    good = _ends_with(course, folder, str(folder), _heed_modes) and _stands(folder, "checkpoint-91")
    folder.chmod(0o755)
    yield good and course.goes_on(folder)

    folder = course.root / "read-only-from-49"

    def turns_read_only() -> None:
        _heed_modes()
        after_saving(49, lambda: folder.chmod(0o555))

    good = _ends_with(course, folder, "checkpoint-56 could not be saved", turns_read_only)
    good = good and _stands(folder, "checkpoint-49")
    folder.chmod(0o755)
    yield good and course.goes_on(folder)


def vanished_data(root: Path) -> Iterator[bool]:
    """A data set is gone: before a run, before it is resumed, while it trains, and then with its cache."""
    images, labels = bundled_digits()
    data, away, cache = root / "digits", root / "digits-away", root / "cache"
    for split in ("train", "test"):
        write_split(data, split, images[:120], labels[:120])
    settings = {"max_train_steps": 50, "checkpointing_steps": 10}
    course = Course(root / "vanishing", "vae", str(data), cache_dir=str(cache), **settings)

    data.rename(away)
    fresh = course.root / "fresh"
    good = [_ends_with(course, fresh, f"{str(data)!r}") and not fresh.exists()]
    stopped = _with_checkpoint(course, "stopped", 40)
    good += [_ends_with(course, stopped, f"{str(data)!r}") and _stands(stopped, "checkpoint-40")]
    away.rename(data)
    for folder, well in zip((fresh, stopped), good, strict=True):
        yield well and course.goes_on(folder)

    folder = course.root / "during"
    statuses = wait(course.start(folder, lambda: after_saving(20, lambda: data.rename(away))))
    yield statuses == [0] and not data.exists() and course.equals(folder)
    away.rename(data)

    def clear() -> None:
        shutil.rmtree(data)
        shutil.rmtree(cache)

    folder = course.root / "during-with-cache"
    statuses = wait(course.start(folder, lambda: after_saving(20, clear)))
    yield statuses == [0] and not data.exists() and course.equals(folder)


def _with_checkpoint(course: Course, name: str, update: int) -> Path:
    """A new run's folder, with a checkpoint to go on from."""
    checkpoint = f"checkpoint-{update}"
    shutil.copytree(course.reference / checkpoint, course.root / name / checkpoint)
    return course.root / name


def _ends_with(course: Course, folder: Path, named: str, before: Callable[[], None] = lambda: None) -> bool:
    """Whether a run ends with status 2 and one line of error that says what is wrong."""
    statuses = wait(course.start(folder, before))
    errors = [line for line in course.log.read_text().splitlines() if line.startswith("error:")]
    return statuses == [2] and len(errors) == 1 and named in errors[0]


def _stands(folder: Path, checkpoint: str) -> bool:
    """Whether a checkpoint is the last one and whole, and nothing half-written lies beside it."""
    last = checkpoint_folders(folder)[-1]
    return last.name == checkpoint and verify_manifest(last) and not list(folder.glob(".checkpoint-*"))


def _heed_modes() -> None:
    """In this process, let the modes of files bind root as they bind everybody: give up CAP_DAC_OVERRIDE."""
    if os.geteuid() != 0 or sys.platform != "linux":
        return
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, sets) == 0
    sets[0] &= ~(1 << 1)  # of the effective ones
    assert libc.capset(header, sets) == 0
