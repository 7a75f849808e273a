"""Programs of other people, for tests: found, run in the foreground, waited for, and ended by their process id."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from roket_trio._kernel.procfs import socket_inodes
from roket_trio._kernel.sock_diag import InetSocket, SockDiag
from roket_trio._kernel.tcp import TCPState
from support.waiting import wait_until

LIMIT = 120.0  # seconds, for whatever is waited for: on a busy machine a start of Python takes twenty

Command = list[str | Path]


def tool(name: str) -> str:
    """The path of a program that is not ours; without it the test is skipped, in CI it fails."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")  # where Debian keeps nginx and ip
    if found is None:
        missing(f"{name} is not installed")
    return found


def missing(what: str) -> NoReturn:
    """A test cannot run here: that is a visible skip, and in CI a failure."""
    if os.environ.get("CI") or os.environ.get("ROKET_CI"):
        pytest.fail(what)
    pytest.skip(what)


def need_root(what: str) -> None:
    """Skip the test, in CI too, unless it runs as root: CI has a suite as root and one as an ordinary user."""
    if os.geteuid() != 0:
        pytest.skip(f"{what}: only for root")


def sockets_at(port: int, *, held: bool = True) -> list[InetSocket]:
    """The TCP sockets with that port at either end, listeners and TIME_WAIT apart.

    :param held: only those that some process holds, so no orphans
    """
    with SockDiag() as kernel:
        found = kernel.tcp(set(TCPState) - {TCPState.LISTEN, TCPState.TIME_WAIT})
    return [sock for sock in found if port in (sock.local[1], sock.remote[1]) and (sock.inode or not held)]


def is_listening(port: int, *, pid: int | None = None) -> bool:
    """Asked of the kernel: a connection would be taken for the one that is waited for.

    :param pid: that process must hold the socket; other tests may be given the same port for a moment
    """
    with SockDiag() as kernel:
        found = {sock.inode for sock in kernel.tcp({TCPState.LISTEN}) if sock.local[1] == port}
    return bool(found if pid is None else found.intersection(socket_inodes(pid).values()))


@contextmanager
def running(command: Command, port: int | None = None, log: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A program in the foreground until the end of the block.

    :param port: where it will listen: waited for
    """
    with open(log or os.devnull, "ab") as output:
        program = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        if port is not None:

            def is_up() -> bool:
                assert program.poll() is None, f"{command[0]} ended: {log.read_text() if log else 'no log'}"
                return is_listening(port)

            wait_until(is_up, f"{command[0]} listening")
        yield program
    finally:
        # nginx and HAProxy end their workers when they are asked to.
        if program.poll() is None:
            program.terminate()
        try:
            program.wait(LIMIT)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()
            raise
