"""A port for a program that is yet to start."""

from __future__ import annotations

import errno
import random
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

_LOWEST: Final = 10_000  # above those of most services
_FIRST_EPHEMERAL: Final = 32_768  # the kernel's default


def free_port(host: str = "127.0.0.1") -> int:
    """A port on which nothing listens now.

    It is below those that the kernel gives to connections and to listeners that ask for any (ip(7),
    ``ip_local_port_range``): one of them would be somebody else's before the program has started.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    end = _first_ephemeral()
    while True:
        with socket.socket(family) as sock:
            try:
                sock.bind((host, random.randrange(_LOWEST, end)))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            port: int = sock.getsockname()[1]
            return port


def _first_ephemeral() -> int:
    with suppress(OSError):
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        if first > 2 * _LOWEST:
            return first
    return _FIRST_EPHEMERAL
