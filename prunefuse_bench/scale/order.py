"""What a worker is told and what it answers: plain data, so that no engine has to carry objects of ours."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from prunefuse_bench.errors import BadInput

__all__ = ["Order", "Outcome", "Report", "Resources", "as_sent"]

Outcome = Literal["finished", "failed", "found finished", "busy", "refused", "lost"]


@dataclass(frozen=True)
class Resources:
    """What a cell gets of a machine.

    Attributes:
        cpus: whole processors, and so threads.
        gpus: a share below 1 lets several cells have one GPU.
        memory_gigabytes: None for whatever there is.
    """

    cpus: int = 1
    gpus: float = 0
    memory_gigabytes: float | None = None

    def __post_init__(self) -> None:
        if self.cpus < 1:
            raise BadInput(f"--cpus-per-cell: expected at least 1, got {self.cpus}")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise BadInput(f"--gpus-per-cell: expected 0, a share below 1 or a whole number, got {self.gpus:g}")
        if self.memory_gigabytes is not None and self.memory_gigabytes <= 0:
            raise BadInput(f"--memory-per-cell: expected gigabytes above 0, got {self.memory_gigabytes:g}")


def as_sent(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data as it arrives: lists for tuples."""
    plain: dict[str, Any] = json.loads(json.dumps(settings, allow_nan=False))
    return plain


@dataclass(frozen=True)
class Order:
    """Run this cell.

    Attributes:
        identity: of the cell, the hash of ``settings``.
        settings: :func:`as_sent`, of the cell as the sender plans it, so that a worker that plans another can say what
            differs.
        suite: that the cell is of, with nothing in it that depends on the machine or the working folder.
        folder: of the run; shared by all machines, under this name.
        threads: to compute with.
        methods_from: (file, SHA-256) of files with methods of the user's own, under the same names everywhere.
        version: of the sender's package.
    """

    identity: str
    settings: Mapping[str, Any]
    suite: Mapping[str, Any]
    folder: str
    threads: int
    methods_from: tuple[tuple[str, str], ...]
    version: str

    def to_json(self) -> str:
        """One line of text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def of_json(cls, text: str) -> Order:
        """What :meth:`to_json` made."""
        plain = json.loads(text)
        files = tuple((file, digest) for file, digest in plain.pop("methods_from"))
        return cls(**plain, methods_from=files)


@dataclass(frozen=True)
class Report:
    """What became of an order.

    Attributes:
        outcome: ``finished``, ``failed`` (recorded: it would fail again) and ``found finished`` are final. ``busy``:
            another process is at work on the cell. ``refused``: the worker has another version or other data.
            ``lost``: the worker died, or something failed that may go well the next time.
        reason: one paragraph, if it is not finished.
        host: of the worker, if it is known.
        seconds: of what the worker did: ``planning`` and ``cell``.
    """

    outcome: Outcome
    reason: str = ""
    host: str = ""
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def as_data(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)
