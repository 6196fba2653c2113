"""Files by name, in a folder or in a zip that is never unpacked."""

from __future__ import annotations

import collections
import hashlib
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from prunefuse_bench.data.cache import sha256_of_file
from prunefuse_bench.data.limits import LARGEST_FILE, MOST_FILES, expect_names, read_file
from prunefuse_bench.errors import BadInput
from prunefuse_bench.plain_text import UNPLAIN, shown_error

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
        """The content of a file, of at most :data:`prunefuse_bench.data.limits.LARGEST_FILE` bytes.

        Raises:
            Exception: whatever the reader of a damaged file raises.
        """

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
    """Files in a folder and its subfolders; symbolic links that lead out of it are refused."""

    def names(self) -> list[str]:
        """Everything below the folder.

        Raises:
            BadInput: a link that leads out of it, what is neither a file nor a folder, or names as
                :func:`prunefuse_bench.data.limits.expect_names` refuses them.
        """
        found: list[str] = []
        root, folders = os.path.realpath(self.path), [""]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(self.path / folder) as entries:
                    below = list(entries)
            except OSError as error:
                raise BadInput(f"{self.path}: {folder} cannot be read ({error.strerror})") from None
            for entry in below:
                # The listing says what an entry is; only links are asked about, of which there are few.
                is_link, is_folder = entry.is_symlink(), entry.is_dir(follow_symlinks=False)
                name = f"{folder}{entry.name}{'/' if is_folder or (is_link and Path(entry.path).is_dir()) else ''}"
                if is_folder:
                    folders.append(name)
                elif (is_link or not entry.is_file(follow_symlinks=False)) and not is_hidden(name):
                    self._refuse_outside(entry, name, root)
                found.append(name)
        _expect_usable(found, self.path)
        return found

    def _refuse_outside(self, entry: os.DirEntry[str], name: str, root: str) -> None:
        """BadInput for what is neither folder nor file, unless it is a link to something inside."""
        if not entry.is_symlink():
            raise BadInput(f"{self.path}: {name} is neither a file nor a folder; remove it")
        if not Path(os.path.realpath(entry.path)).is_relative_to(root):
            raise BadInput(
                f"{self.path}: {name} is a link that leads out of the folder; name the folder that holds the files "
                "themselves, or copy them"
            )

    def read(self, name: str) -> bytes:
        """The content of a file; OSError or ValueError if it cannot be read."""
        return read_file(self.path / name)

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
            except (OSError, ValueError) as error:
                why = shown_error(error)
                raise BadInput(f"{self.path}: {name} cannot be read ({why}); remove or replace it") from None
            digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()

    def listing_hash(self, names: Iterable[str]) -> str:
        """Of the files' names and sizes; BadInput names one that is not there."""
        digest = hashlib.sha256()
        for name in names:
            try:
                digest.update(f"{name}\0{(self.path / name).stat().st_size}\0".encode())
            except OSError as error:
                why = shown_error(error)
                raise BadInput(f"{self.path}: {name} cannot be read ({why}); remove or replace it") from None
        return digest.hexdigest()


class Zip(FileSource):
    """Files in a .zip, read in place; names that point outside of it are refused."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self.archive = zipfile.ZipFile(path)
        except Exception as error:  # a damaged file can make the reader raise anything
            why = shown_error(error)
            raise BadInput(f"{path}: expected a folder or a .zip file, but it cannot be opened: {why}") from None

    def names(self) -> list[str]:
        """Everything in the archive.

        Raises:
            BadInput: a name that points outside of it, is there twice, or that
                :func:`prunefuse_bench.data.limits.expect_names` refuses; or too many.
        """
        names = self.archive.namelist()
        _expect_usable(names, self.path)
        files = [name for name in names if not name.endswith("/")]
        if len(set(files)) < len(files):
            twice = next(name for name, count in collections.Counter(files).items() if count > 1)
            raise BadInput(f"{self.path}: entry {twice!r} is in it twice; pack the images anew")
        for name in names:
            parts = PurePosixPath(name.replace("\\", "/"))
            if parts.is_absolute() or ".." in parts.parts or ":" in (parts.parts or ("",))[0]:
                raise BadInput(f"{self.path}: entry {name!r} points outside the archive; refused, pack the images anew")
        return names

    def read(self, name: str) -> bytes:
        """The content of a file, its checksum checked."""
        if (size := self.archive.getinfo(name).file_size) > LARGEST_FILE:  # more than it states is never unpacked
            raise ValueError(f"it unpacks to {size:,} bytes, more than {LARGEST_FILE:,}")
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
    if not path.is_dir() and not path.is_file():  # a pipe or a device may have no end
        raise BadInput(f"dataset path {path}: there is no such file or folder")
    return Folder(path) if path.is_dir() else Zip(path)


def is_hidden(name: str) -> bool:
    """Files that operating systems add: dot files, __MACOSX, Thumbs.db, and the Icon of a folder of macOS."""
    parts = PurePosixPath(name).parts
    return any(part.startswith(".") or part in ("__MACOSX", "Thumbs.db", "Icon\r") for part in parts)


def _expect_usable(names: list[str], where: Path) -> None:
    if len(names) > MOST_FILES:
        raise BadInput(f"{where}: expected at most {MOST_FILES:,} files and folders, got {len(names):,}")
    expect_names((name for name in names if UNPLAIN.search(name) and not is_hidden(name)), where)
