"""What every training script does beside its updates: show them, watch over them, save checkpoints, stop in order."""

from __future__ import annotations

import time
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from .checkpoints import TrainingState, checkpoint_folders, newest_checkpoint
from .config import TrainingConfig
from .safeguards import FiniteWatch, StopRequest

__all__ = ["Progress", "checkpoint_when_due"]

_WARM_UP = 5
_MEASURED = 20
"""Updates of a dry run that are made and not timed, and that are timed."""


class Progress:
    """A progress bar over updates that shows and logs the loss and the images a second.

    Values are read from the device only when they are shown, and then are those of all processes. A run whose loss or
    gradient is not finite stops there. From here on SIGTERM is a request, see :func:`checkpoint_when_due`.

    Args:
        accelerator: for trackers and the main process.
        total_updates: length of the bar.
        start: update to start from.
        images_per_update: size of the global batch.
        log_every: updates between two readings.
    """

    def __init__(
        self, accelerator: Accelerator, total_updates: int, start: int, images_per_update: int, log_every: int = 50
    ):
        self.accelerator = accelerator
        self.images_per_update = images_per_update
        self.log_every = log_every
        self.bar = tqdm(
            total=total_updates,
            initial=start,
            unit="update",
            disable=not accelerator.is_local_main_process,
            mininterval=2.0,
        )
        self.start = start
        self._timed_from = time.perf_counter()
        self._stop = StopRequest()
        self._finite = FiniteWatch()
        self._since = time.perf_counter()
        self._last = start

    def update(self, step: int, values: dict[str, Any]) -> None:
        """Advance to ``step`` updates made; ``values`` are scalars or 0-d tensors, or None; the first of them is shown.

        Raises:
            NonFiniteError: an update since the last reading was not finite.
        """
        self.bar.update(step - self.bar.n)
        values = {name: value for name, value in values.items() if value is not None}
        if step - self.start == _WARM_UP:
            self._timed_from = time.perf_counter()
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        self._finite.watch(
            step,
            # fp16 overflows now and then: the scaler then skips the step
            {name: value for name, value in tensors.items() if not (self.accelerator.scaler and "norm" in name)},
        )
        if step % self.log_every and step != self.bar.total:
            return
        self.check_finite()
        means = self.accelerator.reduce(torch.stack(list(tensors.values())).detach().float(), "mean").tolist()
        readings = values | dict(zip(tensors, means, strict=True))
        now = time.perf_counter()
        speed = (step - self._last) * self.images_per_update / max(now - self._since, 1e-9)
        self._since, self._last = now, step
        first = next(iter(readings))
        self.bar.set_postfix({first: f"{readings[first]:.4g}", "images/s": f"{speed:,.0f}"}, refresh=False)
        self.accelerator.log({**readings, "images_per_second": speed}, step=step)

    def check_finite(self) -> None:
        """Stop where an update so far was not finite, naming it and what there is to go back to."""
        folder = str(self.accelerator.project_dir)
        saved = checkpoint_folders(folder)
        self._finite.check(
            "A lower learning_rate, a longer warm-up or mixed_precision bf16 or no may help. "
            + (f"The last checkpoint is {newest_checkpoint(folder)}." if saved else "There is no checkpoint before it.")
        )

    def asked_to_stop(self, step: int) -> bool:
        """Whether any process has received SIGTERM; several processes agree on it every tenth update."""
        if self.accelerator.num_processes == 1:
            return self._stop.received
        if step % 10:
            return False
        received = torch.tensor(float(self._stop.received), device=self.accelerator.device)
        return self.accelerator.reduce(received, "sum").item() > 0

    def seconds_per_update(self, step: int) -> float:
        """Mean over the updates made up to ``step``, without the first few."""
        return (time.perf_counter() - self._timed_from) / max(1, step - self.start - _WARM_UP)

    def write(self, line: str) -> None:
        """Print a line above the bar."""
        if self.accelerator.is_main_process:
            tqdm.write(line)

    def close(self) -> None:
        """End the bar."""
        self._stop.release()
        self.bar.close()


def checkpoint_when_due(
    config: TrainingConfig, accelerator: Accelerator, state: TrainingState, progress: Progress
) -> None:
    """Save a checkpoint every ``checkpointing_steps`` updates, and on SIGTERM, which then ends the program.

    A dry run saves nothing, and ends after some updates with what they took.

    Raises:
        NonFiniteError: an update since the last reading was not finite; nothing is saved.
        SystemExit: with status 0, after SIGTERM or at the end of a dry run.
    """
    if config.dry_run:
        if state.update - progress.start == _WARM_UP + _MEASURED or state.update == progress.bar.total:
            progress.close()
            progress.write(_estimate(state, progress))
            raise SystemExit(0)
        return
    stop = progress.asked_to_stop(state.update)
    if not stop and (config.checkpointing_steps is None or state.update % config.checkpointing_steps):
        return
    progress.check_finite()
    folder = state.save(config.output_dir, config.checkpoints_total_limit, write=accelerator.is_main_process)
    if stop:
        if accelerator.is_main_process:
            option = "" if config.resume_from_checkpoint == "latest" else " with --resume_from_checkpoint latest"
            progress.write(f"Stopped by SIGTERM, saved {folder}. Go on by the same command{option}.")
        progress.close()
        raise SystemExit(0)


def _estimate(state: TrainingState, progress: Progress) -> str:
    """Memory and time of the run, from a dry run."""
    counts = {name: sum(p.numel() for p in network.parameters()) for name, network in state.networks.items()}
    held = {
        group: sum(t.numel() * t.element_size() for t in tensors) / 1e6 for group, tensors in state.tensors().items()
    }
    seconds = progress.seconds_per_update(state.update)
    updates = progress.bar.total - progress.start
    lines = [f"{name}: {count:,} parameters" for name, count in counts.items()]
    lines += [", ".join(f"{group} {size:.1f} MB" for group, size in held.items()) + ", in every process"]
    lines += [f"memory of the process, with data and libraries: {psutil.Process().memory_info().rss / 1e6:,.0f} MB"]
    if progress.accelerator.device.type == "cuda":
        lines += [f"peak on the device: {torch.cuda.max_memory_allocated() / 1e6:,.0f} MB"]
    lines += [
        f"time: {seconds * 1e3:.1f} ms an update here and now, so {updates:,} updates take "
        f"{seconds * updates / 60:.1f} min, without validation and saving"
    ]
    return "\n".join(lines)
