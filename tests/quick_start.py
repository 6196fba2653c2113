"""Python without its start: importing torch and the rest takes seconds, and the tests start many processes.

A process imports everything once, and gives each call a fork of itself with the caller's arguments, folder, environment
and files. Only the start differs from that of the interpreter: what is known of the package (its registries, the
instruction set of the core) is as fresh, since the process does nothing but import. Where the start itself is the
subject, or the memory of a process, tests call ``sys.executable``.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

MODULES = (
    "fontTools.subset",
    "hypothesis",
    "pytest",
    "sklearn.datasets",
    "sklearn.model_selection",
    "torch._dynamo",  # what a network's first step imports
    "torch._inductor.config",  # what torch.use_deterministic_algorithms imports
    "prunefuse_bench.conformance",
    "prunefuse_bench.paper.report",
    "prunefuse_bench.publishing",
    "prunefuse_bench.report.figures",
    "prunefuse_bench.report.page",
    "prunefuse_bench.runner",
)
PROGRAM = "-m", "prunefuse_bench"
"""Arguments of Python that start the program; its own follow."""
CALLER = f"""
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect(sys.argv[1])
call = json.dumps([[*{PROGRAM}, *sys.argv[2:]], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(call).to_bytes(8, "big")], [0, 1, 2])
server.sendall(call)
with server.makefile("r") as stream:
    ended = stream.read().split()[1:]
sys.exit(int(ended[0]) if ended else 70)
"""


class Started:
    """A fork at work, with what is needed of the interface of :class:`subprocess.Popen`."""

    def __init__(self, connection: socket.socket, outputs: tuple[IO[bytes], IO[bytes]]) -> None:
        self._stream = connection.makefile("r")
        connection.close()
        self._outputs = outputs
        self.pid = int(self._stream.readline())
        self.returncode: int | None = None

    def wait(self) -> int:
        """The exit code when it has ended; the negative number of the signal that ended it."""
        if self.returncode is None:
            self.returncode = int(self._stream.readline())
            self._stream.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Nothing happens if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def is_alive(self) -> bool:
        """Whether it is still at work."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False

    def communicate(self) -> tuple[str, str]:
        """What it printed, and what it printed to stderr, when it has ended."""
        self.wait()
        texts = []
        for output in self._outputs:
            output.seek(0)
            texts.append(output.read().decode())
            output.close()
        return texts[0], texts[1]


class QuickStart:
    """Starts forks of one process; ends with the block of a ``with``."""

    def __init__(self, folder: Path) -> None:
        self._address = folder / "socket"
        self._server = subprocess.Popen([sys.executable, __file__, self._address])

    def __enter__(self) -> QuickStart:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.kill()
        self._server.wait()

    def start(
        self, *arguments: str | Path, cwd: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> Started:
        """``python *arguments``, of which the first is ``-c`` or ``-m``."""
        self._wait_until_it_listens()
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self._address))
        given = dict(os.environ if environment is None else environment)
        call = json.dumps([[str(argument) for argument in arguments], str(cwd or Path.cwd()), given]).encode()
        outputs = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115  they are the fork's
        with Path(os.devnull).open("rb") as nothing:
            files = [nothing.fileno(), *(output.fileno() for output in outputs)]
            socket.send_fds(connection, [len(call).to_bytes(8, "big")], files)
        connection.sendall(call)
        return Started(connection, outputs)

    def run(
        self, *arguments: str | Path, cwd: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The same, when it has ended."""
        started = self.start(*arguments, cwd=cwd, environment=environment)
        printed, errors = started.communicate()
        return subprocess.CompletedProcess([*map(str, arguments)], started.wait(), printed, errors)

    def write_program(self, folder: Path) -> None:
        """Write ``prunefuse-bench`` into a folder."""
        self._wait_until_it_listens()
        caller, program = folder / "caller.py", folder / "prunefuse-bench"
        caller.write_text(CALLER)
        command = shlex.join([sys.executable, "-IS", str(caller), str(self._address)])
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        program.chmod(0o755)

    def _wait_until_it_listens(self) -> None:
        while not self._address.exists():
            if self._server.poll() is not None:
                raise RuntimeError(f"the process to fork did not start: exit code {self._server.returncode}")
            time.sleep(0.05)


def serve(address: str) -> None:
    """Answer every call with a fork."""
    for name in MODULES:
        importlib.import_module(name)
    server = socket.socket(socket.AF_UNIX)
    server.bind(address + ".new")
    server.listen()
    Path(address + ".new").rename(address)  # it is there when it can be called
    while True:
        caller, _ = server.accept()
        if os.fork() == 0:
            break
        caller.close()
        with contextlib.suppress(ChildProcessError):  # there is none any more
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    server.close()
    try:
        answer(caller)
    finally:
        os._exit(0)


def answer(caller: socket.socket) -> None:
    """Fork once more, and tell the caller the process's number, and its exit code when it has ended."""
    size, files, _, _ = socket.recv_fds(caller, 8, 3)
    with caller.makefile("rb") as stream:
        call = json.loads(stream.read(int.from_bytes(size, "big")))
    process = os.fork()
    if process == 0:
        caller.close()
        code = 1
        try:
            for number, file in enumerate(files):
                os.dup2(file, number)
                os.close(file)
            code = as_python(*call)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    caller.sendall(f"{process}\n".encode())
    _, status = os.waitpid(process, 0)
    caller.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def as_python(arguments: Sequence[str], folder: str, environment: Mapping[str, str]) -> int:
    """What ``python *arguments`` does, in this process and for good; returns its exit code."""
    os.chdir(folder)
    # Set one by one: the C library must know of them too.
    os.environ.clear()
    os.environ.update(environment)
    asked = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = ["", *asked, *(path for path in sys.path[1:] if path not in asked)]
    names: dict[str, Any] = {"__name__": "__main__"}
    try:
        kind, what, *rest = arguments
        sys.argv = [kind, *rest]
        if kind == "-c":
            exec(compile(what, "<string>", "exec"), names)
        elif tuple(arguments[:2]) == PROGRAM:
            sys.argv[0] = "prunefuse-bench"
            runpy.run_module("prunefuse_bench", run_name="__main__")
        elif kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            raise ValueError(f"expected -c or -m, got {kind}")
    except SystemExit as stop:
        if stop.code is not None and not isinstance(stop.code, int):
            print(stop.code, file=sys.stderr)
            return 1
        return stop.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


if __name__ == "__main__":
    serve(sys.argv[1])
