"""What every input has to keep to, whatever is in it."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prunefuse_bench.errors import BadInput
from prunefuse_bench.plain_text import UNPLAIN, for_terminal

__all__ = ["LONGEST_MESSAGE", "LONGEST_SECONDS", "Finding", "InProcess", "fresh_folder", "guarded", "outcome"]

LONGEST_SECONDS = 10.0
"""Of the processor, for one input."""
LONGEST_MESSAGE = 20_000
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGING = {
    "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate",
}  # fmt: skip
"""Events of Python's audit whose first arguments are paths that are changed."""
NEVER = {
    "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "pickle.find_class", "pty.spawn",
    "socket.bind", "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "urllib.Request",
}  # fmt: skip
"""Events that no reader of a file has a reason for."""


class Finding(Exception):
    """An input that does what none may do."""


class _Watch:
    """Hears of everything that Python does to files, processes and the network while an input is read."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.found: list[str] = []

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None or event not in HEARD:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, int) or not isinstance(flags, int) or not flags & WRITING:
                return
            paths: tuple[Any, ...] = (path,)
        else:
            paths = arguments[1:2] if event in ("os.link", "os.symlink") else arguments[: 1 + (event == "os.rename")]
        if event in NEVER or not all(map(self._is_inside, paths)):
            folder, self.folder = self.folder, None  # what follows may do the same again
            self.found.append(f"{event}{arguments!r}"[:500])
            self.folder = folder
            raise Finding(self.found[-1])

    def _is_inside(self, path: Any) -> bool:
        name = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        if name == os.devnull or isinstance(path, int):
            return True
        # Without following links: what is written through one is seen by where the folder's links lead.
        return os.path.realpath(os.path.dirname(os.path.abspath(name))).startswith(str(self.folder))


HEARD = {"open", *CHANGING, *NEVER}


@functools.cache
def _watch() -> _Watch:
    tempfile.gettempdir()  # the first time, it tries where it may write
    watch = _Watch()
    sys.addaudithook(watch.hear)
    return watch


@functools.cache
def _home() -> Path:
    """A folder of this process, in memory where there is such a place."""
    shared = Path("/dev/shm")
    home = Path(os.path.realpath(tempfile.mkdtemp(prefix="fuzz-", dir=shared if os.access(shared, os.W_OK) else None)))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return home


def fresh_folder() -> Path:
    """An empty folder for one input."""
    folder = _home() / "input"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


@contextlib.contextmanager
def guarded() -> Iterator[Path]:
    """Within the block, whatever is written outside of the folder is a finding, and so is taking too long.

    Nothing is flushed to the disk, which would take most of the time, and the cache is in the folder.

    Raises:
        Finding: after the block, also if what raised it was caught within.
    """
    watch, folder = _watch(), fresh_folder()
    before = os.fsync, sys.dont_write_bytecode, os.environ.get("PRUNEFUSE_BENCH_CACHE")
    os.fsync, sys.dont_write_bytecode = lambda _: None, True
    os.environ["PRUNEFUSE_BENCH_CACHE"] = str(folder / "cache")
    watch.found.clear()
    watch.folder = str(folder)
    start = time.process_time()
    try:
        yield folder
    finally:
        watch.folder = None
        os.fsync, sys.dont_write_bytecode = before[:2]
        if before[2] is None:
            del os.environ["PRUNEFUSE_BENCH_CACHE"]
        else:
            os.environ["PRUNEFUSE_BENCH_CACHE"] = before[2]
        if watch.found:
            raise Finding(watch.found[0])
    if (taken := time.process_time() - start) > LONGEST_SECONDS:
        raise Finding(f"it took {taken:.1f} seconds")


def outcome(read: Callable[[], object]) -> bool:
    """Whether it gave a result; if not, a BadInput whose message can be shown. Any other error is raised."""
    try:
        read()
    except BadInput as error:
        message = str(error)
        if len(message) > LONGEST_MESSAGE:
            raise Finding(f"a message of {len(message):,} characters") from error
        if UNPLAIN.search(for_terminal(message)):
            raise Finding(f"a message with control characters: {message!r}") from error
        return False
    return True


class InProcess:
    """In the place of an executor of threads or processes, which would take longer than what they do here."""

    def __init__(self, *_: object, **__: object) -> None:
        """Whatever an executor is told."""

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def map(self, work: Callable[..., Any], *things: Any) -> Iterator[Any]:
        """One after another."""
        return map(work, *things)

    def shutdown(self, **_: object) -> None:
        """Nothing to end."""
