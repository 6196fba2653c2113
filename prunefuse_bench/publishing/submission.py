"""A run's records as one file to publish."""

from __future__ import annotations

import io
import json
import operator
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunefuse_bench.atomic import make_folder, write_atomically
from prunefuse_bench.errors import BadInput
from prunefuse_bench.publishing.archives import Refused
from prunefuse_bench.publishing.layout import FORMAT, FORMAT_VERSION, MANIFEST, describe_file
from prunefuse_bench.publishing.verification import verify_bytes
from prunefuse_bench.records import SCHEMA, CellStore, RunFolder, grid_hash
from prunefuse_bench.records.checksums import sealed

__all__ = ["pack"]

LONGEST_REASON = 1_000
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/\\])(?:~?/|[A-Za-z]:[/\\]|\\\\)(?:[^\s'\"/\\:]+[/\\])+")
"""Folders of an absolute path, up to the last part of its name."""


def pack(run: Path, file: Path) -> Path:
    """Write the records of a run into one .zip, to be published and verified by others.

    In it are settings, chosen indices, accuracies, costs and the environment of every round. Not in it are images,
    weights, the path of the data, and tracebacks; of a path in the reason of a failure only the last part. The same
    records give the same bytes (with the same version of zlib). What :func:`prunefuse_bench.publishing.verify` would
    refuse is not written.

    Args:
        run: folder of the run; cells that are missing, unfinished or failed show as such.
        file: to write; its folder is made.

    Returns:
        ``file``.

    Raises:
        BadInput: not the folder of a run, a record that is not readable or damaged, or nothing to publish.
        CannotWrite: the file cannot be written.
    """
    suite, contents = _records(RunFolder(run))
    manifest = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "schema": SCHEMA,
        "grid": grid_hash(suite),
        "files": {name: describe_file(content) for name, content in contents.items()},
    }
    data = _zip({MANIFEST: _json(manifest), **contents})
    try:
        verify_bytes(data)
    except Refused as error:
        raise BadInput(f"{run}: these records cannot be published: {error}") from None
    make_folder(file.parent)
    write_atomically(file, operator.methodcaller("write", data))
    return file


def _records(run: RunFolder) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The suite, and every record by its name in the file, in order of the names."""
    unverified = set(run.unverified)
    suite = _without_path(run.read_suite())
    contents = {"suite.json": _json(suite if run.folder / "suite.json" in unverified else sealed(suite))}
    for cell, store in run.begun_cells():
        contents |= {f"cells/{cell['id']}/{name}": content for name, content in _cell_records(store).items()}
    return suite, dict(sorted(contents.items()))


def _cell_records(store: CellStore) -> dict[str, bytes]:
    names = ["cell.json", *(f"round-{number:03d}.json" for number in range(store.rounds_done))]
    contents = {name: (store.folder / name).read_bytes() for name in names}
    if (failure := store.failure) is not None:
        reason = ABSOLUTE_PATH.sub("…/", " ".join(str(failure["reason"]).split()))[:LONGEST_REASON]
        public = {"round": failure["round"], "error": failure["error"], "reason": reason}
        contents["failure.json"] = _json(sealed(public))
    return contents


def _without_path(suite: Mapping[str, Any]) -> dict[str, Any]:
    """The same suite, wherever the data is."""
    asked = dict(suite["suite"])
    task = dict(asked.get("task", {}))
    task["dataset"] = {**task.get("dataset", {}), "path": None}
    if "corruptions" in task:
        task["corruptions"] = {**task["corruptions"], "path": None}
    return {**suite, "suite": {**asked, "task": task}}


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def _zip(contents: Mapping[str, bytes]) -> bytes:
    """No times, no owners, members in this order."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            member = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            member.compress_type, member.create_system, member.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            archive.writestr(member, content)
    return stream.getvalue()
