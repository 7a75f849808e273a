"""What a user types, as values: addresses, rates, times, numbers.

Each function is an argparse ``type``: it raises :class:`argparse.ArgumentTypeError`, with a message for the user, for a
text that is no such value.
"""

from __future__ import annotations

import math
import re
from argparse import ArgumentTypeError
from dataclasses import dataclass
from typing import final

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_RATE = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?(?:/s)?", re.IGNORECASE)

LOCALHOST = "127.0.0.1"


@final
@dataclass(frozen=True, slots=True)
class Address:
    """An address to connect to or to listen on: a host and a port, the path of a UNIX socket, or passed sockets."""

    host: str | None = None
    """``None``, in an address to listen on, for all interfaces."""
    port: int = 0
    path: str | None = None
    passed: str | None = None
    """The name of listening sockets that systemd has passed; empty for all that it has."""

    def __str__(self) -> str:
        if self.passed is not None:
            return f"systemd:{self.passed}"
        if self.path is not None:
            return "unix:" + self.path.replace("\0", "@", 1)
        host = "*" if self.host is None else self.host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def is_unix(self) -> bool:
        """Whether it is the address of a UNIX socket."""
        return self.path is not None


def remote_address(text: str) -> Address:
    """``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:PATH`` (``unix:@NAME``: an abstract name), to connect to."""
    if (path := _unix_path(text)) is not None:
        return Address(path=path)
    host, colon, number = text.rpartition(":")
    host = _without_brackets(host, text)
    if not colon or not host:
        raise ArgumentTypeError(f"{text!r} is neither HOST:PORT nor unix:PATH")
    return Address(host, port(number))


def local_address(text: str) -> Address:
    """``PORT``, ``BIND:PORT``, ``*:PORT``, ``unix:PATH`` or ``systemd:NAME``, to listen on.

    ``PORT`` alone listens on 127.0.0.1. ``systemd:`` without a name is every socket that systemd has passed.
    """
    if text.startswith("systemd:"):
        return Address(passed=text.removeprefix("systemd:"))
    if (path := _unix_path(text)) is not None:
        return Address(path=path)
    host, _, number = text.rpartition(":")
    host = _without_brackets(host, text)
    return Address(None if host == "*" else host or LOCALHOST, port(number, least=0))


def _unix_path(text: str) -> str | None:
    if not text.startswith("unix:"):
        return None
    path = text.removeprefix("unix:")
    if not path.strip("@"):
        raise ArgumentTypeError("unix: needs a path")
    return "\0" + path[1:] if path.startswith("@") else path


def _without_brackets(host: str, text: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1]
    if ":" in host:
        raise ArgumentTypeError(f"{text!r}: write an IPv6 address in brackets, as in [::1]:9000")
    return host


def port(text: str, *, least: int = 1) -> int:
    """The number of a port, from ``least`` on."""
    if not _is_whole(text) or not least <= int(text) <= 65535:
        raise ArgumentTypeError(f"a port is a number from {least} to 65535, not {text!r}")
    return int(text)


def _is_whole(text: str) -> bool:
    """Whether it is a whole number, and not longer than any that has a meaning: Python refuses 4,300 digits."""
    return text.isascii() and text.isdigit() and len(text) <= 20


def rate(text: str) -> float:
    """Bytes per second: ``500K``, ``10M``, ``1.5G``. A K is 1024 bytes."""
    found = _RATE.fullmatch(text.strip())
    value = float(found[1]) * _UNITS[found[2].upper()] if found else 0.0
    if not 0 < value < math.inf:
        raise ArgumentTypeError(f"a rate is a number of bytes per second, like 500K or 10M, not {text!r}")
    return value


def seconds(text: str, *, least: float = 0.0, below: float = math.inf) -> float:
    """A time in seconds, above 0, not less than ``least``, and less than ``below``."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < below or value < least:
        bound = f"from {least:g} on" if least else "above 0"
        raise ArgumentTypeError(f"a time is a number of seconds {bound}, not {text!r}")
    return value


def count(text: str, *, most: int | None = None) -> int:
    """A whole number from 1, up to ``most``."""
    if not _is_whole(text) or not int(text) or (most is not None and int(text) > most):
        bound = "1 on" if most is None else f"1 to {most}"
        raise ArgumentTypeError(f"a whole number from {bound} is needed, not {text!r}")
    return int(text)
