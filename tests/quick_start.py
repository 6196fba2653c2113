"""The program without its start: importing torch and the rest takes seconds, and the documentation calls it often.

A process imports everything once, and gives each call a fork of itself with the caller's arguments, folder, environment
and files. Only the start differs from the installed program: that one is the first that test_docs.py calls.
"""

from __future__ import annotations

import importlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

MODULES = (
    "fontTools.subset",
    "torch._inductor",  # what torch.use_deterministic_algorithms imports
    "prunefuse_bench.paper.report",
    "prunefuse_bench.publishing",
    "prunefuse_bench.report.figures",
    "prunefuse_bench.report.page",
    "prunefuse_bench.runner",
)
CALLER = """
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect(sys.argv[1])
call = json.dumps([["prunefuse-bench", *sys.argv[2:]], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(call).to_bytes(8, "big")], [0, 1, 2])
server.sendall(call)
sys.exit(int(server.recv(8) or b"70"))
"""


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Start the process, and write ``prunefuse-bench`` into ``folder``; kill the process when it is not needed."""
    address, caller, program = folder / "socket", folder / "caller.py", folder / "prunefuse-bench"
    caller.write_text(CALLER)
    command = shlex.join([sys.executable, "-IS", str(caller), str(address)])
    program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    program.chmod(0o755)
    server = subprocess.Popen([sys.executable, __file__, address])
    while not address.exists():
        if server.poll() is not None:
            raise RuntimeError(f"the program did not start: exit code {server.returncode}")
        time.sleep(0.05)
    return server


def serve(address: str) -> None:
    """Answer every call with a fork."""
    for name in MODULES:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    server = socket.socket(socket.AF_UNIX)
    server.bind(address)
    server.listen()
    while True:
        caller, _ = server.accept()
        if os.fork() == 0:
            break
        caller.close()
    server.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    code = "1"
    try:
        code = str(answer(caller))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        caller.sendall(code.encode())
        os._exit(0)


def answer(caller: socket.socket) -> int:
    """What the program does, in this process and for good; returns its exit code."""
    from prunefuse_bench.cli import main

    size, files, _, _ = socket.recv_fds(caller, 8, 3)
    with caller.makefile("rb") as stream:
        sys.argv, folder, environment = json.loads(stream.read(int.from_bytes(size, "big")))
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1


if __name__ == "__main__":
    serve(sys.argv[1])
