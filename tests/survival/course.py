"""A training that is made once without a stop, and may then be made again under whatever stops it.

The processes run the script's own ``launch``, as a user does. Another training survives where, resumed until it ends,
it has the weights, averages and moments of the first one, bit for bit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from mnist_guided_pipeline.training.checkpoints import TrainingState
from mnist_guided_pipeline.training.launch import launch
from training_runs import make_config, weights

from .processes import fork_ranks, wait

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

    def __init__(
        self,
        root: Path,
        name: str = "denoiser",
        data: str = POINTS,
        *,
        processes: int = 1,
        accumulation: int = 1,
        **changes: Any,
    ):
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

        def task() -> None:
            before()
            self.run(folder)

        return fork_ranks(task, self.log, self.processes)

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
