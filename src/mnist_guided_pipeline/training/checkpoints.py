"""Training state on disk: save, rotate, find the latest, resume; and the average of the weights.

A checkpoint is a folder ``checkpoint-<update>`` of safetensors and JSON, written atomically with a manifest. It holds
the weights, their moving average, the optimizer's moments, the learning-rate schedule and one integer, the number of
updates made. That is all: which examples and which noise come next follow from that integer (``batches``). No pickle
is written or read.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..storage.atomic import IntegrityError, atomic_folder, verify_manifest

logger = logging.getLogger(__name__)

_NAME = re.compile(r"checkpoint-(\d+)")


class NonFiniteError(ArithmeticError):
    """A loss, a gradient or a weight is infinite or not a number."""


class MovingAverage(EMAModel):
    """diffusers' average, updated in one pass over the weights: a third of the time, the same numbers."""

    @torch.no_grad()
    def step(self, parameters: Iterable[nn.Parameter]) -> None:
        """Move the average towards ``parameters``; those that are not trained are already there."""
        self.optimization_step += 1
        self.cur_decay_value = self.get_decay(self.optimization_step)
        torch._foreach_lerp_(self.shadow_params, list(parameters), 1 - self.cur_decay_value)


def make_ema(model: nn.Module, decay: float) -> EMAModel:
    """An average in float32 whose decay warms up, so that short runs are averaged sensibly too."""
    return MovingAverage(model.parameters(), decay=decay, use_ema_warmup=True, power=0.75, foreach=True)


@contextlib.contextmanager
def averaged_weights(ema: EMAModel | None, model: nn.Module) -> Iterator[None]:
    """The averaged weights in ``model`` for the block; the trained ones come back even after an error."""
    parameters = list(model.parameters())
    if ema is None:
        yield
        return
    ema.store(parameters)
    ema.copy_to(parameters)
    try:
        yield
    finally:
        ema.restore(parameters)


def checkpoint_folders(output_dir: str | Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    return sorted(folders, key=update_of)


def update_of(checkpoint: Path) -> int:
    """The updates made when a checkpoint was saved, from its name; -1 where the name does not say it."""
    match = _NAME.fullmatch(checkpoint.name)
    return int(match.group(1)) if match else -1


def newest_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest whole checkpoint of a run; those that are damaged are named in a warning.

    If all of them are damaged, that is an IntegrityError.
    """
    folders = checkpoint_folders(output_dir)
    for folder in reversed(folders):
        try:
            _verify(folder)
        except IntegrityError as error:
            logger.warning("Skipping a damaged checkpoint: %s", error)
        else:
            return folder
    if folders:
        raise IntegrityError(
            f"None of the checkpoints in {str(output_dir)!r} is whole: {', '.join(folder.name for folder in folders)}. "
            "Remove them to start afresh."
        )
    return None


@dataclass
class TrainingState:
    """Everything a run needs to go on: networks, averages, optimizers, schedules, by name, and the update it stands at.

    A checkpoint that was made with other ``settings`` is refused; the averages have the names of their networks.
    """

    settings: dict[str, Any]
    networks: dict[str, nn.Module]
    emas: dict[str, EMAModel] = field(default_factory=dict)
    optimizers: dict[str, torch.optim.Optimizer] = field(default_factory=dict)
    lr_schedulers: dict[str, Any] = field(default_factory=dict)
    scaler: Any | None = None
    update: int = 0

    def save(self, output_dir: str | Path, total_limit: int | None = None) -> Path:
        """Write ``checkpoint-<update>``, then remove the oldest beyond ``total_limit``, and what killed runs left.

        Raises:
            NonFiniteError: a tensor of the state is not finite; nothing is written.
            OSError: it could not be written; earlier checkpoints are as they were.
        """
        files, scalars = self._collect()
        for name, tensors in files.items():
            for key, tensor in tensors.items():
                if tensor.is_floating_point() and not tensor.isfinite().all():
                    raise NonFiniteError(f"{key} of {name} is not finite at update {self.update}; it was not saved.")
        folder = Path(output_dir) / f"checkpoint-{self.update}"
        try:
            with atomic_folder(folder) as partial:
                for name, tensors in files.items():
                    save_file(tensors, partial / f"{name}.safetensors")
                (partial / "state.json").write_text(json.dumps(scalars, indent=2) + "\n", encoding="utf-8")
        except (OSError, SafetensorError) as error:
            raise OSError(f"{folder} could not be saved: {error}. Earlier checkpoints are as they were.") from error
        if total_limit is not None:  # later ones are of a run that went on from here before
            past = [old for old in checkpoint_folders(output_dir) if update_of(old) <= self.update]
            for old in past[:-total_limit]:
                shutil.rmtree(old, ignore_errors=True)
        for left in Path(output_dir).glob(".checkpoint-*.partial"):
            shutil.rmtree(left, ignore_errors=True)
        return folder

    def resume(self, output_dir: str | Path, which: str) -> Path | None:
        """Load the checkpoint of a path, or ``"latest"``, the newest whole one (:func:`newest_checkpoint`), if any.

        One that is damaged is an IntegrityError, one that was made with other settings a ValueError.
        """
        folder = newest_checkpoint(output_dir) if which == "latest" else Path(which)
        if folder is None:
            return None
        tensors, scalars = _verify(folder)
        _compare_settings(folder, scalars["settings"], self.settings)
        try:
            self._load(tensors, scalars)
        except (LookupError, RuntimeError) as error:
            raise IntegrityError(f"{folder} does not hold the state of this run: {error}", folder) from error
        return folder

    def _collect(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """The state as tensors, by file and name, and as what JSON can hold."""
        scalars: dict[str, Any] = {"update": self.update, "settings": self.settings, "optimizers": {}, "emas": {}}
        files = {name: _contiguous(network.state_dict()) for name, network in self.networks.items()}
        for name, ema in self.emas.items():
            state = ema.state_dict()
            shadow = state.pop("shadow_params")
            state.pop("temp_stored_params", None)
            files[f"{name}.ema"] = _contiguous({str(i): tensor for i, tensor in enumerate(shadow)})
            scalars["emas"][name] = state
        for name, optimizer in self.optimizers.items():
            state = optimizer.state_dict()
            moments = {f"{i}.{key}": value for i, entries in state["state"].items() for key, value in entries.items()}
            files[f"{name}.optimizer"] = _contiguous(moments)
            scalars["optimizers"][name] = state["param_groups"]
        scalars["lr_schedulers"] = {name: schedule.state_dict() for name, schedule in self.lr_schedulers.items()}
        scalars["scaler"] = self.scaler.state_dict() if self.scaler is not None else None
        return files, scalars

    def _load(self, files: dict[str, dict[str, Tensor]], scalars: dict[str, Any]) -> None:
        for name, network in self.networks.items():
            network.load_state_dict(files[name])
        for name, ema in self.emas.items():
            shadow = files[f"{name}.ema"]
            tensors = [_like(old, shadow[str(index)]) for index, old in enumerate(ema.shadow_params)]
            ema.load_state_dict({**scalars["emas"][name], "shadow_params": tensors})
        for name, optimizer in self.optimizers.items():
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            moments = _join_optimizer(files[f"{name}.optimizer"], parameters)
            optimizer.load_state_dict({"state": moments, "param_groups": scalars["optimizers"][name]})
        for name, schedule in self.lr_schedulers.items():
            schedule.load_state_dict(scalars["lr_schedulers"][name])
        if self.scaler is not None and scalars["scaler"] is not None:
            self.scaler.load_state_dict(scalars["scaler"])
        self.update = scalars["update"]


_FREE_SETTINGS = {  # may differ between a run and its continuation
    "output_dir",
    "resume_from_checkpoint",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "validation_steps",
    "num_validation_images",
    "report_to",
    "cache_dir",
    "push_to_hub",
    "hub_model_id",
    "hub_private_repo",
    "tracker_project_name",
    "force",
    "dry_run",
    "max_eval_samples",
    "train_batch_size",  # only their product with the number of processes matters, global_batch_size
    "gradient_accumulation_steps",
}


def _compare_settings(folder: Path, saved: dict[str, Any], current: dict[str, Any]) -> None:
    for name in sorted(current):  # what only the checkpoint has are settings of earlier versions
        if name == "data" and name not in saved:
            continue  # a checkpoint of an earlier version
        if name not in _FREE_SETTINGS and saved.get(name) != current[name]:
            raise ValueError(
                f"{folder} was made with {name} = {saved.get(name)!r}, this run has {current[name]!r}. Resume with "
                "the same settings, or start afresh in another output_dir."
            )


def _verify(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The tensors by file and the scalars of a checkpoint; an IntegrityError if it is damaged, or none."""
    if not verify_manifest(folder):
        raise IntegrityError(f"{folder} has no manifest: it is not a whole checkpoint.", folder)
    file = folder / "state.json"
    try:
        scalars = json.loads(file.read_text(encoding="utf-8"))
        if update_of(folder) not in (-1, scalars["update"]):
            raise ValueError(f"it is of update {scalars['update']}")
        tensors = {}
        for file in sorted(folder.glob("*.safetensors")):
            tensors[file.name.removesuffix(".safetensors")] = load_file(file)
    except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
        raise IntegrityError(f"{file} cannot be read: {error}", file) from error
    return tensors, scalars


def _contiguous(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in state.items()}


def _join_optimizer(tensors: dict[str, Tensor], parameters: list[Tensor]) -> dict[int, dict[str, Tensor]]:
    """An optimizer's state from named tensors."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        moment = tensor.shape == parameter.shape  # the other is the number of steps
        state.setdefault(int(index), {})[key] = _like(parameter, tensor) if moment else tensor
    return state


def _like(place: Tensor, tensor: Tensor) -> Tensor:
    """A tensor in the memory format and on the device of another of its shape."""
    return torch.empty_like(place).copy_(tensor)
