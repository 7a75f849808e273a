"""Programs that are started with listening sockets, as systemd starts them (sd_listen_fds(3))."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

# A process of its own, since LISTEN_PID is the pid of the program itself.
_LAUNCH = """
import os, sys
count = int(sys.argv[1])
for number in range(count):
    os.dup2(int(sys.argv[2 + number]), 3 + number)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = str(count)
os.execv(sys.argv[2 + count], sys.argv[2 + count:])
"""


@contextmanager
def copies_of(sockets: Sequence[socket.socket], first: int = 200) -> Iterator[list[int]]:
    """Descriptors of ``sockets`` with numbers in a row, from one above ``first`` on; who takes them closes them."""
    copies: list[int] = []
    try:
        for sock in sockets:
            copies.append(fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, copies[-1] if copies else first))
        assert copies == list(range(copies[0], copies[0] + len(copies)))
        yield copies
    finally:
        for copy in copies:
            with suppress(OSError):
                os.close(copy)


def activated(command: Sequence[str], descriptors: Sequence[int]) -> list[str]:
    """The command that starts ``command`` with these descriptors from 3 on; pass them to it with ``pass_fds``."""
    return [sys.executable, "-c", _LAUNCH, str(len(descriptors)), *map(str, descriptors), *command]
