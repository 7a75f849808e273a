"""What the machine can do: blocking system calls in a row, with nothing between them (sendfile(2), splice(2))."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

PIPE: Final = 1 << 20
"""How much a pipe holds on the way from one descriptor to another: the most that any user may ask for (pipe(7))."""


def bound(sock: socket.socket, seconds: int = 60) -> None:
    """Bound a blocking socket's waits in the kernel (socket(7)); Python's own timeout would make it non-blocking."""
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", seconds, 0))


def send_file(file: int, sock: int, count: int) -> int:
    """Send ``count`` bytes of a file from its start; returns how many there were."""
    sent = 0
    while sent < count and (some := os.sendfile(sock, file, sent, count - sent)):
        sent += some
    return sent


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    inlet, outlet = os.pipe()
    try:
        fcntl.fcntl(outlet, fcntl.F_SETPIPE_SZ, PIPE)
        yield inlet, outlet
    finally:
        os.close(inlet)
        os.close(outlet)


def splice_all(source: int, target: int) -> int:
    """Move what comes from a socket, up to its end, into a file or a socket; returns how many bytes it was."""
    moved = 0
    with _pipe() as (inlet, outlet):
        while held := os.splice(source, outlet, PIPE):
            moved += held
            while held:
                held -= os.splice(inlet, target, held)
    return moved
