"""Trio's functions that listen and serve."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Generic, NoReturn, TypeVar, final

import trio
from anyio.streams.stapled import MultiListener

from .. import SocketListener, SocketStream, TCPListener, create_tcp_listener, serve
from .._public import public
from ._connecting import text

# Bound here: a program that puts these names into the module ``trio`` would be called back without an end.
_serve_by_trio = trio.serve_listeners

S = TypeVar("S", bound=trio.abc.AsyncResource)
L = TypeVar("L", bound=trio.abc.Listener[Any])


@public
async def open_tcp_listeners(
    port: int, *, host: str | bytes | None = None, backlog: int | None = None
) -> list[SocketListener]:
    """Listen for TCP connections, with the signature of ``trio.open_tcp_listeners``.

    :param port: 0 lets the system choose one, the same on each address (Trio's may differ)
    :param host: ``None`` for all interfaces, with one socket for IPv6 and IPv4 where the system can do that
    :param backlog: how many connections may wait to be accepted; ``None`` for as many as the system allows
    :returns: a listener for each address; see :func:`roket_trio.create_tcp_listener`
    :raises OSError: the port is taken on one of the addresses, or not allowed; the host has no address
    :raises TypeError: ``port`` is no int, or ``backlog`` neither an int nor ``None``
    """
    if not isinstance(port, int):
        raise TypeError(f"port must be an int not {port!r}")
    if backlog is not None and not isinstance(backlog, int):
        raise TypeError(f"backlog must be an int or None, not {backlog!r}")
    local_host = None if host is None else text(host)
    if backlog is None:
        listener = await create_tcp_listener(local_host=local_host, local_port=port)
    else:
        listener = await create_tcp_listener(local_host=local_host, local_port=port, backlog=backlog)
    return [one for one in listener.listeners if isinstance(one, SocketListener)]


@public
async def serve_listeners(
    handler: Callable[[S], Awaitable[object]],
    listeners: list[L],
    *,
    handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[list[L]] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Accept connections and run ``handler(stream)`` for each, with the signature of ``trio.serve_listeners``.

    As with Trio it goes on until it is cancelled, and what a handler raises comes out of the nursery that it runs in.
    Its connection is reset then. Every connection is supervised and closed by the rules of :func:`roket_trio.serve`.
    If any of ``listeners`` is neither this package's nor TLS over one, all are served by Trio's own function.

    :param handler_nursery: where handlers run; ``None`` for a nursery of the call's own
    :param task_status: ``await nursery.start(serve_listeners, handler, listeners)`` returns ``listeners``
    """
    if not all(_is_ours(listener) for listener in listeners):
        await _serve_by_trio(handler, listeners, handler_nursery=handler_nursery, task_status=task_status)
    every_one: Any = MultiListener(list[Any](listeners))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            partial(
                serve,
                handler,
                every_one,
                on_handler_error="raise",
                handler_nursery=handler_nursery or nursery,
                task_status=_Started(task_status, listeners),
            )
        )
    raise AssertionError("serve() ends by an exception alone")


def _is_ours(listener: object) -> bool:
    while (below := getattr(listener, "transport_listener", None)) is not None:
        listener = below
    return isinstance(listener, (SocketListener, TCPListener))


@final
class _Started(Generic[L]):
    """Tells the caller's ``task_status`` with the list that it has given."""

    def __init__(self, task_status: trio.TaskStatus[list[L]], listeners: list[L]) -> None:
        self._task_status = task_status
        self._listeners = listeners

    def started(self, value: object = None) -> None:
        self._task_status.started(self._listeners)


@public
async def serve_tcp(
    handler: Callable[[SocketStream], Awaitable[object]],
    port: int,
    *,
    host: str | bytes | None = None,
    backlog: int | None = None,
    handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[list[SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Listen and serve, with the signature of ``trio.serve_tcp``: :func:`open_tcp_listeners` and
    :func:`serve_listeners` in one."""
    listeners = await open_tcp_listeners(port, host=host, backlog=backlog)
    await serve_listeners(handler, listeners, handler_nursery=handler_nursery, task_status=task_status)
