"""The socket that a stream is over, asked for in four ways, and how to end a connection below TLS.

A wrapper may hold bytes that it has received and not handed out, or that it has not sent yet. So bytes are moved only
through a stream that is itself a socket (:func:`connection_of`). The other functions are for closing and counting.
"""

from __future__ import annotations

import socket
from typing import Any

import anyio
import anyio.abc

from .._connection.connection import Connection
from .._connection.states import DEFAULT_POLICY, Lifecycle
from .sockets import SocketStream
from .unix_sockets import UNIXSocketStream


def connection_of(stream: object) -> Connection | None:
    """The connection of a stream of ours that is no wrapper, to move bytes; ``None`` for a subclass, which may change
    what its methods do."""
    return stream._connection if type(stream) in (SocketStream, UNIXSocketStream) else None  # type: ignore[attr-defined]


def socket_stream_of(stream: Any) -> SocketStream | None:
    """The :class:`SocketStream` that a stream is, or that it speaks TLS over; to close it, not to move bytes."""
    while not isinstance(stream, SocketStream):
        stream = getattr(stream, "transport_stream", None)
        if stream is None:
            return None
    return stream


def life_of(stream: object) -> Lifecycle | None:
    """The states of a stream of ours, or of the one that a wrapper sends through. ``None`` if there is none of ours."""
    while stream is not None:
        if isinstance(stream, SocketStream):
            return stream._connection.life
        if isinstance(life := getattr(stream, "_life", None), Lifecycle):  # a TLSStream
            return life
        # AnyIO's and Trio's wrappers; the last is BufferedByteStream's.
        below = (getattr(stream, name, None) for name in ("transport_stream", "send_stream", "receive_stream"))
        stream = next((one for one in below if one is not None), None)
    return None


def raw_socket_of(stream: Any) -> socket.socket | None:
    """The socket under any library's stream or wrapper, as AnyIO's attribute or as Trio's; to reset or to count."""
    while stream is not None:
        if isinstance(stream, anyio.TypedAttributeProvider):
            return stream.extra(anyio.abc.SocketAttribute.raw_socket, None)
        if (sock := getattr(stream, "socket", None)) is not None:
            return sock  # type: ignore[no-any-return]
        stream = getattr(stream, "transport_stream", None) or getattr(stream, "send_stream", None)
    return None


async def reset(stream: Any) -> None:
    """Close a connection so that the peer does not take it for a clean end: by RST over our socket, else forcefully."""
    below = socket_stream_of(stream)
    if below is None:
        await anyio.aclose_forcefully(stream)
    else:
        below.abort()
        await stream.aclose()


async def close_at_once(stream: anyio.abc.AsyncResource) -> None:
    """Close a connection in an ``except`` clause, without waiting.

    The caller raises its exception again. No cancellation takes its place: our socket is closed without an ``await``,
    another stream in a shielded scope. Nor does the close wait after asyncio's own cancellation, which is raised once.
    """
    if isinstance(stream, SocketStream) and type(stream).aclose is SocketStream.aclose:
        stream._connection.close_now()
        return
    with anyio.CancelScope(shield=True) as scope:
        scope.cancel()
        await stream.aclose()


async def aclose_after_alert(stream: anyio.abc.AnyByteStream) -> None:
    """Close the connection of a failed handshake within its ``linger_seconds``. A reset could overtake the alert."""
    policy = getattr(stream, "close_policy", DEFAULT_POLICY)
    with anyio.move_on_after(policy.linger_seconds):
        await stream.aclose()
