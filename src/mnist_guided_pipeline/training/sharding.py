"""Training under FSDP2: between two passes every process keeps its shard of the weights, gradients and moments.

The scripts keep the plain network beside the prepared one. Its parameters are then shards (``DTensor``), which only
passes through the prepared model make whole; all else that reads them (clipping, averages, validation, files) is here
or in ``checkpoints``. A second derivative must be taken within one forward pass of the model, as the whole weights are
gone after every backward pass, also after that of ``torch.autograd.grad``.

Source: https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, DynamoBackend, FullyShardedDataParallelPlugin
from accelerate.utils.environment import parse_flag_from_env
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["clip_gradients", "local", "prepare", "shard_like", "start_sharding", "whole"]


def start_sharding(accelerator: Accelerator) -> None:
    """Follow a launcher that asks for FSDP: on CPUs, where Accelerate does not, and with weights kept in float32.

    Raises:
        ValueError: it asks for more than ``training/accelerate/fsdp.yaml`` does.
    """
    if not parse_flag_from_env("ACCELERATE_USE_FSDP") or accelerator.distributed_type == DistributedType.NO:
        return
    plugin = FullyShardedDataParallelPlugin()
    asked = {
        "fsdp_version": plugin.fsdp_version == 2,
        "fsdp_auto_wrap_policy": plugin.auto_wrap_policy is None,
        "fsdp_offload_params": not isinstance(plugin.cpu_offload, CPUOffloadPolicy),
        "fsdp_activation_checkpointing": not plugin.activation_checkpointing,
        "fsdp_cpu_ram_efficient_loading": not plugin.cpu_ram_efficient_loading,
        "mixed_precision (fp16)": accelerator.mixed_precision != "fp16",
        "torch_compile": accelerator.state.dynamo_plugin.backend == DynamoBackend.NO,
    }
    if wrong := [name for name, supported in asked.items() if not supported]:
        raise ValueError(
            f"FSDP is supported as training/accelerate/fsdp.yaml asks for it, but not with this {', '.join(wrong)}."
        )
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")  # none is changed in place
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin


def prepare(accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
    """``accelerator.prepare`` of one model and its optimizer.

    The optimizer comes back without Accelerate's wrapper, which searches the disk for packages in every step, where
    it has nothing to do there: in training without a gradient scaler.
    """
    if accelerator.distributed_type == DistributedType.FSDP:
        model = _Shell(model)
    elif accelerator.device.type != "cpu" or accelerator.mixed_precision == "no":
        model.to(memory_format=torch.channels_last)  # the faster order for convolutions, but not for bf16 on CPUs
    model, wrapped = accelerator.prepare(model, optimizer)
    plain = accelerator.scaler is None and accelerator.distributed_type != DistributedType.XLA
    return model, wrapped.optimizer if plain else wrapped


def clip_gradients(accelerator: Accelerator, parameters: Iterable[nn.Parameter], max_norm: float | None) -> Tensor:
    """Scale the gradients of ``parameters`` down to ``max_norm``, if given; returns the norm that they had, ()."""
    accelerator.unscale_gradients()
    if max_norm is None:
        return whole(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
    return whole(nn.utils.clip_grad_norm_(parameters, max_norm))


def whole(tensor: Tensor) -> Tensor:
    """The tensor that a shard is of, for which all processes must ask; any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that is in this process: a shard, or all."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, other: Tensor) -> Tensor:
    """A tensor, which every process has whole, on the device of ``other`` and cut and laid out as that is.

    Raises:
        RuntimeError: the shapes differ.
    """
    if tensor.shape != other.shape:
        raise RuntimeError(f"a tensor is of shape {tuple(tensor.shape)}, not {tuple(other.shape)}")
    if not isinstance(other, DTensor):
        return torch.empty_like(other).copy_(tensor)  # in the same memory format
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


class _Shell(nn.Module):
    """What FSDP changes in place of the network: its class, whose name is saved, and what a call of it does."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.network(*args, **kwargs)
