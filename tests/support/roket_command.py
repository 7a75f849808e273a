"""The command ``roket`` as the tests run it: in this process where that will do, and as a program where it must."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import roket_trio
from roket_trio._cli import main
from roket_trio.testing._close_suite.ports import free_port
from support.activation import activated
from support.programs import LIMIT, is_listening
from support.waiting import wait_until

Text = str | os.PathLike[str]

CONTENT = bytes(range(256)) * 12_345 + b"the end"
"""What is sent: more than a pipe holds, of a length that no buffer divides."""


class Ended(NamedTuple):
    """What became of a command."""

    code: int
    output: str
    errors: str

    @property
    def last(self) -> str:
        """The last line on standard error."""
        return self.errors.splitlines()[-1] if self.errors else ""


@functools.cache
def _bytecode() -> str:
    """Where programs keep their bytecode, as installed ones do: half a second each, and there are hundreds."""
    place = tempfile.mkdtemp(prefix="roket-tests-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


def environment(**more: str) -> dict[str, str]:
    """For a program that imports the package that the tests import."""
    more = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": _bytecode(), **more}
    package = os.fspath(Path(roket_trio.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **more}


def command(*arguments: Text) -> list[str]:
    """``roket`` with every warning an error."""
    return [sys.executable, "-W", "error", "-m", "roket_trio", *(os.fspath(argument) for argument in arguments)]


@contextmanager
def running(*arguments: Text, descriptors: Sequence[int] = (), **options: Any) -> Iterator[subprocess.Popen[str]]:
    """``roket`` as a program; ended, if need be, when the block is left.

    :param descriptors: of listening sockets that it is given as systemd does it
    """
    started = command(*arguments)
    if descriptors:
        started = activated(started, descriptors)
        options["pass_fds"] = descriptors
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "env": environment(), **options}
    with subprocess.Popen(started, stderr=subprocess.PIPE, text=True, **options) as program:
        try:
            yield program
        finally:
            if program.poll() is None:
                program.kill()


def ended(program: subprocess.Popen[str]) -> Ended:
    """What became of a program."""
    output, errors = program.communicate(timeout=LIMIT)
    return Ended(program.returncode, output or "", errors or "")


def next_line(program: subprocess.Popen[str]) -> str:
    """The next line on its standard error, and nothing of what follows: that is :func:`ended`'s."""
    assert program.stderr is not None
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(program.stderr.fileno(), 1)):
        line += byte
    return line.decode()


def announced(program: subprocess.Popen[str]) -> int:
    """The port that a program says it listens on, which is its first line."""
    line = next_line(program)
    found = re.fullmatch(r"listening on (?:\S+):(\d+)\n", line)
    assert found, line
    return int(found[1])


@contextmanager
def receiving(*arguments: Text, **options: Any) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """``roket recv`` on a port that the system chooses; ``arguments`` are what follows the port."""
    with running("recv", "0", *arguments, **options) as program:
        yield program, announced(program)


def roket(capsys: pytest.CaptureFixture[str], *arguments: Text) -> Ended:
    """``roket`` in this process."""
    capsys.readouterr()
    try:
        code = main([os.fspath(argument) for argument in arguments])
    except SystemExit as exit_:  # argparse
        code = int(exit_.code or 0)
    return Ended(code, *capsys.readouterr())


def received_all(peer: socket.socket) -> bytes:
    """Everything up to FIN; a reset raises."""
    data = bytearray()
    while more := peer.recv(1 << 20):
        data += more
    return bytes(data)


@contextmanager
def thread(work: Callable[[], None]) -> Iterator[None]:
    """A peer in a thread; what it raises is raised at the end."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    worker = threading.Thread(target=run)
    worker.start()
    try:
        yield
    finally:
        worker.join(LIMIT)
    if failures:
        raise failures[0]


def received_from(capsys: pytest.CaptureFixture[str], sender: Callable[[int], object], *arguments: Text) -> Ended:
    """``roket recv`` in this process, and ``sender(port)`` in a thread; what it says after it has said where."""
    port = free_port()

    def work() -> None:
        wait_until(lambda: is_listening(port, pid=os.getpid()), "roket recv listens")
        try:
            sender(port)
        except BaseException:
            with contextlib.suppress(OSError):  # so that nobody waits for ever for a sender that has failed
                socket.create_connection(("127.0.0.1", port), LIMIT).close()
            raise

    with thread(work):
        done = roket(capsys, "recv", str(port), *arguments)
    where, errors = done.errors.split("\n", 1)
    assert where == f"listening on 127.0.0.1:{port}"
    return Ended(done.code, done.output, errors)


@contextmanager
def peer_of(talk: Callable[[socket.socket], object]) -> Iterator[str]:
    """A raw listening socket that takes one connection and gives it to ``talk`` in a thread; yields HOST:PORT."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT)

        def work() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(LIMIT)
                talk(sock)

        with thread(work):
            yield "{}:{}".format(*listener.getsockname())


def only(directory: Path) -> list[str]:
    """The names in a directory."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(os.listdir(directory))
    return []
