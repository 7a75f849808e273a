"""What is typed on the command line, as values: addresses, rates, times. Pure."""

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
    """Where to connect or to listen: a host and port, or the path of a UNIX socket."""

    host: str | None = None
    """To listen on: ``None`` for all interfaces."""
    port: int = 0
    path: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return "unix:" + self.path.replace("\0", "@", 1)
        host = "*" if self.host is None else self.host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def is_unix(self) -> bool:
        """Whether it is a UNIX socket's."""
        return self.path is not None


def remote(text: str) -> Address:
    """``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:PATH`` (``unix:@NAME``: abstract), to connect to.

    :raises ArgumentTypeError: it is none of these
    """
    if (path := _unix(text)) is not None:
        return Address(path=path)
    host, colon, port = text.rpartition(":")
    host = _bare(host, text)
    if not colon or not host:
        raise ArgumentTypeError(f"{text!r} is neither HOST:PORT nor unix:PATH")
    return Address(host, _port(port, least=1))


def local(text: str) -> Address:
    """``PORT``, ``BIND:PORT``, ``*:PORT`` or ``unix:PATH``, to listen on; 127.0.0.1 when nothing else is said.

    :raises ArgumentTypeError: it is none of these
    """
    if (path := _unix(text)) is not None:
        return Address(path=path)
    host, _, port = text.rpartition(":")
    host = _bare(host, text)
    return Address(None if host == "*" else host or LOCALHOST, _port(port, least=0))


def _unix(text: str) -> str | None:
    if not text.startswith("unix:"):
        return None
    path = text.removeprefix("unix:")
    if not path.strip("@"):
        raise ArgumentTypeError("unix: needs a path")
    return "\0" + path[1:] if path.startswith("@") else path


def _bare(host: str, text: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1]
    if ":" in host:
        raise ArgumentTypeError(f"{text!r}: an IPv6 address is put in brackets, [::1]:9000")
    return host


def _port(text: str, *, least: int) -> int:
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= 65535:
        raise ArgumentTypeError(f"a port is a number from {least} to 65535, not {text!r}")
    return int(text)


def rate(text: str) -> float:
    """Bytes a second: ``500K``, ``10M``, ``1.5G``; 1024 to the K.

    :raises ArgumentTypeError: it is none
    """
    found = _RATE.fullmatch(text.strip())
    value = float(found[1]) * _UNITS[found[2].upper()] if found else 0.0
    if not value > 0:
        raise ArgumentTypeError(f"a rate is bytes a second, like 500K or 10M, not {text!r}")
    return value


def seconds(text: str) -> float:
    """A time, more than nothing.

    :raises ArgumentTypeError: it is none
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ArgumentTypeError(f"a time is a number of seconds above 0, not {text!r}")
    return value


def count(text: str) -> int:
    """A positive whole number.

    :raises ArgumentTypeError: it is none
    """
    if not text.isascii() or not text.isdigit() or not int(text):
        raise ArgumentTypeError(f"a positive whole number is needed, not {text!r}")
    return int(text)
