"""``serve``: accept connections, run a handler for each, and see to it that every one of them ends."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from copy import copy
from dataclasses import replace
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, final, overload

import anyio
import anyio.abc

from .._net.listener import SocketListener
from .._public import public
from .attributes import ShutdownEvent
from .server import Acceptor, HandlerNursery, Server
from .supervise import DEFAULT_KEEPALIVE, KeepAlive, idle_limits
from .watcher import WatcherHost

if TYPE_CHECKING:
    import trio
    from anyio.streams.stapled import MultiListener
    from anyio.streams.tls import TLSStream as AnyIOTLSStream

    from .._streams.sockets import SocketStream
    from .._streams.tls import TLSStream
    from .._streams.tls_listener import TLSListener
    from .._streams.unix_sockets import UNIXSocketStream

    # AnyIO types the streams of a listener that it puts together as its own.
    SocketListeners: TypeAlias = MultiListener[SocketStream] | MultiListener[anyio.abc.SocketStream]
    TLSListeners: TypeAlias = MultiListener[TLSStream] | MultiListener[AnyIOTLSStream]


@overload
async def serve(
    handler: Callable[[UNIXSocketStream], Awaitable[object]],
    listener: SocketListener,
    *,
    max_connections: int | None = ...,
    shutdown: ShutdownEvent | None = ...,
    drain_seconds: float = ...,
    on_handler_error: Literal["abort", "finish", "raise"] = ...,
    close_wait_seconds: float = ...,
    idle_seconds: float | None = ...,
    keepalive: KeepAlive | None = ...,
    handler_nursery: HandlerNursery | None = ...,
    task_status: anyio.abc.TaskStatus[SocketListener] = ...,
) -> None: ...


@overload
async def serve(
    handler: Callable[[SocketStream], Awaitable[object]],
    listener: SocketListeners,
    *,
    max_connections: int | None = ...,
    shutdown: ShutdownEvent | None = ...,
    drain_seconds: float = ...,
    on_handler_error: Literal["abort", "finish", "raise"] = ...,
    close_wait_seconds: float = ...,
    idle_seconds: float | None = ...,
    keepalive: KeepAlive | None = ...,
    handler_nursery: HandlerNursery | None = ...,
    task_status: anyio.abc.TaskStatus[Any] = ...,
) -> None: ...


@overload
async def serve(
    handler: Callable[[TLSStream], Awaitable[object]],
    listener: TLSListener | TLSListeners,
    *,
    max_connections: int | None = ...,
    shutdown: ShutdownEvent | None = ...,
    drain_seconds: float = ...,
    on_handler_error: Literal["abort", "finish", "raise"] = ...,
    close_wait_seconds: float = ...,
    idle_seconds: float | None = ...,
    keepalive: KeepAlive | None = ...,
    handler_nursery: HandlerNursery | None = ...,
    task_status: anyio.abc.TaskStatus[Any] = ...,
) -> None: ...


@overload
async def serve(
    handler: Callable[[trio.SSLStream[SocketStream]], Awaitable[object]],
    listener: trio.SSLListener[SocketStream],
    *,
    max_connections: int | None = ...,
    shutdown: ShutdownEvent | None = ...,
    drain_seconds: float = ...,
    on_handler_error: Literal["abort", "finish", "raise"] = ...,
    close_wait_seconds: float = ...,
    idle_seconds: float | None = ...,
    keepalive: KeepAlive | None = ...,
    handler_nursery: HandlerNursery | None = ...,
    task_status: anyio.abc.TaskStatus[Any] = ...,
) -> None: ...


@public
async def serve(
    handler: Callable[[Any], Awaitable[object]],
    listener: SocketListener | TLSListener | MultiListener[Any] | trio.SSLListener[Any],
    *,
    max_connections: int | None = None,
    shutdown: ShutdownEvent | None = None,
    drain_seconds: float = 10.0,
    on_handler_error: Literal["abort", "finish", "raise"] = "abort",
    close_wait_seconds: float = 30.0,
    idle_seconds: float | None = None,
    keepalive: KeepAlive | None = DEFAULT_KEEPALIVE,
    handler_nursery: HandlerNursery | None = None,
    task_status: anyio.abc.TaskStatus[Any] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Accept connections, and run ``handler(stream)`` in a task of its own for each, until shut down or cancelled.

    However a handler ends, its connection is closed: when it returns, as by ``aclose()``; when it raises, as
    ``on_handler_error`` says. Each connection is supervised (see :func:`supervise`), so one whose peer has finished or
    vanished ends in time. What a handler raises is logged with the peer's address (logger ``roket_trio``, ERROR); it
    affects neither the other handlers nor the server. A connection that stood still for too long, a handshake that
    failed, and a stream of another package that failed to close are logged too (INFO). A log that cannot be written
    ends nothing.

    When descriptors or memory run out, or accepting fails otherwise, it pauses; see :meth:`SocketListener.accept`.

    :param handler: an async function of one argument, a :class:`SocketStream`, :class:`UNIXSocketStream` or, from a
        :class:`TLSListener`, a :class:`TLSStream`. The handshake is done in the connection's task. From a
        ``trio.SSLListener`` it is a ``trio.SSLStream``, which does the handshake when it is first used
    :param listener: from :func:`create_tcp_listener` or :func:`create_unix_listener`, or a :class:`TLSListener` or
        ``trio.SSLListener`` over one. It is closed when this returns or raises, and the connections that still wait in
        its queue are refused
    :param max_connections: how many connections there may be at once, those that are being closed included; further
        ones wait in the listen queue. ``None`` for no limit
    :param shutdown: an event. When it is set, the connections in the queue are still served (as far as
        ``max_connections`` allows), the listener is closed, so that further ones are refused, handlers may go on for
        ``drain_seconds``, and then are cancelled. They learn of it by :attr:`ServeAttribute.shutdown`
    :param drain_seconds: how long handlers may go on after ``shutdown``; ``math.inf`` for ever
    :param on_handler_error: how a connection ends whose handler raises: ``"abort"`` resets it, ``"finish"`` closes it
        as usual, ``"raise"`` resets it and stops the server. The streams' ``ClosePolicy.on_error`` is set to match
    :param close_wait_seconds: see :func:`supervise`
    :param idle_seconds: see :func:`supervise`
    :param keepalive: see :func:`supervise`
    :param handler_nursery: where handlers run, as for ``trio.serve_listeners``: a nursery, a task group, or an object
        with a ``start_soon`` like theirs; ``None`` for a nursery of the call's own. Handlers in another nursery go on
        when this has returned or was cancelled, and ``drain_seconds`` does not concern them. Their connections are
        supervised and closed as otherwise. What would end the server is raised in that nursery
    :param task_status: ``await nursery.start(serve, handler, listener)`` returns ``listener`` once it is served
    :raises TypeError: ``handler`` is no async function, or ``listener`` is none of this package nor over one
    :raises ValueError: a number or time out of range; an unknown ``on_handler_error``
    :raises ClosedResourceError: another task closed the listener
    :raises BusyResourceError: another task accepts from the listener
    :raises OSError: the socket does not listen any more: other code has shut it down or closed it

    With ``on_handler_error="raise"`` it raises what the first handler raised, as it is, in no group, after the other
    handlers were cancelled. ``KeyboardInterrupt`` and the like are always raised like that.

    Cancellation: handlers are cancelled; everything is closed at once, by the rules for cancelled closes.
    """
    _check_handler(handler)
    if on_handler_error not in ("abort", "finish", "raise"):
        raise ValueError(f'on_handler_error must be "abort", "finish" or "raise", not {on_handler_error!r}')
    if max_connections is not None and max_connections < 1:
        raise ValueError(f"max_connections must be positive: {max_connections}")
    if not drain_seconds >= 0:
        raise ValueError(f"drain_seconds must not be negative: {drain_seconds}")
    acceptors = acceptors_of(listener)
    if not acceptors:
        raise ValueError("there is no socket to accept from")
    limits = idle_limits(close_wait_seconds, idle_seconds)
    server = Server(
        handler, acceptors, inf if max_connections is None else max_connections, limits, keepalive, handler_nursery
    )
    server.stops_at_errors = on_handler_error == "raise"
    on_error: Literal["abort", "finish"] = "finish" if on_handler_error == "finish" else "abort"
    for acceptor in acceptors:
        acceptor.listener.close_policy = replace(acceptor.listener.close_policy, on_error=on_error)
    try:
        async with WatcherHost() as server.watcher:
            task_status.started(listener)
            await server.run(shutdown, drain_seconds)
    finally:
        server.close()
        server.raise_failure()


def _check_handler(handler: object) -> None:
    """Refuse what cannot return an awaitable. What a plain function returns, the first call shows.

    :raises TypeError: it is not callable, or an async generator
    """
    function = handler
    while isinstance(function, partial):
        function = function.func
    if not callable(function):
        if inspect.iscoroutine(function):
            function.close()  # no warning that it was never awaited: the error says more
            raise TypeError(f"serve() needs an async function, not what a call of it returns: {function!r}")
        raise TypeError(f"serve() needs an async function, not {handler!r}")
    if inspect.isasyncgenfunction(function):
        raise TypeError(f"serve() needs an async function, not an async generator: {handler!r}")


def acceptors_of(listener: object) -> list[Acceptor]:
    """The sockets of a listener, or of the listeners in it.

    A ``MultiListener`` has several in ``listeners``. One that does a handshake (:class:`TLSListener`) has the one that
    accepts in ``listener``, and an async ``handshake(stream)`` that returns the handler's stream or raises, within a
    time limit of its own. A listener of Trio's over another one has that in ``transport_listener``.

    :raises TypeError: it is no such listener
    """
    if isinstance(listener, SocketListener):
        return [Acceptor(listener, ())]
    if (several := getattr(listener, "listeners", None)) is not None:
        return [acceptor for one in several for acceptor in acceptors_of(one)]
    inner, handshake = getattr(listener, "listener", None), getattr(listener, "handshake", None)
    if inner is not None and handshake is not None:
        return [Acceptor(one.listener, (*one.handshakes, handshake)) for one in acceptors_of(inner)]
    if (below := getattr(listener, "transport_listener", None)) is not None and hasattr(listener, "accept"):
        accepted = partial(_accepted_through, listener)
        return [Acceptor(one.listener, (*one.handshakes, accepted)) for one in acceptors_of(below)]
    raise TypeError(f"serve() needs a listener of this package, or one over it, not {type(listener).__name__}")


@final
class _Accepted:
    """A listener that has accepted one connection already."""

    def __init__(self, stream: object) -> None:
        self._stream = stream

    async def accept(self) -> object:
        return self._stream


async def _accepted_through(listener: Any, stream: object) -> object:
    """What a listener of Trio's over another one makes of a connection that was accepted there."""
    over_this_one = copy(listener)
    over_this_one.transport_listener = _Accepted(stream)
    return await over_this_one.accept()
