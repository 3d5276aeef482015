"""A training that is made once without a stop, and may then be made again under whatever stops it.

Its processes are forked from this one, which has everything imported, so that they start at once and a kill costs next
to nothing, and run the script's own ``launch``, as a user does. Another training survives where, resumed until it ends,
it has the weights, averages and moments of the first one, bit for bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState
from safetensors import SafetensorError
from tqdm.auto import tqdm

from mnist_guided_pipeline.training.checkpoints import TrainingState
from mnist_guided_pipeline.training.launch import launch
from training_runs import make_config, weights

PATIENCE = 60  # seconds for a process to end after SIGTERM; torchrun gives 30, on a machine that is not busy
DEADLINE = 400  # seconds after which a run counts as hanging
HANGS = 1000  # exit status that stands for a process that had to be killed
POINTS = "points:moons"  # no files, so that a run is nothing but updates and saving
POINT_SETTINGS = {  # all that has a state or draws random numbers: dropped labels, an average, a warm-up
    "network": "ResidualMLPDenoiser",
    "network_config": '{"hidden_size": 64, "num_layers": 1, "condition_dim": 16, "num_classes": 2}',
    "label_dropout": 0.2,
    "max_train_steps": 100,
    "checkpointing_steps": 7,
}


class Course:
    """A training, its result, and how long it takes.

    Args:
        root: folder for all its runs.
        name: of the script.
        data: ``dataset_name``.
        processes: that train together; the global batch is the same for any number.
        accumulation: batches of an update.
        changes: settings that differ from those of ``training_runs``.
    """

    def __init__(self, root, name="denoiser", data=POINTS, *, processes=1, accumulation=1, **changes: Any):
        self.root, self.name, self.data, self.processes = root, name, data, processes
        self.settings = POINT_SETTINGS if data == POINTS else {}
        self.settings = self.settings | {"gradient_accumulation_steps": accumulation} | changes
        self.settings |= {"train_batch_size": 8 // (processes * accumulation), "resume_from_checkpoint": "latest"}
        self.reference, self.log = root / "reference", root / "log"
        root.mkdir()
        started = time.perf_counter()
        assert wait(self.start(self.reference)) == [0] * processes, self.log.read_text()
        self.duration = time.perf_counter() - started
        self.expected = digest(self.reference)

    def run(self, folder: Path) -> None:
        """The script with this course's settings, in this process."""
        config = make_config(self.name, self.data, folder, **self.settings)
        values = {field.name: (getattr(config, field.name), field.default) for field in dataclasses.fields(config)}
        flags = [f"--{name}={value}" for name, (value, default) in values.items() if value != default]
        script = importlib.import_module(f"train_{self.name}")
        sys.argv = [str(script.__file__), *flags]
        launch(type(config), script.main)

    def start(self, folder: Path, before: Callable[[], None] = lambda: None) -> list[int]:
        """Start or resume a run; ``before`` is done in its processes first. Their ids by rank."""
        self.log.unlink(missing_ok=True)
        ranks: list[dict[str, str]] = [{}]
        if self.processes > 1:  # what torchrun says to each
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
            common |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(self.processes))
            common |= {"ACCELERATE_USE_CPU": "true"}
            ranks = [common | dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)) for rank in range(self.processes)]

        def task(environment: dict[str, str]) -> None:
            if environment:
                AcceleratorState._reset_state(reset_partial_state=True)  # the parent's was of one process
                os.environ |= environment
            before()
            self.run(folder)

        return [fork(lambda: task(environment), self.log) for environment in ranks]  # noqa: B023 - called at once

    def equals(self, folder: Path) -> bool:
        """Whether a run has come to the end of this one."""
        try:
            return (folder / "train_config.json").is_file() and digest(folder) == self.expected
        except SafetensorError:
            return False

    def goes_on(self, folder: Path) -> bool:
        """Whether a run that was stopped, resumed, comes to the end of this one."""
        return not any(wait(self.start(folder))) and self.equals(folder)


def digest(folder: Path) -> str:
    """SHA-256 of a run's result and last checkpoint: weights, averages and moments."""
    total = hashlib.sha256()
    for name, tensor in weights(folder).items():
        total.update(name.encode() + tensor.numpy().tobytes())
    return total.hexdigest()


def after_saving(update: int, action: Callable[[], object]) -> None:
    """From here on, let something happen in the process that saves as soon as the checkpoint of an update stands."""
    save = TrainingState.save

    def save_and_act(state: TrainingState, *arguments: Any, **options: Any) -> Path:
        folder = save(state, *arguments, **options)
        if state.update == update:
            action()
        return folder

    TrainingState.save = save_and_act


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
        tqdm.set_lock(threading.RLock())  # the default is shared by forked processes, and one that is killed keeps it
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


def wait(children: list[int]) -> list[int]:
    """Exit statuses by rank, negative for a signal; none is waited for in vain.

    As torchrun does it: where one fails the others are sent SIGTERM, and SIGKILL where that does not end them.
    """
    statuses: dict[int, int] = {}
    asked, until = False, time.monotonic() + DEADLINE
    while left := [child for child in children if child not in statuses]:
        for child in left:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                statuses[child] = os.waitstatus_to_exitcode(status)
        left = [child for child in left if child not in statuses]
        late = time.monotonic() > until
        if left and not asked and (any(statuses.values()) or late):
            send(signal.SIGTERM, left)
            asked, until = True, time.monotonic() + PATIENCE
        elif left and late:
            send(signal.SIGKILL, left)
            statuses |= {child: HANGS for child in left if os.waitpid(child, 0)}
        time.sleep(0.005)
    return [statuses[child] for child in children]


def send(number: signal.Signals, children: list[int]) -> None:
    """Send a signal to processes, of which some may have ended."""
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
