"""Files by name, in a folder or in a zip that is never unpacked."""

from __future__ import annotations

import hashlib
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from prunefuse_bench.data.cache import sha256_of_file
from prunefuse_bench.errors import BadInput

__all__ = ["FileSource", "Folder", "Zip", "is_hidden", "open_source"]


class FileSource(ABC):
    """Files by name, in a folder or in a zip."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def names(self) -> list[str]:
        """Names of all files and, ending in '/', of all folders, with '/' between the parts."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of a file."""

    @abstractmethod
    def stamp(self, name: str) -> tuple[int, int]:
        """Two numbers that are others when the file was changed: its size and the time of its change, or checksum."""

    @abstractmethod
    def content_hash(self, names: Iterable[str]) -> str:
        """Of these files, or of the zip that holds them."""

    @abstractmethod
    def listing_hash(self, names: Iterable[str]) -> str:
        """Of the files' names and sizes, without reading them."""


class Folder(FileSource):
    """Files in a folder and its subfolders."""

    def names(self) -> list[str]:
        """Everything below the folder."""
        found = []
        for folder, folders, files in os.walk(self.path):
            relative = Path(folder).relative_to(self.path)
            found += [(relative / name).as_posix() for name in files] + [
                f"{(relative / f).as_posix()}/" for f in folders
            ]
        return found

    def read(self, name: str) -> bytes:
        """The content of a file; OSError if it cannot be read."""
        return (self.path / name).read_bytes()

    def stamp(self, name: str) -> tuple[int, int]:
        """Size and time of the last change; OSError if it is not there."""
        found = (self.path / name).stat()
        return found.st_size, found.st_mtime_ns

    def content_hash(self, names: Iterable[str]) -> str:
        """Of the files' names and contents; BadInput names one that cannot be read."""
        digest = hashlib.sha256()
        for name in names:
            digest.update(f"{name}\0".encode())
            try:
                content = self.read(name)
            except OSError as error:
                raise BadInput(f"{self.path}: {name} cannot be read ({error}); remove or replace it") from None
            digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()

    def listing_hash(self, names: Iterable[str]) -> str:
        """Of the files' names and sizes; BadInput names one that is not there."""
        digest = hashlib.sha256()
        for name in names:
            try:
                digest.update(f"{name}\0{(self.path / name).stat().st_size}\0".encode())
            except OSError as error:
                raise BadInput(f"{self.path}: {name} cannot be read ({error}); remove or replace it") from None
        return digest.hexdigest()


class Zip(FileSource):
    """Files in a .zip, read in place; names that point outside of it are refused."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self.archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise BadInput(f"{path}: expected a folder or a .zip file, but it cannot be opened: {error}") from None

    def names(self) -> list[str]:
        """Everything in the archive; BadInput if a name points outside of it."""
        names = self.archive.namelist()
        for name in names:
            parts = PurePosixPath(name.replace("\\", "/"))
            if parts.is_absolute() or ".." in parts.parts or ":" in (parts.parts or ("",))[0]:
                raise BadInput(f"{self.path}: entry {name!r} points outside the archive; refused, pack the images anew")
        return names

    def read(self, name: str) -> bytes:
        """The content of a file, its checksum checked."""
        return self.archive.read(name)

    def stamp(self, name: str) -> tuple[int, int]:
        """Size and checksum, as the archive said when it was opened; :meth:`read` compares both."""
        entry = self.archive.getinfo(name)
        return entry.file_size, entry.CRC

    def content_hash(self, names: Iterable[str]) -> str:
        """Of the whole archive."""
        return sha256_of_file(self.path)

    def listing_hash(self, names: Iterable[str]) -> str:
        """Of the files' names, sizes and checksums, as the archive has them."""
        digest = hashlib.sha256()
        for name in names:
            entry = self.archive.getinfo(name)
            digest.update(f"{name}\0{entry.file_size}\0{entry.CRC}\0".encode())
        return digest.hexdigest()


def open_source(path: Path) -> FileSource:
    """A folder or a .zip.

    Raises:
        BadInput: there is none, or it is neither.
    """
    if not path.exists():
        raise BadInput(f"dataset path {path}: there is no such file or folder")
    return Folder(path) if path.is_dir() else Zip(path)


def is_hidden(name: str) -> bool:
    """Files that operating systems add: dot files, __MACOSX, Thumbs.db."""
    parts = PurePosixPath(name).parts
    return any(part.startswith(".") or part in ("__MACOSX", "Thumbs.db") for part in parts)
