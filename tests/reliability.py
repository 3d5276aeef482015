"""Stop, starve and damage trainings and saves in every way a machine can, and count: survived / tried.

    python tests/reliability.py --output metrics.json
    python tests/reliability.py --kills 4 --two_process_kills 0 --saves 10 --every 0 --two_process_runs 0 --no-faults

A run survives where, resumed until it ends, it has the weights of the run that was never stopped, bit for bit; a save
where the old or the new stands; a fault where there is a clear error and nothing is lost. A try is one that came in
time: a run that had ended before its kill does not count.
"""

from __future__ import annotations

import argparse
import gc
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from mnist_guided_pipeline.evaluation.records import make_record, typed_command, write_run
from survival.course import Course
from survival.known_faults import TESTS, known_faults
from survival.saving import killed_checkpoint_saves, killed_pipeline_saves
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
    "saves": 100,
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
    yield "run stopped by SIGTERM", terminated_runs(one, options.terminations, dice)
    yield "pipeline save killed", killed_pipeline_saves(root, options.saves, dice)
    yield "checkpoint save killed", killed_checkpoint_saves(root, options.saves, dice)
    yield "disk full", full_disks(one)
    yield "folder read-only", read_only_folders(one)
    yield "data set gone", vanished_data(root)
    if options.two_process_kills or options.two_process_terminations:
        two = Course(root / "two", processes=2)
        half = options.two_process_kills // 2
        yield "two processes, both killed", killed_runs(two, options.two_process_kills - half, dice, anywhen)
        yield "two processes, one killed", killed_runs(two, half, dice, while_training, whole=False)
        yield "two processes, stopped by SIGTERM", terminated_runs(two, options.two_process_terminations, dice)
    for processes, accumulation in ((1, 1), (1, 2), (2, 1), (2, 2)) if options.every else ():
        layout = {"processes": processes, "accumulation": accumulation}
        updates = {"max_train_steps": 30, "checkpointing_steps": options.every}
        course = Course(root / f"exact-{processes}-{accumulation}", **layout, **updates)
        name = f"killed at a checkpoint, {'two processes' if processes == 2 else 'one process'}"
        yield name + (f", {accumulation} batches an update" * (accumulation > 1)), exact_resumes(course, options.every)
    for name in TESTS if options.faults else ():
        yield name, known_faults(name)
    if options.two_process_runs:
        short = Course(root / "short", processes=2, max_train_steps=20, checkpointing_steps=10)
        yield "two processes, not stopped", whole_runs(short, options.two_process_runs)


def file_rows(options: argparse.Namespace, command: str, rows: dict[str, dict[str, int]]) -> None:
    """Write the record ``reliability``, which the view ``rows`` of ``mnist-guided render`` shows as a table."""
    settings = {name: getattr(options, name) for name in COUNTS}
    write_run(options.output, "reliability", {**make_record({}, settings, {"rows": rows}), "command": command})


def main() -> None:
    """Count, print, file, and end with status 1 where something did not survive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in COUNTS.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--faults", action=argparse.BooleanOptionalAction, default=True, help="run the faults' tests")
    parser.add_argument("--output", help="file of measurements that gets the record 'reliability'")
    options, command = parser.parse_args(), typed_command()  # the runs put theirs into sys.argv
    torch.set_num_threads(1)  # threads do not survive a fork
    rows: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory(prefix="mnist-guided-reliability-") as folder:
        started = time.perf_counter()
        for name, outcomes in sources(options, Path(folder)):
            results = list(outcomes)
            ended = time.perf_counter()
            if results:
                rows[name] = {"survived": sum(results), "tried": len(results), "seconds": round(ended - started)}
                print(f"{name}: {sum(results)} / {len(results)}  ({ended - started:.0f} s)", flush=True)
            started = ended
            if options.output:  # what is counted is kept, should the rest never end
                file_rows(options, command, rows)
    gc.unfreeze()
    raise SystemExit(0 if all(row["survived"] == row["tried"] for row in rows.values()) else 1)


if __name__ == "__main__":
    main()
