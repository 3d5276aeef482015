"""Runs that are killed or asked to stop, in one process and in two."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mnist_guided_pipeline.training.checkpoints import checkpoint_folders

from .course import Course, after_saving
from .processes import HANGS, send, wait

Moment = Callable[[Course, Path, random.Random], None]


def anywhen(course: Course, folder: Path, dice: random.Random) -> None:
    """Wait for a random moment of a run, its start included."""
    time.sleep(dice.uniform(0.0, course.duration))


def while_saving(course: Course, folder: Path, dice: random.Random) -> None:
    """Wait for a random moment of one of the first checkpoints' being written."""
    looks, until = 1 + dice.randrange(30), time.monotonic() + course.duration
    while looks and time.monotonic() < until:
        looks -= any(folder.glob(".checkpoint-*.partial"))
        time.sleep(dice.uniform(0.0, 0.004))


def while_training(course: Course, folder: Path, dice: random.Random) -> None:
    """Wait for a random moment after the first checkpoint: all processes have made updates by then."""
    until = time.monotonic() + 10 * course.duration
    while not checkpoint_folders(folder) and time.monotonic() < until:
        time.sleep(0.002)
    time.sleep(dice.uniform(0.0, 0.5 * course.duration))


def killed_runs(course: Course, tries: int, dice: random.Random, moment: Moment, whole: bool = True) -> Iterator[bool]:
    """Kill all processes of a run, or one of them, and resume it; runs that had ended before do not count."""
    left = tries
    for folder in _folders(course, 2 * tries):
        if not left:
            return
        children = course.start(folder)
        moment(course, folder, dice)
        send(signal.SIGKILL, children if whole else [dice.choice(children)])
        statuses = wait(children)
        good = HANGS not in statuses and course.goes_on(folder)
        if -signal.SIGKILL in statuses or not good:
            left -= 1
            yield good


def terminated_runs(course: Course, tries: int, dice: random.Random) -> Iterator[bool]:
    """Ask some processes of a run to stop: all of them save, say so, and end as a signal ends; then resume it."""
    left = tries
    for folder in _folders(course, 2 * tries):
        if not left:
            return
        children = course.start(folder)
        while_training(course, folder, dice)
        asked = dice.choice((signal.SIGTERM, signal.SIGINT))
        send(asked, dice.sample(children, dice.randint(1, len(children))))
        statuses, printed = wait(children), course.log.read_text()
        stopped = f"Stopped by {asked.name}, saved" in printed
        if stopped:  # the first to end is reason to send SIGTERM to the others, which are ending too
            in_order = {128 + asked} <= set(statuses) <= {128 + asked, -signal.SIGTERM} and not (
                folder / "train_config.json"
            ).exists()
            named = any(str(saved) in printed for saved in checkpoint_folders(folder))
            good = in_order and named and course.goes_on(folder)
        else:  # it came after the last update, or a kill would do
            good = HANGS not in statuses and course.goes_on(folder)
        if stopped or not good:
            left -= 1
            yield good


def exact_resumes(course: Course, every: int) -> Iterator[bool]:
    """Kill the process that saves right after each checkpoint, a run each, and resume it."""
    total = course.settings["max_train_steps"]
    for update in range(every, total + 1, every):
        folder = course.root / f"stopped-{update}"
        killed = course.start(folder, lambda: after_saving(update, _kill_oneself))  # noqa: B023 - called at once
        good = wait(killed)[0] == -signal.SIGKILL and checkpoint_folders(folder)[-1].name == f"checkpoint-{update}"
        yield good and course.goes_on(folder)
        shutil.rmtree(folder)


def whole_runs(course: Course, tries: int) -> Iterator[bool]:
    """Runs that nothing happens to: all processes end with status 0, and with the same weights."""
    for folder in _folders(course, tries):
        yield course.goes_on(folder)


def _folders(course: Course, count: int) -> Iterator[Path]:
    """A folder for each run, removed afterwards."""
    for index in range(count):
        folder = course.root / f"run-{index}"
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


def _kill_oneself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
