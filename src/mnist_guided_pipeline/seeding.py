"""Random numbers by name, a generator whose seed is a hash of what it is for; and hashes of tensors."""

from __future__ import annotations

import hashlib

import torch


def keyed_generator(*key: int | str) -> torch.Generator:
    """A CPU generator whose seed is a hash of the key, so that neighbouring keys are unrelated."""
    return torch.Generator().manual_seed(keyed_seed(*key))


def keyed_seed(*key: int | str) -> int:
    """A seed of 63 bits, the start of SHA-256 over the key."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:8], "little") & (2**63 - 1)


def fingerprint(*tensors: torch.Tensor) -> str:
    """The start of SHA-256 over the shapes, types and values of tensors, 16 digits."""
    digest = hashlib.sha256()
    for tensor in tensors:
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.numpy().data)
    return digest.hexdigest()[:16]
