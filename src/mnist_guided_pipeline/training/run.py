"""A training run, whatever it trains: everything but the mathematics, which stays in the script.

A script makes its networks and a :class:`Run`, and shows its whole loop; ``train_vae.py`` is the shortest.

What an update trains on is keyed by (seed, update), so a run that is stopped at any update and resumed is the run that
never stopped. SIGTERM and Ctrl-C are requests: the update in hand is finished and a checkpoint written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from diffusers import ConfigMixin, ModelMixin
from diffusers.optimization import get_scheduler
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..data.images import LabelledImages
from ..data.points import PointSet
from ..storage.atomic import atomic_write
from ..storage.push import save_result
from .batches import Batches, Draw, Prepare, TrainingStream
from .checkpoints import (
    NonFiniteError,
    TrainingState,
    averaged_weights,
    checkpoint_folders,
    make_ema,
    newest_checkpoint,
)
from .config import TrainingConfig
from .history import log_images, start_trackers

_LOG_EVERY = 50
"""Updates between two readings of loss and speed."""

_WARM_UP, _MEASURED = 5, 20
"""Updates of a dry run that are made and not timed, and that are timed."""


class Learner:
    """A network, as it is saved, with what trains it: fused AdamW, learning rates by update, moving average if any.

    ``model`` is what the training calls: the network, or a module that holds it, prepared by Accelerate.
    """

    def __init__(
        self, config: TrainingConfig, accelerator: Accelerator, network: nn.Module, model: nn.Module, total_updates: int
    ):
        self.accelerator, self.network = accelerator, network
        self.max_grad_norm = config.max_grad_norm
        self.parameters = list(network.parameters())
        optimizer = torch.optim.AdamW(
            self.parameters,
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            weight_decay=config.adam_weight_decay,
            fused=True,
        )
        warm_up = config.warmup_updates(total_updates)
        self.schedule = get_scheduler(
            config.lr_scheduler, optimizer, num_warmup_steps=warm_up, num_training_steps=total_updates
        )
        if accelerator.device.type != "cpu" or accelerator.mixed_precision == "no":
            model.to(memory_format=torch.channels_last)  # the faster order for convolutions, but not for bf16 on CPUs
        self.model, wrapped = accelerator.prepare(model, optimizer)
        # Accelerate's wrapper searches the disk for packages in every step; only gradient scalers and XLA need it
        plain = accelerator.scaler is None and accelerator.distributed_type != DistributedType.XLA
        self.optimizer: torch.optim.Optimizer = wrapped.optimizer if plain else wrapped
        self.ema = make_ema(network, config.ema_decay) if config.use_ema else None

    def step(self) -> Tensor:
        """Clip the gradients, update weights, learning rate and average; the norm that the gradients had, ()."""
        self.accelerator.unscale_gradients()
        if self.max_grad_norm is None:
            norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        else:
            norm = nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        if self.ema:
            self.ema.step(self.parameters)
        return norm


class Run:
    """The updates of a run, and what comes between them: logging, validation, checkpoints, stopping in order.

    Args:
        config: the settings.
        accelerator: of ``make_accelerator``.
        data: the training set; a checkpoint of other examples is refused.
        networks: what is trained, by name; the first one's weights are averaged.
        models: what the training calls in the place of a network of that name, a module that holds it.
        settings: more of what a checkpoint must agree in.

    Attributes:
        learners: a :class:`Learner` per network, by name.
        model: what the training calls, of the first network.

    Raises:
        ValueError: the training set is smaller than one update, or the checkpoint is of other settings.
        IntegrityError: the checkpoint is damaged.
    """

    def __init__(
        self,
        config: TrainingConfig,
        accelerator: Accelerator,
        data: LabelledImages | PointSet,
        networks: dict[str, nn.Module],
        models: Mapping[str, nn.Module] | None = None,
        settings: Mapping[str, Any] | None = None,
    ):
        self.config, self.accelerator = config, accelerator
        self.stream = TrainingStream(
            len(data),
            config.train_batch_size,
            accumulation_steps=config.gradient_accumulation_steps,
            num_processes=accelerator.num_processes,
            process_index=accelerator.process_index,
            seed=config.seed,
        )
        self.total_updates = config.total_updates(self.stream.updates_per_epoch)
        self.learners: dict[str, Learner] = {}
        for name, network in networks.items():
            own = config if not self.learners else dataclasses.replace(config, use_ema=False)
            model = (models or {}).get(name, network)
            self.learners[name] = Learner(own, accelerator, network, model, self.total_updates)
        self._first = next(iter(self.learners.values()))
        self.model = self._first.model
        self.state = TrainingState(
            dataclasses.asdict(config)
            | {"global_batch_size": self.stream.global_batch_size, "data": data.fingerprint}
            | dict(settings or {}),
            networks,
            {name: learner.ema for name, learner in self.learners.items() if learner.ema},
            {name: learner.optimizer for name, learner in self.learners.items()},
            {name: learner.schedule for name, learner in self.learners.items()},
            accelerator.scaler,
        )
        self._parts_left = self._parts = 0
        if config.resume_from_checkpoint:
            folder = self.state.resume(config.output_dir, config.resume_from_checkpoint)
            accelerator.print(f"Resuming from {folder}" if folder else "There is no checkpoint yet: starting afresh")
        accelerator.wait_for_everyone()  # nobody writes a checkpoint before all have looked
        if not config.dry_run:
            start_trackers(accelerator, config.tracker_project_name, dataclasses.asdict(config), self.state.update)

    def batches(
        self, draw: Draw, prepare: Prepare | None = None, part_size: int | None = None
    ) -> Iterator[tuple[Any, ...]]:
        """The micro-batches of this process, of all updates; :meth:`step` follows each. See :class:`Batches`."""
        for parts in self.updates(draw, prepare, part_size):
            self._parts = self._parts_left = len(parts)
            yield from parts

    def updates(
        self, draw: Draw, prepare: Prepare | None = None, part_size: int | None = None
    ) -> Iterator[list[tuple[Any, ...]]]:
        """The micro-batches of this process, update by update; :meth:`log` ends each.

        Afterwards the first network has its averaged weights.

        Raises:
            NonFiniteError: an update was not finite; nothing is saved after it.
            SystemExit: a checkpoint was saved on SIGTERM or Ctrl-C (status 143, 130), or a dry run is over (0).
        """
        batches = Batches(self.stream, self.accelerator.device, self.total_updates, draw, prepare, part_size)
        for learner in self.learners.values():
            learner.network.train()
        self._start = self._last = self.state.update
        self._since = self._timed_from = time.perf_counter()
        self._watched: list[tuple[int, Mapping[str, Tensor]]] = []  # since the last check; on the device, unread
        self._bar = tqdm(
            total=self.total_updates,
            initial=self._start,
            unit="update",
            disable=not self.accelerator.is_local_main_process,
            mininterval=2.0,
        )
        with contextlib.closing(self._bar), StopRequest() as self._stop:
            while self.state.update < self.total_updates:
                yield batches.of(self.state.update)
                self._save_when_due()
        if self._first.ema:
            self._first.ema.copy_to(self._first.parameters)

    def step(self, loss: Tensor, **values: Tensor) -> bool:
        """Backward of a micro-batch's mean loss (); after the last one of an update its step, and True.

        ``values`` () are logged beside the loss.
        """
        cuts = self._parts // self.config.gradient_accumulation_steps
        self.accelerator.backward(loss if cuts == 1 else loss / cuts)
        self._parts_left -= 1
        if self._parts_left:
            return False
        norm = self._first.step()
        self.log({"loss": loss, **values}, {"grad_norm": norm})
        return True

    def log(self, values: Mapping[str, Tensor], norms: Mapping[str, Tensor]) -> None:
        """Count an update and log its values and gradient norms, each (); the names of the latter end in grad_norm.

        Values are read from the device every 50 updates, and then are those of all processes; the first is shown. Any
        that is not finite is a NonFiniteError.
        """
        self.state.update += 1
        update = self.state.update
        self._bar.update(1)
        if update - self._start == _WARM_UP:
            self._timed_from = time.perf_counter()
        values = {name: value.detach() for name, value in values.items()}
        # fp16 overflows now and then: the scaler then skips the step
        self._watched.append((update, values if self.accelerator.scaler else {**values, **norms}))
        values |= norms
        if update % _LOG_EVERY and update != self.total_updates:
            return
        self.check_finite()
        means = self.accelerator.reduce(torch.stack(list(values.values())).float(), "mean").tolist()
        readings = dict(zip(values, means, strict=True))
        now = time.perf_counter()
        seconds = max(now - self._since, 1e-9) / (update - self._last)
        speed = self.stream.global_batch_size / seconds
        self._since, self._last = now, update
        self._bar.set_postfix({next(iter(values)): f"{means[0]:.4g}", "images/s": f"{speed:,.0f}"}, refresh=False)
        rate = self._first.schedule.get_last_lr()[0]
        measured = {"lr": rate, "images_per_second": speed, "seconds_per_update": seconds}
        self.accelerator.log({**readings, **measured}, step=update)

    def check_finite(self) -> None:
        """Stop where an update since the last check was not finite, naming it and what there is to go back to."""
        watched, self._watched = self._watched, []
        if not watched:
            return
        table = torch.stack([torch.stack([value.float() for value in values.values()]) for _, values in watched])
        finite = table.isfinite().all(dim=1).tolist()
        if all(finite):
            return
        update, values = watched[row := finite.index(False)]
        readings = ", ".join(f"{name} {value:g}" for name, value in zip(values, table[row].tolist(), strict=True))
        folder = self.config.output_dir
        saved = f"The last checkpoint is {newest_checkpoint(folder)}." if checkpoint_folders(folder) else ""
        raise NonFiniteError(
            f"Update {update} is not finite: {readings}. A lower learning_rate, a longer warm-up or mixed_precision "
            f"bf16 or no may help. {saved or 'There is no checkpoint before it.'}"
        )

    def validate(self, measure: Callable[[], dict[str, float | Tensor]]) -> None:
        """Every ``validation_steps`` updates, and after the last: measure the averaged weights, log and print.

        ``measure`` returns values, and pictures uint8 (N, H, W) or (N, 3, H, W), by name.
        """
        update = self.state.update
        if update % (self.config.validation_steps or self.stream.updates_per_epoch) and update != self.total_updates:
            return
        with averaged_weights(self._first.ema, self._first.network):
            found = measure()
        values = {name: value for name, value in found.items() if not isinstance(value, Tensor)}
        self.accelerator.log(values, step=update)
        for name, pictures in found.items():
            if isinstance(pictures, Tensor):
                log_images(self.accelerator, name, pictures, update)
        self._write(f"update {update}: " + ", ".join(f"{name} {value:.4f}" for name, value in values.items()))

    def finish(self, network: ModelMixin, started_from: Mapping[str, str] | None = None, **beside: ConfigMixin) -> None:
        """Save a network in ``output_dir``, others in folders of their names, with settings and manifest; and push.

        ``started_from`` is, by name, where networks came from that were trained on: the settings of that training are
        kept as ``<name>_train_config.json``, for one of ``beside`` in its folder and with those of this run.
        """
        if not self.accelerator.is_main_process:
            return
        folder, settings = Path(self.config.output_dir), self.config.to_json()
        network.save_pretrained(folder)
        for name, part in beside.items():
            part.save_pretrained(folder / name)
        for name, start in (started_from or {}).items():
            place = folder
            if name in beside:
                place = folder / name
                atomic_write(place / "train_config.json", settings)
            for recipe in (Path(start, "train_config.json"), Path(start, name, "train_config.json")):
                if recipe.is_file():
                    atomic_write(place / f"{name}_train_config.json", recipe.read_text(encoding="utf-8"))
        save_result(self.config, settings)

    def _save_when_due(self) -> None:
        """Save a checkpoint every ``checkpointing_steps`` updates, and on a request to stop, which ends the program."""
        config, update = self.config, self.state.update
        if config.dry_run:
            if update - self._start == _WARM_UP + _MEASURED or update == self.total_updates:
                self._write(self._estimate())
                raise SystemExit(0)
            return
        stop = self._asked_to_stop()
        if not stop and (config.checkpointing_steps is None or update % config.checkpointing_steps):
            return
        self.check_finite()
        if self.accelerator.is_main_process:
            folder = self.state.save(config.output_dir, config.checkpoints_total_limit)
            if stop:
                option = "" if config.resume_from_checkpoint == "latest" else " with --resume_from_checkpoint latest"
                name = signal.Signals(stop).name
                self._write(f"Stopped by {name}, saved {folder}. Go on by the same command{option}.")
        if stop:
            raise SystemExit(128 + stop)

    def _asked_to_stop(self) -> int:
        """The signal that any process has received, or 0; several processes agree on it every tenth update."""
        if self.accelerator.num_processes == 1:
            return self._stop.received
        if self.state.update % 10:
            return 0
        received = torch.tensor([self._stop.received], device=self.accelerator.device)
        return int(self.accelerator.gather(received).max())

    def _estimate(self) -> str:
        """Memory and time of the run, from a dry run."""
        seconds = (time.perf_counter() - self._timed_from) / max(1, self.state.update - self._start - _WARM_UP)
        updates = self.total_updates - self._start
        sizes = {name: sum(p.numel() for p in learner.parameters) for name, learner in self.learners.items()}
        lines = [f"{name}: {size:,} parameters" for name, size in sizes.items()]
        lines += [f"memory of the process, with data and libraries: {psutil.Process().memory_info().rss / 1e6:,.0f} MB"]
        if self.accelerator.device.type == "cuda":
            lines += [f"peak on the device: {torch.cuda.max_memory_allocated() / 1e6:,.0f} MB"]
        lines += [
            f"time: {seconds * 1e3:.1f} ms an update here and now, so {updates:,} updates take "
            f"{seconds * updates / 60:.1f} min, without validation and saving"
        ]
        return "\n".join(lines)

    def _write(self, line: str) -> None:
        """Print a line above the bar."""
        if self.accelerator.is_main_process:
            tqdm.write(line)


class StopRequest:
    """Turns SIGTERM, which schedulers of shared machines send, and Ctrl-C into a number that a loop reads.

    A second Ctrl-C stops at once.

    Attributes:
        received: the last signal's number, 0 before any.
    """

    def __init__(self) -> None:
        self.received = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # only there can signals be handled
            self._previous = {
                number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)
            }
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
