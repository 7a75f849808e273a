"""The other ends of a connection run as processes of their own, so that their time is not the measured one's."""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from roket_trio.testing._bench.ceilings import bound as bound

COUNT = struct.Struct("!Q")
"""A number of bytes as it goes over a connection: 8 bytes, in network order."""

ROOT = Path(__file__).resolve().parents[2]
_ENDS_WITHIN = 10.0
LISTENS_WITHIN = 10.0

Address = tuple[str, int]


@contextmanager
def running(module: str, *arguments: str) -> Iterator[Address]:
    """Run ``python -m benchmarks.endpoints.MODULE ARGUMENTS``, which serves with :func:`serve`; yields its address."""
    command = [sys.executable, "-m", f"benchmarks.endpoints.{module}", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield "127.0.0.1", int(process.stdout.readline())
        finally:
            process.stdin.close()
            end(process)


@contextmanager
def program(command: Sequence[str], address: Address) -> Iterator[None]:
    """Run a foreign program until the end of the block; it is there once it accepts on ``address``."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            _wait_until_it_accepts(process, address)
            yield
        finally:
            process.terminate()
            end(process)


def _wait_until_it_accepts(process: subprocess.Popen[bytes], address: Address) -> None:
    pause = threading.Event()
    for _ in range(500):
        with socket.socket() as sock:
            if sock.connect_ex(address) == 0:
                return
        if process.poll() is not None:
            break
        pause.wait(0.01)
    raise OSError(f"{process.args!r} does not accept on {address}")


def wait_until_it_listens(port: int, seconds: float = LISTENS_WITHIN) -> None:
    """Wait until the kernel lists a listener on the port. No connection is tried: some programs take only one."""
    pattern = re.compile(rf"^ *\d+: \w+:{port:04X} \w+:\w+ 0A ", flags=re.MULTILINE)
    pause, deadline = threading.Event(), time.monotonic() + seconds
    while not pattern.search(Path("/proc/net/tcp").read_text(encoding="ascii")):
        if time.monotonic() > deadline:
            raise OSError(f"nobody listens on {port}")
        pause.wait(0.01)


def end(process: subprocess.Popen[Any]) -> None:
    """Wait until a process that was asked to end has ended; kill it after ten seconds."""
    try:
        process.wait(_ENDS_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()


def serve(listen: Callable[[socket.socket], None]) -> None:
    """Listen on a free port, print it, and end when standard input does, so with the parent process.

    :param listen: accepts on the listening socket that it is given, in a thread, for ever
    """
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    threading.Thread(target=listen, args=(listener,), daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    try:
        sys.stdin.read()
    except KeyboardInterrupt:  # the parent's to handle
        pass
    os._exit(0)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
