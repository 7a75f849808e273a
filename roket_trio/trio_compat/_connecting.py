"""Trio's functions that connect."""

from __future__ import annotations

import os

from .. import SocketStream, UNIXSocketStream, connect_tcp, connect_unix
from .._public import public

# RFC 8305, section 5, as in Trio (seconds).
DEFAULT_DELAY = 0.250


@public
async def open_tcp_stream(
    host: str | bytes,
    port: int,
    *,
    happy_eyeballs_delay: float | None = DEFAULT_DELAY,
    local_address: str | None = None,
) -> SocketStream:
    """Connect to a TCP server, with the signature of ``trio.open_tcp_stream``; see :func:`roket_trio.connect_tcp`.

    :param happy_eyeballs_delay: seconds between the starts of two attempts; ``None`` for Trio's default
    :param local_address: the address to connect from
    :raises OSError: the host has no address (``socket.gaierror``), or none of them answers
    :raises ValueError: ``host`` is neither str nor bytes; a port out of range
    :raises TypeError: ``port`` is no int
    """
    if not isinstance(host, (str, bytes)):
        raise ValueError(f"host must be str or bytes, not {host!r}")
    if not isinstance(port, int):
        raise TypeError(f"port must be int, not {port!r}")
    return await connect_tcp(
        text(host),
        port,
        local_host=local_address,
        happy_eyeballs_delay=DEFAULT_DELAY if happy_eyeballs_delay is None else happy_eyeballs_delay,
    )


@public
async def open_unix_socket(filename: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> UNIXSocketStream:
    """Connect to a UNIX socket, with the signature of ``trio.open_unix_socket``; see :func:`roket_trio.connect_unix`.

    :raises OSError: no server listens there, or it is not permitted
    """
    return await connect_unix(filename)


def text(host: str | bytes) -> str:
    """A host as a str: Trio takes bytes too."""
    return host.decode("ascii") if isinstance(host, bytes) else host
