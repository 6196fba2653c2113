"""Trained selectors as files: safetensors, never pickle."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from prunefuse_bench.atomic import make_folder, write_atomically
from prunefuse_bench.config import content_hash
from prunefuse_bench.cost import StageCost
from prunefuse_bench.errors import BadInput
from prunefuse_bench.loop import SavedSelector
from prunefuse_bench.pruning import PrunedNetwork
from prunefuse_bench.recipe import Trained
from prunefuse_bench.training import Fit, History

__all__ = ["Shelf", "pack_selector", "unpack_selector"]

STATE, SNAPSHOT, HISTORY = "state/", "snapshot/", "history/"
"""Prefixes of the tensors' names."""


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
    plain = {"pruning_history": steps, "pruning_ratio": ratio, "more": more}
    return safetensors.torch.save(tensors, {name: json.dumps(value) for name, value in plain.items()})


def unpack_selector(file: Path, fit: Fit | None = None) -> SavedSelector:
    """What :func:`pack_selector` packed; ``fit`` if it was not packed with it.

    Raises:
        BadInput: not readable.
    """
    return _read(file, fit)[0]


class Shelf:
    """Selectors that several cells of a run would train alike, by the hash of what determines them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, settings: Mapping[str, Any]) -> tuple[SavedSelector, StageCost] | None:
        """The selector that these settings make and what its training took; None if nobody trained it yet.

        Raises:
            BadInput: not readable.
        """
        file = self._file(settings)
        if not file.exists():
            return None
        saved, more = _read(file, None)
        cost = more["cost"]
        lists = {name: tuple(cost.get(name, ())) for name in ("uncounted", "disagreements")}
        return saved, StageCost(**{**cost, **lists})

    def put(self, settings: Mapping[str, Any], selector: Trained, cost: StageCost) -> None:
        """Keep a selector."""
        make_folder(self.folder)
        packed = pack_selector(selector, fit=dataclasses.asdict(selector.fit), cost=dataclasses.asdict(cost))
        write_atomically(self._file(settings), lambda stream: stream.write(packed))

    def _file(self, settings: Mapping[str, Any]) -> Path:
        return self.folder / f"{content_hash(settings)}.safetensors"


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _read(file: Path, fit: Fit | None) -> tuple[SavedSelector, dict[str, Any]]:
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            metadata = opened.metadata()
            steps, more = json.loads(metadata["pruning_history"]), json.loads(metadata["more"])
            ratio = json.loads(metadata.get("pruning_ratio", "null"))  # files from before have none
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (not a mapping)
        fit = fit or Fit(**more["fit"])
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
    )
    return saved, more
