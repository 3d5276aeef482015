"""Training state on disk: save, rotate, find the latest, resume; and the average of the weights.

A checkpoint is a folder ``checkpoint-<update>`` of safetensors and JSON, written atomically with a manifest. It holds
the weights, their moving average, the optimizer's moments, the learning-rate schedule and one integer, the number of
updates made. That is all: which examples and which noise come next follow from that integer (``streams``). No pickle
is written or read.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .atomic import IntegrityError, atomic_folder, verify_manifest

__all__ = ["TrainingState", "averaged_weights", "checkpoint_folders", "make_ema"]

logger = logging.getLogger(__name__)

_NAME = re.compile(r"checkpoint-(\d+)")


def make_ema(model: nn.Module, decay: float) -> EMAModel:
    """An average in float32 whose decay warms up, so that short runs are averaged sensibly too."""
    return EMAModel(model.parameters(), decay=decay, use_ema_warmup=True, power=0.75, foreach=True)


@contextlib.contextmanager
def averaged_weights(ema: EMAModel | None, model: nn.Module) -> Iterator[None]:
    """Put the averaged weights into ``model`` for the block; the trained ones come back even after an error."""
    if ema is None:
        yield
        return
    ema.store(model.parameters())
    ema.copy_to(model.parameters())
    try:
        yield
    finally:
        ema.restore(model.parameters())


def checkpoint_folders(output_dir: str | Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    return sorted(folders, key=_update_of)


class TrainingState:
    """Everything a run needs to go on: networks, averages, optimizers, schedules, and the update it stands at.

    Args:
        settings: the run's settings; a checkpoint made with others is refused.
        networks: by name, unwrapped.
        emas: moving averages, by the name of their network.
        optimizers: by name.
        lr_schedulers: by name.
        scaler: the gradient scaler of fp16 training, if any.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        networks: dict[str, nn.Module],
        emas: dict[str, EMAModel] | None = None,
        optimizers: dict[str, torch.optim.Optimizer] | None = None,
        lr_schedulers: dict[str, Any] | None = None,
        scaler: Any | None = None,
    ):
        self.settings = settings
        self.networks = networks
        self.emas = emas or {}
        self.optimizers = optimizers or {}
        self.lr_schedulers = lr_schedulers or {}
        self.scaler = scaler
        self.update = 0

    def save(self, output_dir: str | Path, total_limit: int | None = None) -> Path:
        """Write ``checkpoint-<update>``, then remove the oldest beyond ``total_limit``."""
        folder = Path(output_dir) / f"checkpoint-{self.update}"
        with atomic_folder(folder) as partial:
            for name, network in self.networks.items():
                save_file(_contiguous(network.state_dict()), partial / f"{name}.safetensors")
            scalars: dict[str, Any] = {"update": self.update, "settings": self.settings, "optimizers": {}, "emas": {}}
            for name, ema in self.emas.items():
                state = ema.state_dict()
                shadow = state.pop("shadow_params")
                state.pop("temp_stored_params", None)
                save_file(
                    {str(i): tensor.contiguous() for i, tensor in enumerate(shadow)},
                    partial / f"{name}.ema.safetensors",
                )
                scalars["emas"][name] = state
            for name, optimizer in self.optimizers.items():
                tensors, groups = _split_optimizer(optimizer.state_dict())
                save_file(tensors, partial / f"{name}.optimizer.safetensors")
                scalars["optimizers"][name] = groups
            scalars["lr_schedulers"] = {name: schedule.state_dict() for name, schedule in self.lr_schedulers.items()}
            scalars["scaler"] = self.scaler.state_dict() if self.scaler is not None else None
            (partial / "state.json").write_text(json.dumps(scalars, indent=2) + "\n")
        if total_limit is not None:
            for old in checkpoint_folders(output_dir)[:-total_limit]:
                shutil.rmtree(old, ignore_errors=True)
        return folder

    def resume(self, output_dir: str | Path, which: str) -> Path | None:
        """Load a checkpoint.

        Args:
            output_dir: the run's folder.
            which: ``"latest"`` for the newest whole one (damaged ones are named and skipped), or a path.

        Returns:
            The checkpoint, or None where ``"latest"`` finds none.

        Raises:
            IntegrityError: the named checkpoint is damaged.
            ValueError: the checkpoint was made with other settings.
        """
        candidates = checkpoint_folders(output_dir)[::-1] if which == "latest" else [Path(which)]
        for folder in candidates:
            try:
                if not verify_manifest(folder):
                    raise IntegrityError(f"{folder} has no manifest: it is not a whole checkpoint.")
            except IntegrityError as error:
                if which != "latest":
                    raise
                logger.warning("Skipping a damaged checkpoint: %s", error)
                continue
            self._load(folder)
            return folder
        return None

    def _load(self, folder: Path) -> None:
        scalars = json.loads((folder / "state.json").read_text())
        _compare_settings(folder, scalars["settings"], self.settings)
        for name, network in self.networks.items():
            network.load_state_dict(load_file(folder / f"{name}.safetensors"))
        for name, ema in self.emas.items():
            shadow = load_file(folder / f"{name}.ema.safetensors")
            tensors = [shadow[str(i)].to(old.device) for i, old in enumerate(ema.shadow_params)]
            ema.load_state_dict({**scalars["emas"][name], "shadow_params": tensors})
        for name, optimizer in self.optimizers.items():
            tensors = load_file(folder / f"{name}.optimizer.safetensors")
            optimizer.load_state_dict(_join_optimizer(tensors, scalars["optimizers"][name]))
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
    "report_to",
    "logging_dir",
    "cache_dir",
    "dry_run",
    "max_eval_samples",
}


def _compare_settings(folder: Path, saved: dict[str, Any], current: dict[str, Any]) -> None:
    for name in sorted(saved.keys() | current.keys()):
        if name not in _FREE_SETTINGS and saved.get(name) != current.get(name):
            raise ValueError(
                f"{folder} was made with {name} = {saved.get(name)!r}, this run has {current.get(name)!r}. Resume with "
                "the same settings, or start afresh in another output_dir."
            )


def _update_of(folder: Path) -> int:
    match = _NAME.fullmatch(folder.name)
    return int(match.group(1)) if match else -1


def _contiguous(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in state.items()}


def _split_optimizer(state: dict[str, Any]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """An optimizer's state as named tensors and JSON-able groups."""
    tensors = {
        f"{index}.{key}": value.detach().contiguous()
        for index, entries in state["state"].items()
        for key, value in entries.items()
    }
    return tensors, state["param_groups"]


def _join_optimizer(tensors: dict[str, Tensor], groups: list[dict[str, Any]]) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    return {"state": state, "param_groups": groups}
