"""Trained selectors as files: safetensors, never pickle."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from prunefuse_bench.atomic import make_folder, write_atomically
from prunefuse_bench.config import content_hash
from prunefuse_bench.cost import StageCost
from prunefuse_bench.errors import BadInput
from prunefuse_bench.pruning import PrunedNetwork
from prunefuse_bench.recipe import Trained
from prunefuse_bench.records.tensors import pack_tensors, read_tensors
from prunefuse_bench.rounds import SavedSelector
from prunefuse_bench.training import Fit, History

__all__ = ["Shelf", "pack_selector", "unpack_selector"]

STATE, SNAPSHOT, HISTORY = "state/", "snapshot/", "history/"
"""Prefixes of the tensors' names."""
REMEDY = "run again with --resume, and it is trained anew"


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
    return pack_tensors(tensors, {name: json.dumps(value) for name, value in plain.items()})


def unpack_selector(file: Path, fit: Fit | None = None, **expected: Any) -> SavedSelector:
    """What :func:`pack_selector` packed; ``fit`` if it was not packed with it.

    ``expected``: what must have been packed with it, so that the selector of another place is noticed; files from
    before there were checksums do not have it.

    Raises:
        BadInput: not readable, damaged, or not the one that is expected.
    """
    saved, more = _read(file, fit)
    for key, value in expected.items():
        if key in more and more[key] != value:
            raise BadInput(
                f"{file}: expected the selector of {key} {value}, got that of {str(more[key])[:50]}; {REMEDY}"
            )
    return saved


class Shelf:
    """Selectors that several cells of a run would train alike, by the hash of what determines them.

    A file is written whole or not at all, and is taken only if its checksum is right: cells of several processes may
    put and take the same one. It can always be removed: what is missing, or damaged, is trained anew.

    Args:
        environment: where selectors come from that are taken and put, plain data; those of another processor or version
            are others, since their bits are.
    """

    def __init__(self, folder: Path, environment: Mapping[str, Any] | None = None) -> None:
        self.folder, self._environment = folder, environment

    def within(self, settings: Mapping[str, Any]) -> Shelf:
        """The part of it for selectors that have these settings in common."""
        return Shelf(self.folder / content_hash(settings), self._environment)

    def of(self, environment: Mapping[str, Any]) -> Shelf:
        """The same shelf, for selectors of this environment."""
        return Shelf(self.folder, environment)

    def get(self, settings: Mapping[str, Any]) -> tuple[SavedSelector, dict[str, StageCost]] | None:
        """The selector that these settings make and what its training took; None if there is none that can be read."""
        file = self._file(settings)
        if not file.exists():
            return None
        try:
            saved, more = _read(file, None)
            if more.get("place", self._place(file)) != self._place(file):  # it was moved here
                return None
            costs = more["costs"] if "costs" in more else {"selector/train": more["cost"]}
            return saved, {stage: _cost(cost) for stage, cost in costs.items()}
        except (BadInput, KeyError, TypeError, AttributeError):
            return None

    def put(self, settings: Mapping[str, Any], selector: Trained, costs: Mapping[str, StageCost]) -> None:
        """Keep a selector."""
        make_folder(self.folder)
        plain = {stage: dataclasses.asdict(cost) for stage, cost in costs.items()}
        file = self._file(settings)
        packed = pack_selector(selector, fit=dataclasses.asdict(selector.fit), costs=plain, place=self._place(file))
        write_atomically(file, lambda stream: stream.write(packed))

    def clear(self) -> None:
        """Remove it; nobody is going to ask for its selectors."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, settings: Mapping[str, Any]) -> Path:
        where = {} if self._environment is None else {"environment": self._environment}
        return self.folder / f"{content_hash({**settings, **where})}.safetensors"

    def _place(self, file: Path) -> str:
        """The hashes of all that determines the selector in this file."""
        return f"{self.folder.name}/{file.name}"


def _cost(plain: Mapping[str, Any]) -> StageCost:
    return StageCost(**{**plain, **{name: tuple(plain.get(name, ())) for name in ("uncounted", "disagreements")}})


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _read(file: Path, fit: Fit | None) -> tuple[SavedSelector, dict[str, Any]]:
    try:
        tensors, metadata = read_tensors(file)
        steps, more = json.loads(metadata["pruning_history"]), json.loads(metadata["more"])
        if not isinstance(more, dict):
            raise ValueError(f"expected an object beside it, got {type(more).__name__}")
        # Files from before have neither of these.
        ratio, curve = (json.loads(metadata.get(key, "null")) for key in ("pruning_ratio", "curve"))
        fit = fit or Fit(**more["fit"])
        return _saved(tensors, steps, ratio, curve, fit), more
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise BadInput(f"{file}: expected a trained selector, but it is not readable ({error}); {REMEDY}") from None


def _saved(tensors: Mapping[str, Tensor], steps: Any, ratio: Any, curve: Any, fit: Fit) -> SavedSelector:
    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    numbers = {int(name.split("/")[1]) for name in tensors if name.startswith(SNAPSHOT)}
    return SavedSelector(
        state=part(STATE),
        history=None if steps is None else tuple((name, output, removed) for name, output, removed in steps),
        fit=fit,
        snapshots=tuple(part(f"{SNAPSHOT}{number}/") for number in sorted(numbers)),
        training_history=History.of(part(HISTORY)) if part(HISTORY) else None,
        ratio=ratio,
        accuracy_by_epoch=None if curve is None else tuple(curve),
    )
