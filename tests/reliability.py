"""Stop and starve trainings in every way a machine can, and count: survived / tried.

    python tests/reliability.py
    python tests/reliability.py --kills 4 --two_process_kills 0 --every 0

A run survives where, resumed until it ends, it has the weights of the run that was never stopped, bit for bit, or where
there is a clear error and nothing is lost. A run that had ended before its kill does not count as tried.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from conftest import write_split
from mnist_guided_pipeline.data.digits import bundled_digits
from mnist_guided_pipeline.storage.atomic import verify_manifest
from mnist_guided_pipeline.training.checkpoints import checkpoint_folders
from survival import HANGS, Course, after_saving, send, wait

COUNTS = {"kills": 25, "terminations": 5, "two_process_kills": 10, "two_process_terminations": 3, "every": 3, "seed": 0}
Stop = Callable[[Course, Path, random.Random, list[int]], "bool | None"]


def while_training(course: Course, folder: Path, dice: random.Random) -> None:
    """Wait for a random moment after the first checkpoint: all processes have made updates by then."""
    until = time.monotonic() + 10 * course.duration
    while not checkpoint_folders(folder) and time.monotonic() < until:
        time.sleep(0.002)
    time.sleep(dice.uniform(0.0, 0.5 * course.duration))


def while_saving(course: Course, folder: Path, dice: random.Random) -> None:
    """Wait for a random moment of one of the first checkpoints' being written."""
    looks, until = 1 + dice.randrange(30), time.monotonic() + course.duration
    while looks and time.monotonic() < until:
        looks -= any(folder.glob(".checkpoint-*.partial"))
        time.sleep(dice.uniform(0.0, 0.004))


def killed(wait_for: Callable | None = None, whole: bool = True) -> Stop:
    """Kill all processes of a run, or one of them, at any moment, its start included, or at that one."""

    def stop(course: Course, folder: Path, dice: random.Random, children: list[int]) -> bool | None:
        if wait_for is None:
            time.sleep(dice.uniform(0.0, course.duration))
        else:
            wait_for(course, folder, dice)
        send(signal.SIGKILL, children if whole else [dice.choice(children)])
        statuses = wait(children)
        good = HANGS not in statuses and course.goes_on(folder)
        return good if -signal.SIGKILL in statuses or not good else None

    return stop


def asked_to_stop(course: Course, folder: Path, dice: random.Random, children: list[int]) -> bool | None:
    """Ask some processes of a run to stop: all of them save, say so, and end as a signal ends."""
    while_training(course, folder, dice)
    asked = dice.choice((signal.SIGTERM, signal.SIGINT))
    send(asked, dice.sample(children, dice.randint(1, len(children))))
    statuses, printed = wait(children), course.log.read_text()
    if f"Stopped by {asked.name}, saved" not in printed:  # it came after the last update, or a kill would do
        return None if HANGS not in statuses and course.goes_on(folder) else False
    # the first to end is reason to send SIGTERM to the others, which are ending too
    good = {128 + asked} <= set(statuses) <= {128 + asked, -signal.SIGTERM}
    good = good and not (folder / "train_config.json").exists()
    named = any(str(saved) in printed for saved in checkpoint_folders(folder))
    return good and named and course.goes_on(folder)


def stopped_runs(course: Course, tries: int, dice: random.Random, stop: Stop) -> Iterator[bool]:
    """Stop runs and resume them; those that had ended before do not count."""
    for index in range(2 * tries):
        folder = course.root / f"run-{index}"
        outcome = stop(course, folder, dice, course.start(folder))
        shutil.rmtree(folder, ignore_errors=True)
        if outcome is not None:
            tries -= 1
            yield outcome
        if not tries:
            return


def exact_resumes(course: Course, every: int) -> Iterator[bool]:
    """Kill the process that saves right after each checkpoint, a run each, and resume it."""
    for update in range(every, course.settings["max_train_steps"] + 1, every):
        folder = course.root / f"stopped-{update}"
        kill = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
        ended = wait(course.start(folder, lambda: after_saving(update, kill)))  # noqa: B023 - called at once
        good = ended[0] == -signal.SIGKILL and checkpoint_folders(folder)[-1].name == f"checkpoint-{update}"
        yield good and course.goes_on(folder)
        shutil.rmtree(folder)


def full_disks(course: Course) -> Iterator[bool]:
    """There is no room for the next checkpoint."""
    folder = with_checkpoint(course, "full", 91)

    def is_small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # a checkpoint's weights take more

    good = ends_with(course, folder, "checkpoint-98 could not be saved", is_small)
    yield good and stands(folder, "checkpoint-91") and course.goes_on(folder)


def read_only_folders(course: Course) -> Iterator[bool]:
    """A folder is read-only: before a run, before it is resumed, and from some checkpoint on."""
    parent = course.root / "read-only"
    parent.mkdir(mode=0o555)
    good = ends_with(course, parent / "run", str(parent / "run"), heed_modes) and not any(parent.iterdir())
    parent.chmod(0o755)
    yield good and course.goes_on(parent / "run")

    folder = with_checkpoint(course, "read-only-later", 91)
    folder.chmod(0o555)
    good = ends_with(course, folder, str(folder), heed_modes) and stands(folder, "checkpoint-91")
    folder.chmod(0o755)
    yield good and course.goes_on(folder)

    folder = course.root / "read-only-from-49"

    def turns_read_only() -> None:
        heed_modes()
        after_saving(49, lambda: folder.chmod(0o555))

    good = ends_with(course, folder, "checkpoint-56 could not be saved", turns_read_only)
    good = good and stands(folder, "checkpoint-49")
    folder.chmod(0o755)
    yield good and course.goes_on(folder)


def vanished_data(root: Path) -> Iterator[bool]:
    """A data set is gone: before a run, before it is resumed, while it trains, and then with its cache.

    A run whose data set vanishes while it trains goes on: the data are in memory.
    """
    images, labels = bundled_digits()
    data, away, cache = root / "digits", root / "digits-away", root / "cache"
    for split in ("train", "test"):
        write_split(data, split, images[:120], labels[:120])
    settings = {"max_train_steps": 50, "checkpointing_steps": 10}
    course = Course(root / "vanishing", "vae", str(data), cache_dir=str(cache), **settings)

    data.rename(away)
    fresh, stopped = course.root / "fresh", with_checkpoint(course, "stopped", 40)
    good = [ends_with(course, folder, f"{str(data)!r}") for folder in (fresh, stopped)]
    good = [good[0] and not fresh.exists(), good[1] and stands(stopped, "checkpoint-40")]
    away.rename(data)
    for folder, well in zip((fresh, stopped), good, strict=True):
        yield well and course.goes_on(folder)

    def clear() -> None:
        shutil.rmtree(data)
        shutil.rmtree(cache)

    for name, vanish in (("during", lambda: data.rename(away)), ("with-cache", clear)):
        statuses = wait(course.start(course.root / name, lambda: after_saving(20, vanish)))  # noqa: B023 - at once
        yield statuses == [0] and not data.exists() and course.equals(course.root / name)
        if away.exists():
            away.rename(data)


def with_checkpoint(course: Course, name: str, update: int) -> Path:
    """A new run's folder, with a checkpoint to go on from."""
    checkpoint = f"checkpoint-{update}"
    shutil.copytree(course.reference / checkpoint, course.root / name / checkpoint)
    return course.root / name


def ends_with(course: Course, folder: Path, named: str, before: Callable[[], None] = lambda: None) -> bool:
    """Whether a run ends with status 2 and one line of error that says what is wrong."""
    statuses = wait(course.start(folder, before))
    errors = [line for line in course.log.read_text().splitlines() if line.startswith("error:")]
    return statuses == [2] and len(errors) == 1 and named in errors[0]


def stands(folder: Path, checkpoint: str) -> bool:
    """Whether a checkpoint is the last one and whole, and nothing half-written lies beside it."""
    last = checkpoint_folders(folder)[-1]
    return last.name == checkpoint and verify_manifest(last) and not list(folder.glob(".checkpoint-*"))


def heed_modes() -> None:
    """In this process, let the modes of files bind root as they bind everybody: give up CAP_DAC_OVERRIDE."""
    if os.geteuid() != 0 or sys.platform != "linux":
        return
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, sets) == 0
    sets[0] &= ~(1 << 1)  # of the effective ones
    assert libc.capset(header, sets) == 0


def sources(options: argparse.Namespace, root: Path) -> Iterator[tuple[str, Iterator[bool]]]:
    """All that is tried: a name, and what comes of each try."""
    dice = random.Random(options.seed)
    warm = Course(root / "warm", max_train_steps=5)
    warm.run(root / "warm" / "here")  # what is imported or compiled at first use is there before the forks
    gc.collect()
    gc.freeze()  # objects of the parent are no work for the children's collectors
    one = Course(root / "one")
    half = options.kills // 2
    yield "run killed at any moment", stopped_runs(one, options.kills - half, dice, killed())
    yield "run killed while it saves", stopped_runs(one, half, dice, killed(while_saving))
    yield "run asked to stop", stopped_runs(one, options.terminations, dice, asked_to_stop)
    yield "disk full", full_disks(one)
    yield "folder read-only", read_only_folders(one)
    yield "data set gone", vanished_data(root)
    if options.two_process_kills or options.two_process_terminations:
        two = Course(root / "two", processes=2)
        half = options.two_process_kills // 2
        yield "two processes, both killed", stopped_runs(two, options.two_process_kills - half, dice, killed())
        yield "two processes, one killed", stopped_runs(two, half, dice, killed(while_training, whole=False))
        yield "two processes, asked to stop", stopped_runs(two, options.two_process_terminations, dice, asked_to_stop)
    for processes, accumulation in ((1, 1), (1, 2), (2, 1), (2, 2)) if options.every else ():
        updates = {"max_train_steps": 30, "checkpointing_steps": options.every}
        folder = root / f"exact-{processes}-{accumulation}"
        course = Course(folder, processes=processes, accumulation=accumulation, **updates)
        name = f"killed at a checkpoint, {processes} processes, {accumulation} batches per update"
        yield name, exact_resumes(course, options.every)


def main() -> None:
    """Count and print, and end with status 1 where something did not survive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in COUNTS.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args(sys.argv[1:])  # the runs put their own words into sys.argv
    torch.set_num_threads(1)  # threads do not survive a fork
    lost = 0
    with tempfile.TemporaryDirectory(prefix="mnist-guided-reliability-") as folder:
        for name, outcomes in sources(options, Path(folder)):
            started = time.perf_counter()
            results = list(outcomes)
            lost += results.count(False)
            if results:
                print(f"{name}: {sum(results)} / {len(results)}  ({time.perf_counter() - started:.0f} s)", flush=True)
    gc.unfreeze()
    raise SystemExit(1 if lost else 0)


if __name__ == "__main__":
    main()
