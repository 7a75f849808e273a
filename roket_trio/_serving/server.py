"""The server of one call of ``serve``: its acceptors, and a task for each connection, each of them supervised."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple, Protocol, final

import anyio
import anyio.abc

from .._connection.log import log
from .._errors import ClosedResourceError, bare, exits_in_group
from .._kernel.signal_handlers import is_from_handler
from .._loops import Nursery, current_loop
from .._net.listener import SocketListener
from .._streams.sockets import SocketStream, is_cancellation
from .._unclosed import is_inherited
from .attributes import ServeAttribute, ShutdownEvent
from .idle_timer import IdleLimits, IdleTimer
from .supervise import KeepAlive, close_stream, is_consequence_of_close
from .watcher import Watcher, WatcherHost

Handshake = Callable[[Any], Awaitable[Any]]


class HandlerNursery(Protocol):
    """Where handlers may run: a nursery of Trio's, a task group of AnyIO's, or another object with their method."""

    def start_soon(self, async_fn: Callable[..., Coroutine[Any, Any, Any]], /, *args: Any) -> object: ...


class Acceptor(NamedTuple):
    """A listening socket, and the handshakes that make the handler's stream of a connection accepted there."""

    listener: SocketListener
    handshakes: tuple[Handshake, ...]


@final
class Server:
    """Accepts connections, and ends each of them, until it is shut down or cancelled."""

    def __init__(
        self,
        handler: Callable[[Any], Awaitable[object]],
        acceptors: list[Acceptor],
        max_connections: float,
        limits: IdleLimits,
        keepalive: KeepAlive | None,
        handler_nursery: HandlerNursery | None,
    ) -> None:
        self.watcher: Watcher
        self.stops_at_errors: bool = False
        self._handler = handler
        self._acceptors = acceptors
        self._max_connections = max_connections
        self._limits = limits
        self._keepalive = keepalive
        self._loop = current_loop()
        self._handler_nursery = handler_nursery
        self._handlers: Nursery
        self._connections = 0
        # Set when a connection ends, for acceptors that wait for that.
        self._one_ended: anyio.Event | None = None
        # What a stream says of this server, besides AnyIO's attributes.
        self._attributes: dict[Any, Callable[[], Any]] = {}
        self._failure: BaseException | None = None

    async def run(self, shutdown: ShutdownEvent | None, drain_seconds: float) -> None:
        """Serve until ``shutdown``, and drain. No task raises: :meth:`raise_failure` does."""
        if shutdown is not None:
            self._attributes[ServeAttribute.shutdown] = lambda: shutdown
        try:
            async with self._loop.open_nursery() as self._handlers:
                async with anyio.create_task_group() as accepting:
                    for acceptor in self._acceptors:
                        accepting.start_soon(self._accept, acceptor)
                    if shutdown is not None:
                        await self._wait_for(shutdown)
                        accepting.cancel_scope.cancel()
                try:
                    await self._accept_backlog()
                except (OSError, ClosedResourceError) as error:
                    if is_from_handler(error):
                        raise
                    log(logging.WARNING, "accept: %s; connections that wait in the listen queue are refused", error)
                finally:
                    self.close()
                self._handlers.cancel_scope.deadline = anyio.current_time() + drain_seconds
        except BaseExceptionGroup as group:
            raise bare(group) from None  # noqa: ASYNC123 - Ctrl-C while the nurseries were waited for comes out as it is

    def close(self) -> None:
        """Stop listening. Idempotent."""
        for acceptor in self._acceptors:
            acceptor.listener.close()

    def raise_failure(self) -> None:
        """Raise what has ended the server, if that was a failure."""
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

    @exits_in_group
    async def _accept(self, acceptor: Acceptor) -> None:
        try:
            while True:
                # Handlers run at least once in a millisecond, even if a connection is always waiting.
                await self._loop.step()
                while self._connections >= self._max_connections:
                    self._one_ended = self._one_ended or anyio.Event()
                    await self._one_ended.wait()
                # Counted before, since accepting may have to wait for descriptors, and there may be other acceptors.
                self._connections += 1
                stream = None
                try:
                    stream = await acceptor.listener.accept_waiting()
                finally:
                    if stream is None:
                        self._end_connection()
                if stream is None:
                    await acceptor.listener.wait_connection()
                else:
                    self._start(stream, acceptor)
        except (Exception, KeyboardInterrupt) as error:
            self._bring_down(error)

    async def _accept_backlog(self) -> None:
        """Accept the connections that wait in the queues now, and not those that come meanwhile, maybe without end."""
        for acceptor in self._acceptors:
            for _ in range(acceptor.listener.queue_length):
                await self._loop.step()
                if self._connections >= self._max_connections or (stream := acceptor.listener.accept_now()) is None:
                    break
                self._connections += 1
                self._start(stream, acceptor)

    def _start(self, stream: SocketStream, acceptor: Acceptor) -> None:
        stream._attributes_of_server = self._attributes
        if self._handler_nursery is None:
            self._handlers.start_soon(self._handle_here, stream, acceptor.handshakes)
            return
        try:
            self._handler_nursery.start_soon(self._handle_elsewhere, stream, acceptor.handshakes)
        except BaseException:  # it takes no tasks any more
            stream.abort()
            self._end_connection()
            raise

    def _end_connection(self) -> None:
        self._connections -= 1
        if self._one_ended is not None:
            self._one_ended.set()
            self._one_ended = None

    # --- one connection ----------------------------------------------------------------------------------------------

    @exits_in_group
    async def _handle_here(self, stream: SocketStream, handshakes: tuple[Handshake, ...]) -> None:
        await self._handle(stream, handshakes, self.watcher, self._bring_down)

    async def _handle_elsewhere(self, stream: SocketStream, handshakes: tuple[Handshake, ...]) -> None:
        """Run the handler in the caller's nursery, which ends by what ends a server otherwise. It may outlive the call
        of ``serve``, so that it hosts the watcher itself."""
        failures: list[BaseException] = []
        try:
            async with WatcherHost() as watcher:
                await self._handle(stream, handshakes, watcher, failures.append)
        finally:
            stream._connection.close_now()  # no descriptor was left for a watcher
        if failures:
            raise failures.pop()

    async def _handle(
        self,
        stream: SocketStream,
        handshakes: tuple[Handshake, ...],
        watcher: Watcher,
        bring_down: Callable[[BaseException], object],
    ) -> None:
        """Run the handler, and close the connection however that ends.

        :param bring_down: is called with what ends the server
        """
        connection = stream._connection
        timer = IdleTimer(connection, anyio.CancelScope(), self._limits)
        handlers_stream: Any = stream
        is_handled = False
        cancellation: BaseException | None = None
        failure: BaseException | None = None
        try:
            watcher.add(timer)
            if self._keepalive is not None:
                self._keepalive._apply(connection)
            with timer:
                for handshake in handshakes:
                    handlers_stream = await handshake(handlers_stream)
                is_handled = True
                await self._call_handler(handlers_stream)
        except BaseException as error:  # noqa: ASYNC103 - what is not raised again was logged, or ends the server
            if is_inherited(connection):
                raise  # a forked child is no server: what its handler raises leaves serve() as it is
            cancellation, failure = _without_cancellation(error)
            if failure is not None:
                is_consequence = timer.reason is not None and is_consequence_of_close(failure)
                failure = None if is_consequence else self._report(stream, failure, is_handled, bring_down)
            if cancellation is not None:
                raise cancellation  # noqa: ASYNC104, B904 - the same, or its part of a group
        finally:
            if timer.reason is not None:
                log(logging.INFO, "%s: %s", _peer_of(stream), timer.reason)
            try:
                await close_stream(handlers_stream, connection, failure)  # noqa: ASYNC102 - cancelled or not, the socket is released
            except Exception as error:  # another package's stream may fail to close; the connection is closed
                log(logging.INFO, "the stream of %s did not close well: %r", _peer_of(stream), error)
            finally:
                del cancellation, failure  # their tracebacks hold this frame
                watcher.remove(timer)
                if not is_inherited(connection):  # else the child would accept a client of its parent's
                    self._end_connection()

    async def _call_handler(self, stream: Any) -> None:
        result = self._handler(stream)
        if not inspect.isawaitable(result):
            raise TypeError(f"serve() needs an async function; {self._handler!r} returned {result!r}")
        await result

    def _report(
        self,
        stream: SocketStream,
        error: BaseException,
        is_handled: bool,
        bring_down: Callable[[BaseException], object],
    ) -> BaseException | None:
        """Log what was raised, or end the server; returns ``error`` if the handler raised it."""
        if isinstance(error, Exception):
            if not is_handled:
                log(logging.INFO, "the handshake with %s failed: %r", _peer_of(stream), error)
                return None
            log(logging.ERROR, "the handler of %s failed", _peer_of(stream), error=error)
        if self.stops_at_errors or not isinstance(error, Exception):
            bring_down(error)
        return error


def _without_cancellation(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Split what a handler raised into the cancellation (or the end of its coroutine) and the rest."""
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
