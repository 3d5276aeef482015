"""Stop training runs in every way a machine can, and see what is left: survived / tried.

    python tests/reliability.py --kills 25
    python tests/reliability.py --kills 5 --terminations 2 --two_process_runs 50

Every run is forked from this process once everything is imported, so a kill costs little more than the updates. A run
survives where, resumed until it ends, it has the weights of the run that was never stopped, bit for bit.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from mnist_guided_pipeline.checkpoints import newest_checkpoint
from mnist_guided_pipeline.runtime import finish, make_accelerator
from mnist_guided_pipeline.safeguards import plain_errors
from training_runs import make_config, train, weights

DATA = "points:moons"  # no files, so that a run is nothing but updates and saving
SETTINGS = {
    "network": "PointDenoiser",
    "network_config": '{"hidden_size": 64, "num_layers": 2, "num_frequencies": 4}',
    "snr_gamma": None,
    "label_dropout": 0.0,
    "max_train_steps": 100,
    "checkpointing_steps": 7,
}


def run(folder: Path, **changes: object) -> None:
    """One training, as ``launch`` does it; ends this process."""
    config = make_config("denoiser", DATA, folder, resume_from_checkpoint="latest", **SETTINGS | changes)
    with plain_errors():
        try:
            train("denoiser", config)
        finally:
            finish(make_accelerator(config))


def fork(task: Callable[[], None], log: Path) -> int:
    """Run ``task`` in a child with its output in a file; the child's id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        task()
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException as error:  # noqa: BLE001 - reported by the parent
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait(child: int) -> int:
    """Exit status of a child, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def digest(folder: Path) -> str:
    """SHA-256 of a run's result and last checkpoint: weights, averages and moments."""
    total = hashlib.sha256()
    for name, tensor in weights(folder).items():
        total.update(name.encode() + tensor.numpy().tobytes())
    return total.hexdigest()


def stopped_runs(
    root: Path, tries: int, number: signal.Signals, dice: random.Random, while_saving: bool
) -> Iterator[bool]:
    """Stop a run at a random moment, or at a random moment of saving; then resume it until it ends."""
    reference = root / "reference"
    if not reference.exists():
        assert wait(fork(lambda: run(reference), root / "reference.log")) == 0, (root / "reference.log").read_text()
    started = time.perf_counter()
    assert wait(fork(lambda: run(root / "timed"), root / "timed.log")) == 0
    duration = time.perf_counter() - started
    shutil.rmtree(root / "timed")
    expected = digest(reference)
    for index in range(tries):
        folder, log = root / f"stopped-{number.name}-{index}", root / f"stopped-{number.name}-{index}.log"
        child = fork(lambda: run(folder), log)  # noqa: B023 - called at once
        if while_saving:
            saving = 1 + dice.randrange(30)
            until = time.perf_counter() + duration
            while saving and time.perf_counter() < until:
                saving -= any(folder.glob(".checkpoint-*.partial"))
                time.sleep(dice.uniform(0.0, 0.004))
        else:
            time.sleep(dice.uniform(0.0, duration))
        os.kill(child, number)
        status = wait(child)
        allowed = (0, -number) if number == signal.SIGTERM else (-number, 0)
        if number == signal.SIGTERM and status == 0 and not (folder / "train_config.json").is_file():
            assert "Go on by the same command" in log.read_text()
        last = wait(fork(lambda: run(folder), log))  # noqa: B023
        yield status in allowed and last == 0 and digest(folder) == expected
        shutil.rmtree(folder)


def full_disks(root: Path) -> Iterator[bool]:
    """A run for whose checkpoints there is no room ends with a clear error, keeps what it has, and goes on later."""
    expected = digest(root / "reference")
    folder, log = root / "full", root / "full.log"

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # a checkpoint's weights take more
        run(folder)

    shutil.copytree(root / "reference" / "checkpoint-91", folder / "checkpoint-91")
    status = wait(fork(small, log))
    text = log.read_text()
    kept = newest_checkpoint(folder)
    clear = "error:" in text and "checkpoint-98 could not be saved" in text
    whole = kept is not None and kept.name == "checkpoint-91" and not list(folder.glob(".checkpoint-*.partial"))
    last = wait(fork(lambda: run(folder), log))
    yield status == 2 and clear and whole and last == 0 and digest(folder) == expected


def two_process_runs(root: Path, tries: int) -> Iterator[bool]:
    """Runs of two real processes that end in order, with status 0 both."""
    for index in range(tries):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        def task(rank: int) -> None:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}  # noqa: B023
            run(root / f"two-{index}", max_train_steps=20, checkpointing_steps=10)  # noqa: B023

        children = [fork(lambda: task(rank), root / f"two-{index}.log") for rank in (0, 1)]  # noqa: B023
        yield [wait(child) for child in children] == [0, 0] and (root / f"two-{index}" / "train_config.json").is_file()


def report(name: str, outcomes: Iterator[bool]) -> bool:
    """Print how many of the outcomes are good; whether all are."""
    started = time.perf_counter()
    results = list(outcomes)
    print(f"{name}: {sum(results)} / {len(results)}  ({time.perf_counter() - started:.0f} s)", flush=True)
    return all(results)


def main() -> None:
    """Count, print, and end with status 1 where a run did not survive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("kills", 25), ("terminations", 5), ("two_process_runs", 0), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)  # threads do not survive a fork
    dice = random.Random(options.seed)
    good = []
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mnist-guided-reliability-")))
        half = options.kills // 2
        kill, term = signal.SIGKILL, signal.SIGTERM
        good.append(report("killed at a random moment", stopped_runs(root, options.kills - half, kill, dice, False)))
        good.append(report("killed while saving", stopped_runs(root, half, kill, dice, True)))
        good.append(report("asked to stop by SIGTERM", stopped_runs(root, options.terminations, term, dice, False)))
        good.append(report("disk full", full_disks(root)))
        good.append(report("two processes end in order", two_process_runs(root, options.two_process_runs)))
    raise SystemExit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
