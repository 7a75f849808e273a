"""Trio's helpers for TLS over TCP."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import NoReturn

import trio

from .. import SocketStream
from .._public import public
from ._connecting import DEFAULT_DELAY, open_tcp_stream
from ._listening import open_tcp_listeners, serve_listeners
from ._tls import SSLListener, SSLStream


@public
async def open_ssl_over_tcp_stream(
    host: str | bytes,
    port: int,
    *,
    https_compatible: bool = False,
    ssl_context: ssl.SSLContext | None = None,
    happy_eyeballs_delay: float | None = DEFAULT_DELAY,
) -> SSLStream[SocketStream]:
    """Connect to a TLS server, with the signature of ``trio.open_ssl_over_tcp_stream``.

    :param https_compatible: see :class:`SSLStream`
    :param ssl_context: ``None`` for one that verifies the server by the system's authorities
    :raises OSError: as :func:`open_tcp_stream`

    The handshake is done when the stream is first used.
    """
    stream = await open_tcp_stream(host, port, happy_eyeballs_delay=happy_eyeballs_delay)
    return SSLStream(
        stream, ssl_context or ssl.create_default_context(), server_hostname=host, https_compatible=https_compatible
    )


@public
async def open_ssl_over_tcp_listeners(
    port: int,
    ssl_context: ssl.SSLContext,
    *,
    host: str | bytes | None = None,
    https_compatible: bool = False,
    backlog: int | None = None,
) -> list[SSLListener[SocketStream]]:
    """Listen for TLS over TCP, with the signature of ``trio.open_ssl_over_tcp_listeners``; see
    :func:`open_tcp_listeners` and :class:`SSLListener`."""
    listeners = await open_tcp_listeners(port, host=host, backlog=backlog)
    return [SSLListener(listener, ssl_context, https_compatible=https_compatible) for listener in listeners]


@public
async def serve_ssl_over_tcp(
    handler: Callable[[SSLStream[SocketStream]], Awaitable[object]],
    port: int,
    ssl_context: ssl.SSLContext,
    *,
    host: str | bytes | None = None,
    https_compatible: bool = False,
    backlog: int | None = None,
    handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[list[SSLListener[SocketStream]]] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Listen for TLS over TCP and serve, with the signature of ``trio.serve_ssl_over_tcp``:
    :func:`open_ssl_over_tcp_listeners` and :func:`serve_listeners` in one."""
    listeners = await open_ssl_over_tcp_listeners(
        port, ssl_context, host=host, https_compatible=https_compatible, backlog=backlog
    )
    await serve_listeners(handler, listeners, handler_nursery=handler_nursery, task_status=task_status)
