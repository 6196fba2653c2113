"""Tensors as files with a checksum: safetensors, never pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

__all__ = ["pack_tensors", "read_tensors"]

CHECKSUM = "sha256"
"""Key of the metadata: of everything else in the file. Files from before have none."""


def pack_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Tensors on the CPU, by name, and texts, by key, with the checksum of all of it."""
    return safetensors.torch.save(dict(tensors), {**metadata, CHECKSUM: _checksum(tensors, metadata)})


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What :func:`pack_tensors` packed, compared with its checksum if it has one.

    Raises:
        ValueError: not readable, or changed since it was written.
    """
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (not a mapping)
    except Exception as error:  # a damaged file can make a reader raise anything, and it is this file's fault
        raise ValueError(f"{type(error).__name__}: {error}") from None
    stated = metadata.pop(CHECKSUM, None)
    if stated is not None and stated != _checksum(tensors, metadata):
        raise ValueError("its content is not that of its checksum")
    return tensors, metadata


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of all names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
