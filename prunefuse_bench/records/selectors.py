"""Trained selectors as files: safetensors, never pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from prunefuse_bench.atomic import make_folder, write_atomically
from prunefuse_bench.config import content_hash
from prunefuse_bench.cost import StageCost
from prunefuse_bench.errors import BadInput
from prunefuse_bench.pruning import PrunedNetwork
from prunefuse_bench.recipe import Trained
from prunefuse_bench.rounds import SavedSelector
from prunefuse_bench.training import Fit, History

__all__ = ["Shelf", "pack_selector", "unpack_selector"]

STATE, SNAPSHOT, HISTORY = "state/", "snapshot/", "history/"
"""Prefixes of the tensors' names."""
CHECKSUM = "sha256"
"""Key of the metadata: of everything else in the file. Files from before have none."""


def pack_selector(selector: Trained, **more: Any) -> bytes:
    """A selector as safetensors: its state, what its training left behind, and the steps that made its structure.

    ``more``: plain data to go with it.
    """
    network = selector.network
    tensors = _named(STATE, network.model.state_dict())
    for number, snapshot in enumerate(selector.snapshots):
        tensors |= _named(f"{SNAPSHOT}{number}/", snapshot)
    if selector.history is not None:
        tensors |= _named(HISTORY, selector.history.tensors())
    steps, ratio = (network.history, network.extent.ratio) if isinstance(network, PrunedNetwork) else (None, None)
    plain = {"pruning_history": steps, "pruning_ratio": ratio, "curve": selector.accuracy_by_epoch, "more": more}
    metadata = {name: json.dumps(value) for name, value in plain.items()}
    return safetensors.torch.save(tensors, {**metadata, CHECKSUM: _checksum(tensors, metadata)})


def unpack_selector(file: Path, fit: Fit | None = None) -> SavedSelector:
    """What :func:`pack_selector` packed; ``fit`` if it was not packed with it.

    Raises:
        BadInput: not readable.
    """
    return _read(file, fit)[0]


class Shelf:
    """Selectors that several cells of a run would train alike, by the hash of what determines them.

    A file is written whole or not at all, and is taken only if its checksum is right: cells of several processes may
    put and take the same one. It can always be removed: what is missing, or damaged, is trained anew.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def within(self, settings: Mapping[str, Any]) -> Shelf:
        """The part of it for selectors that have these settings in common."""
        return Shelf(self.folder / content_hash(settings))

    def get(self, settings: Mapping[str, Any]) -> tuple[SavedSelector, dict[str, StageCost]] | None:
        """The selector that these settings make and what its training took; None if there is none that can be read."""
        file = self._file(settings)
        if not file.exists():
            return None
        try:
            saved, more = _read(file, None)
            costs = more["costs"] if "costs" in more else {"selector/train": more["cost"]}
            return saved, {stage: _cost(cost) for stage, cost in costs.items()}
        except (BadInput, KeyError, TypeError, AttributeError):
            return None

    def put(self, settings: Mapping[str, Any], selector: Trained, costs: Mapping[str, StageCost]) -> None:
        """Keep a selector."""
        make_folder(self.folder)
        plain = {stage: dataclasses.asdict(cost) for stage, cost in costs.items()}
        packed = pack_selector(selector, fit=dataclasses.asdict(selector.fit), costs=plain)
        write_atomically(self._file(settings), lambda stream: stream.write(packed))

    def clear(self) -> None:
        """Remove it; nobody is going to ask for its selectors."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, settings: Mapping[str, Any]) -> Path:
        return self.folder / f"{content_hash(settings)}.safetensors"


def _cost(plain: Mapping[str, Any]) -> StageCost:
    return StageCost(**{**plain, **{name: tuple(plain.get(name, ())) for name in ("uncounted", "disagreements")}})


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of all names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _read(file: Path, fit: Fit | None) -> tuple[SavedSelector, dict[str, Any]]:
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            metadata = opened.metadata()
            steps, more = json.loads(metadata["pruning_history"]), json.loads(metadata["more"])
            # Files from before have neither of these, and no checksum.
            ratio, curve = (json.loads(metadata.get(key, "null")) for key in ("pruning_ratio", "curve"))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (not a mapping)
        fit = fit or Fit(**more["fit"])
        stated = metadata.pop(CHECKSUM, None)
        if stated is not None and stated != _checksum(tensors, metadata):
            raise ValueError("its content is not that of its checksum")
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise BadInput(
            f"{file}: expected a trained selector, but it is not readable ({error}); remove its folder to run it again"
        ) from None

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    numbers = {int(name.split("/")[1]) for name in tensors if name.startswith(SNAPSHOT)}
    saved = SavedSelector(
        state=part(STATE),
        history=None if steps is None else tuple((name, output, removed) for name, output, removed in steps),
        fit=fit,
        snapshots=tuple(part(f"{SNAPSHOT}{number}/") for number in sorted(numbers)),
        training_history=History.of(part(HISTORY)) if part(HISTORY) else None,
        ratio=ratio,
        accuracy_by_epoch=None if curve is None else tuple(curve),
    )
    return saved, more
