"""What a submission file looks like: a .zip of a run's records and a manifest of their hashes.

    manifest.json              format, schema, hash of the grid, and of every other file its size and SHA-256
    suite.json                 what was asked for, without the path of the data
    cells/ID/cell.json         settings of a cell that was begun
    cells/ID/round-003.json    one whole round
    cells/ID/failure.json      why the cell failed, if it did, without traceback

No data, no weights, nothing of the machine but what every round's environment states.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from prunefuse_bench.records.checksums import checksum

__all__ = ["FORMAT", "FORMAT_VERSION", "MANIFEST", "MEMBER", "describe_file", "submission_hash"]

FORMAT = "prunefuse-bench submission"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MEMBER = re.compile(r"suite\.json|cells/[0-9a-f]{16}/(?:cell|failure|round-(?:[0-9]{3}|[1-9][0-9]{3}))\.json", re.ASCII)
"""Names that a submission may have in it besides the manifest; no other character can occur in them."""


def describe_file(content: bytes) -> dict[str, int | str]:
    """The manifest's entry of a file."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def submission_hash(files: Mapping[str, Mapping[str, int | str]]) -> str:
    """64 hexadecimal digits that name the content of a submission, however it is compressed."""
    return checksum({name: dict(entry) for name, entry in files.items()})
