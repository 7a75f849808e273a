"""``serve``: a nursery task for each connection, each supervised, and an end that leaves nobody waiting."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from math import inf
from typing import Any, Literal, NamedTuple, Protocol, final

import anyio
import anyio.abc

from .._errors import ClosedResourceError
from .._loops import Nursery, current_loop
from .._net.listener import SocketListener
from .._origin import public
from .._streams.sockets import SocketStream, is_cancellation
from .idle_timer import Budget, IdleTimer
from .supervise import DEFAULT_KEEPALIVE, KeepAlive, checked_seconds, close_face, follows_from_a_close
from .watcher import Watcher, WatcherHost

logger = logging.getLogger("roket_trio")

Handshake = Callable[[Any], Awaitable[Any]]


class ShutdownEvent(Protocol):
    """What ``shutdown`` may be: an event of Trio, AnyIO or asyncio."""

    async def wait(self) -> object: ...


class ListeningSocket(NamedTuple):
    """One listening socket, and what makes the handler's stream of a connection accepted there."""

    listener: SocketListener
    handshakes: tuple[Handshake, ...]


def listening_sockets(listener: Any) -> list[ListeningSocket]:
    """The sockets of whatever listener ours are in.

    A :class:`SocketListener` is one itself; a ``MultiListener`` has them in ``listeners``; one that does a handshake
    (:class:`TLSListener`) has the one that accepts in ``listener``, and an async ``handshake(stream)`` that returns the
    handler's stream or raises, within a time of its own.

    :raises TypeError: one of them is none of these
    """
    if isinstance(listener, SocketListener):
        return [ListeningSocket(listener, ())]
    if (several := getattr(listener, "listeners", None)) is not None:
        return [listening for one in several for listening in listening_sockets(one)]
    inner, handshake = getattr(listener, "listener", None), getattr(listener, "handshake", None)
    if inner is not None and handshake is not None:
        return [
            ListeningSocket(listening.listener, (*listening.handshakes, handshake))
            for listening in listening_sockets(inner)
        ]
    raise TypeError(f"serve() needs a listener of this package, or one over it, not {type(listener).__name__}")


@public
async def serve(
    handler: Callable[[Any], Awaitable[object]],
    listener: Any,
    *,
    max_connections: int | None = None,
    shutdown: ShutdownEvent | None = None,
    drain_seconds: float = 10.0,
    on_handler_error: Literal["abort", "finish", "raise"] = "abort",
    close_wait_seconds: float = 30.0,
    idle_seconds: float | None = None,
    keepalive: KeepAlive | None = DEFAULT_KEEPALIVE,
    task_status: anyio.abc.TaskStatus[Any] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Accept connections, and run ``handler(stream)`` in a task of its own for each, until shut down or cancelled.

    However a handler ends, its connection is closed: when it returns, as by ``aclose()``; when it raises, as
    ``on_handler_error`` says. Each is supervised (see :func:`supervise`): one whose peer has finished or vanished does
    not outstay its budget. What a handler raises is logged (``roket_trio``, ERROR) with the peer's address; that a
    budget was used up, or a handshake or the close of somebody else's stream failed, too (INFO). Neither the other
    handlers nor the server notice.

    When descriptors or memory run out, accepting pauses, and goes on by itself; see :meth:`SocketListener.accept`.

    :param handler: an async function of one argument, a :class:`SocketStream`, :class:`UNIXSocketStream` or, from a
        :class:`TLSListener`, a :class:`TLSStream`. The handshake is done in the connection's task
    :param listener: from :func:`create_tcp_listener` or :func:`create_unix_listener`, or a :class:`TLSListener` over
        one. It is closed when this returns or raises, and who still waits in its queue is refused
    :param max_connections: at most so many at once, those that are being closed included; further ones wait in the
        listen queue. ``None`` for no limit
    :param shutdown: an event; when it is set, those that wait in the queue are still served (as far as
        ``max_connections`` allows), the listener is closed, so that further ones are refused, handlers may go on for
        ``drain_seconds``, and then are cancelled
    :param drain_seconds: how long handlers may go on after ``shutdown``; ``math.inf`` for ever
    :param on_handler_error: how a connection ends whose handler raises: ``"abort"`` resets it, ``"finish"`` closes it
        as usual, ``"raise"`` resets it and stops the server. The streams' ``ClosePolicy.on_error`` is set to match
    :param close_wait_seconds: see :func:`supervise`
    :param idle_seconds: see :func:`supervise`
    :param keepalive: see :func:`supervise`
    :param task_status: ``await nursery.start(serve, handler, listener)`` returns ``listener`` once it is served
    :raises TypeError: a listener that is not of this package
    :raises ValueError: a number or time out of range; an unknown ``on_handler_error``
    :raises ClosedResourceError: another task closed the listener
    :raises BusyResourceError: another task accepts from the listener
    :raises OSError: accepting failed in a way that nothing can mend

    With ``on_handler_error="raise"`` it raises what the first handler raised, as it is, in no group; so it does always
    with what is no ``Exception`` (``KeyboardInterrupt``, wherever in here it came). The other handlers are cancelled
    first.

    Cancellation: handlers are cancelled; everything is closed at once, by the rules for cancelled closes.
    """
    if on_handler_error not in ("abort", "finish", "raise"):
        raise ValueError(f'on_handler_error must be "abort", "finish" or "raise", not {on_handler_error!r}')
    if max_connections is not None and max_connections < 1:
        raise ValueError(f"max_connections must be positive: {max_connections}")
    if not drain_seconds >= 0:
        raise ValueError(f"drain_seconds must not be negative: {drain_seconds}")
    sockets = listening_sockets(listener)
    if not sockets:
        raise ValueError("there is no socket to accept from")
    budget = Budget(
        checked_seconds("close_wait_seconds", close_wait_seconds), checked_seconds("idle_seconds", idle_seconds)
    )
    server = _Server(handler, sockets, inf if max_connections is None else max_connections, budget, keepalive)
    server.stops_at_errors = on_handler_error == "raise"
    on_error: Literal["abort", "finish"] = "finish" if on_handler_error == "finish" else "abort"
    for listening in sockets:
        listening.listener.close_policy = replace(listening.listener.close_policy, on_error=on_error)
    try:
        async with WatcherHost() as server.watcher:
            task_status.started(listener)
            await server.run(shutdown, drain_seconds)
    finally:
        server.close()
        server.raise_failure()


@final
class _Server:
    """One call of :func:`serve`."""

    def __init__(
        self,
        handler: Callable[[Any], Awaitable[object]],
        sockets: list[ListeningSocket],
        most: float,
        budget: Budget,
        keepalive: KeepAlive | None,
    ) -> None:
        self.watcher: Watcher
        self.stops_at_errors: bool = False
        self._handler = handler
        self._sockets = sockets
        self._most = most
        self._budget = budget
        self._keepalive = keepalive
        self._loop = current_loop()
        self._handlers: Nursery
        self._active = 0
        # For whoever waits until there are fewer.
        self._fewer: anyio.Event | None = None
        self._failure: BaseException | None = None

    async def run(self, shutdown: ShutdownEvent | None, drain_seconds: float) -> None:
        """Serve until ``shutdown``, and drain. No task in here raises: what ends it all is in :meth:`raise_failure`."""
        try:
            await self._run(shutdown, drain_seconds)
        except BaseExceptionGroup as group:
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
                error = error.exceptions[0]
            try:
                raise error from None  # noqa: ASYNC123 - Ctrl-C while the nurseries were waited for comes out as it is
            finally:
                del error  # its traceback holds this frame

    async def _run(self, shutdown: ShutdownEvent | None, drain_seconds: float) -> None:
        async with self._loop.open_nursery() as self._handlers:
            async with anyio.create_task_group() as acceptors:
                for listening in self._sockets:
                    acceptors.start_soon(self._accept, listening)
                if shutdown is not None:
                    await self._wait_for(shutdown)
                    acceptors.cancel_scope.cancel()
            try:
                await self._take_who_waits()
            except (OSError, ClosedResourceError) as error:
                logger.warning("accept: %s; connections that wait in the listen queue are refused", error)
            finally:
                self.close()
            self._handlers.cancel_scope.deadline = anyio.current_time() + drain_seconds

    def close(self) -> None:
        """Stop listening. Idempotent."""
        for listening in self._sockets:
            listening.listener.close()

    def raise_failure(self) -> None:
        """Raise what has brought the server down, if anything has."""
        failure, self._failure = self._failure, None
        try:
            if failure is not None:
                raise failure
        finally:
            del failure  # its traceback holds this frame

    def _bring_down(self, failure: BaseException) -> None:
        if self._failure is None:
            self._failure = failure
        self._handlers.cancel_scope.cancel()

    async def _wait_for(self, shutdown: ShutdownEvent) -> None:
        try:
            await shutdown.wait()
        except (Exception, KeyboardInterrupt) as error:
            self._bring_down(error)

    # --- accepting ---------------------------------------------------------------------------------------------------

    async def _accept(self, listening: ListeningSocket) -> None:
        try:
            while True:
                # Handlers run at least once in a millisecond, although the next connection may be waiting always.
                await self._loop.step()
                while self._active >= self._most:
                    self._fewer = self._fewer or anyio.Event()
                    await self._fewer.wait()
                # Counted before, since accepting may have to wait for descriptors, and there may be other acceptors.
                self._active += 1
                stream = None
                try:
                    stream = await listening.listener.accept_waiting()
                finally:
                    if stream is None:
                        self._one_less()
                if stream is None:
                    await listening.listener.wait_connection()
                else:
                    self._start(stream, listening)
        except (Exception, KeyboardInterrupt) as error:
            self._bring_down(error)

    async def _take_who_waits(self) -> None:
        """Accept those that wait in the queues now: not those that come meanwhile, of whom there may be no end."""
        for listening in self._sockets:
            for _ in range(listening.listener.queue_length):
                await self._loop.step()
                if self._active >= self._most or (stream := listening.listener.accept_now()) is None:
                    break
                self._active += 1
                self._start(stream, listening)

    def _start(self, stream: SocketStream, listening: ListeningSocket) -> None:
        self._handlers.start_soon(self._attend, stream, listening.handshakes)

    def _one_less(self) -> None:
        self._active -= 1
        if self._fewer is not None:
            self._fewer.set()
            self._fewer = None

    # --- one connection ----------------------------------------------------------------------------------------------

    async def _attend(self, stream: SocketStream, handshakes: tuple[Handshake, ...]) -> None:
        """Run the handler, and close the connection whatever became of that."""
        connection = stream._connection
        timer = IdleTimer(connection, anyio.CancelScope(), self._budget)
        face: Any = stream
        is_handled = False
        cancellation: BaseException | None = None
        failure: BaseException | None = None
        try:
            self.watcher.add(timer)
            if self._keepalive is not None:
                self._keepalive.apply(connection)
            with timer.scope:
                for handshake in handshakes:
                    face = await handshake(face)
                is_handled = True
                await self._handler(face)
        except BaseException as error:  # noqa: ASYNC103 - what is not raised again was logged, or ends the server
            cancellation, failure = _parted(error)
            if failure is not None:
                is_consequence = timer.reason is not None and follows_from_a_close(failure)
                failure = None if is_consequence else self._reported(stream, failure, is_handled)
            if cancellation is not None:
                raise cancellation  # noqa: ASYNC104, B904 - the same, or its part of a group
        finally:
            if timer.reason is not None:
                logger.info("%s: %s", _peer_of(stream), timer.reason)
            try:
                await close_face(face, connection, failure)  # noqa: ASYNC102 - cancelled or not, it releases the socket
            except Exception as error:  # a stream that is not ours may fail to close; the connection is closed
                logger.info("the stream of %s did not close well: %r", _peer_of(stream), error)
            finally:
                del cancellation, failure  # their tracebacks hold this frame
                self.watcher.drop(timer)
                self._one_less()

    def _reported(self, stream: SocketStream, error: BaseException, is_handled: bool) -> BaseException | None:
        """Log what was raised, or let it end the server; returns it if it was the handler that failed."""
        if not isinstance(error, Exception):
            self._bring_down(error)
        elif not is_handled:
            logger.info("the handshake with %s failed: %r", _peer_of(stream), error)
            return None
        else:
            logger.error("the handler of %s failed", _peer_of(stream), exc_info=error)
            if self.stops_at_errors:
                self._bring_down(error)
        return error


def _parted(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """What a handler raised: the cancellation (or its coroutine's end), and the rest."""
    if isinstance(error, BaseExceptionGroup):
        cancellation, rest = error.split(is_cancellation)
        return (None, error) if cancellation is None else (cancellation, rest)  # whole if it can be
    return (error, None) if is_cancellation(error) or isinstance(error, GeneratorExit) else (None, error)


def _peer_of(stream: SocketStream) -> str:
    address = stream._remote_address
    if isinstance(address, tuple):
        host, port = address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return address or "an unnamed peer"
