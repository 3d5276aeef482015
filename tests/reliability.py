"""Stop and starve trainings in every way a machine can, and count: survived / tried.

    python tests/reliability.py
    python tests/reliability.py --kills 4 --two_process_kills 0 --every 0 --two_process_runs 0

A run survives where, resumed until it ends, it has the weights of the run that was never stopped, bit for bit, or where
there is a clear error and nothing is lost. A run that had ended before its kill does not count as tried.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from survival.course import Course
from survival.stopping import (
    anywhen,
    exact_resumes,
    killed_runs,
    terminated_runs,
    while_saving,
    while_training,
    whole_runs,
)
from survival.storage import full_disks, read_only_folders, vanished_data

COUNTS = {  # what is done how often if left out
    "kills": 25,
    "terminations": 5,
    "two_process_kills": 10,
    "two_process_terminations": 3,
    "two_process_runs": 50,
    "every": 3,
    "seed": 0,
}


def sources(options: argparse.Namespace, root: Path) -> Iterator[tuple[str, Iterator[bool]]]:
    """All that is tried: a name, and what comes of each try."""
    dice = random.Random(options.seed)
    warm = Course(root / "warm", max_train_steps=5)
    warm.run(root / "warm" / "here")  # what is imported or compiled at first use is there before the forks
    gc.collect()
    gc.freeze()  # objects of the parent are no work for the children's collectors
    one = Course(root / "one")
    half = options.kills // 2
    yield "run killed at any moment", killed_runs(one, options.kills - half, dice, anywhen)
    yield "run killed while it saves", killed_runs(one, half, dice, while_saving)
    yield "run asked to stop", terminated_runs(one, options.terminations, dice)
    yield "disk full", full_disks(one)
    yield "folder read-only", read_only_folders(one)
    yield "data set gone", vanished_data(root)
    if options.two_process_kills or options.two_process_terminations:
        two = Course(root / "two", processes=2)
        half = options.two_process_kills // 2
        yield "two processes, both killed", killed_runs(two, options.two_process_kills - half, dice, anywhen)
        yield "two processes, one killed", killed_runs(two, half, dice, while_training, whole=False)
        yield "two processes, asked to stop", terminated_runs(two, options.two_process_terminations, dice)
    for processes, accumulation in ((1, 1), (1, 2), (2, 1), (2, 2)) if options.every else ():
        updates = {"max_train_steps": 30, "checkpointing_steps": options.every}
        folder = root / f"exact-{processes}-{accumulation}"
        course = Course(folder, processes=processes, accumulation=accumulation, **updates)
        name = f"killed at a checkpoint, {processes} processes, {accumulation} batches per update"
        yield name, exact_resumes(course, options.every)
    if options.two_process_runs:
        short = Course(root / "short", processes=2, max_train_steps=20, checkpointing_steps=10)
        yield "two processes, not stopped", whole_runs(short, options.two_process_runs)


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
