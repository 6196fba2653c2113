"""Reading a .zip from a stranger: names, sizes and kinds are checked before anything is unpacked, and nothing is ever
unpacked to a path that the file names."""

from __future__ import annotations

import hashlib
import io
import stat
import zipfile
from pathlib import Path

from prunefuse_bench.errors import BadInput
from prunefuse_bench.plain_text import shown_error
from prunefuse_bench.publishing.layout import MANIFEST, MEMBER

__all__ = [
    "LARGEST_FILE",
    "LARGEST_MEMBERS",
    "LARGEST_RATIO",
    "LARGEST_TOTAL",
    "MOST_MEMBERS",
    "Archive",
    "Refused",
    "shown",
]

LARGEST_FILE = 128 << 20
"""Bytes of a submission file."""
LARGEST_TOTAL = 1 << 30
"""Bytes of all members, unpacked."""
MOST_MEMBERS = 50_000
LARGEST_RATIO = 100
"""Unpacked over packed size of a member beyond its first 64 KiB; records of runs come to about 10."""
LARGEST_MEMBERS = {MANIFEST: 16 << 20, "suite.json": 16 << 20, "cell.json": 1 << 20, "failure.json": 64 << 10}
"""Bytes of a member, unpacked, by the last part of its name."""
LARGEST_ROUND = 32 << 20
"""Bytes of a round, unpacked: some two million chosen samples."""
CENTRAL_ENTRY = b"PK\x01\x02"
BLOCK = 1 << 20


class Refused(BadInput):
    """A submission that is not accepted: which file of it, and why."""


def shown(name: object, length: int = 100) -> str:
    """Text of a stranger as it may be printed: quoted, without control characters, not longer than this."""
    text = repr(str(name))
    return text if len(text) <= length else f"{text[:length]}…{text[0]}"


class Archive:
    """The members of a submission file.

    Args:
        data: the file; it is held in memory, so that what is verified is what is used.

    Raises:
        Refused: no .zip, too large, or with members that no submission has; the message says which and why.
    """

    def __init__(self, data: bytes) -> None:
        if len(data) > LARGEST_FILE:
            raise Refused(f"expected at most {LARGEST_FILE:,} bytes, got more")
        # Counted before the list of members is built: each takes memory.
        if data.count(CENTRAL_ENTRY) > MOST_MEMBERS:
            raise Refused(f"expected at most {MOST_MEMBERS:,} members, got more")
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except Exception as error:  # a damaged file can make the reader raise anything
            why = shown_error(error)
            raise Refused(f"expected a .zip file that 'prunefuse-bench submit' wrote, got none ({why})") from None
        self._members: dict[str, zipfile.ZipInfo] = {}
        for member in self._zip.infolist():
            _check_name(member)
            if member.filename in self._members:
                raise Refused(f"{member.filename} is in it twice")
            _check_kind(member)
            _check_size(member)
            self._members[member.filename] = member
        total = sum(member.file_size for member in self._members.values())
        if total > LARGEST_TOTAL:
            raise Refused(f"expected at most {LARGEST_TOTAL:,} bytes unpacked, got {total:,}")

    @classmethod
    def open(cls, file: Path) -> Archive:
        """The submission in a file; Refused as for the class, or because it cannot be read."""
        try:
            with file.open("rb") as stream:
                data = stream.read(LARGEST_FILE + 1)
        except OSError as error:
            raise Refused(f"cannot be read ({error.strerror or type(error).__name__})") from None
        return cls(data)

    @property
    def names(self) -> list[str]:
        """All members, in their order in the file."""
        return list(self._members)

    def read(self, name: str, sha256: str | None = None) -> bytes:
        """The content of a member, compared with the hash that the manifest has of it.

        Raises:
            Refused: damaged, or other content than the manifest lists.
        """
        member = self._members[name]
        try:
            with self._zip.open(member) as stream:  # ends at the size that the member states, whatever there is
                content = b"".join(iter(lambda: stream.read(BLOCK), b""))
        except Exception as error:  # as above
            raise Refused(f"{name}: cannot be unpacked ({shown_error(error)})") from None
        if sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != sha256:
            raise Refused(f"{name}: the manifest lists SHA-256 {shown(sha256)}, its content has {found}")
        return content


def _check_name(member: zipfile.ZipInfo) -> None:
    name = member.orig_filename  # as the file has it: zipfile cuts names at a zero byte
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or ":" in name:
        raise Refused(f"member {shown(name)} points outside the file")
    if name != MANIFEST and not MEMBER.fullmatch(name):
        raise Refused(f"member {shown(name)} is none of a submission's: only records may be in it")


def _check_kind(member: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        what = "a symbolic link" if kind == stat.S_IFLNK else "no plain file"
        raise Refused(f"{member.filename} is {what}")
    if member.flag_bits & 0x1:
        raise Refused(f"{member.filename} is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Refused(f"{member.filename}: expected it stored or deflated, got method {member.compress_type}")


def _check_size(member: zipfile.ZipInfo) -> None:
    largest = LARGEST_MEMBERS.get(member.filename.rpartition("/")[2], LARGEST_ROUND)
    if member.file_size > largest:
        raise Refused(f"{member.filename}: expected at most {largest:,} bytes, got {member.file_size:,}")
    if member.file_size > (64 << 10) + LARGEST_RATIO * member.compress_size:
        raise Refused(
            f"{member.filename}: {member.compress_size:,} bytes unpack to {member.file_size:,}, "
            f"more than {LARGEST_RATIO} times as many"
        )
