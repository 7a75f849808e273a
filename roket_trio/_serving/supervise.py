"""``supervise``: end a block, and close its connection, when the peer has finished or vanished and nothing moves.

The limit holds while the event loop runs, whatever the block does: the watcher (:mod:`roket_trio._serving.watcher`)
cancels the block and closes the socket itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from types import TracebackType
from typing import Generic, TypeVar, final

import anyio
import anyio.abc

from .._connection.connection import Connection
from .._errors import BrokenResourceError, ClosedResourceError, PeerGoneError
from .._kernel.signal_handlers import is_from_handler
from .._kernel.tcp import keep_alive
from .._public import public
from .._streams.sockets import is_cancellation
from .._streams.transport import socket_stream_of
from .._unclosed import is_inherited
from .idle_timer import IdleLimits, IdleTimer
from .watcher import WatcherHost

S = TypeVar("S", bound=anyio.abc.AsyncResource)

# The most that the kernel takes (tcp(7), MAX_TCP_KEEPIDLE, MAX_TCP_KEEPCNT).
_SECONDS_MOST = 32767
_PROBES_MOST = 127


@public
@final
@dataclass(frozen=True, slots=True)
class KeepAlive:
    """How the kernel finds out that a TCP peer has vanished without FIN or RST: a cut cable, a router that restarted.

    With the default values it takes at most two minutes, whether the connection is idle or not. Without keepalive Linux
    never notices that an idle connection's peer is gone, and it retransmits unacknowledged data for 15 minutes.

    :param idle_seconds: how long the peer may be silent before the first probe is sent (TCP_KEEPIDLE)
    :param interval_seconds: the time between two probes (TCP_KEEPINTVL)
    :param probes: how many probes may stay unanswered (TCP_KEEPCNT); where ``user_timeout_seconds`` is set, Linux goes
        by that instead
    :param user_timeout_seconds: how long sent data may stay unacknowledged (TCP_USER_TIMEOUT). This also ends a
        connection whose peer is alive and takes nothing for so long, as nginx's ``send_timeout`` does after 60 seconds.
        ``None``: the system's own limit, and such a peer may go on for ever

    A connection that is given up looks as if the peer had reset it.

    :raises ValueError: a time or number that the kernel does not take
    """

    idle_seconds: float = 60.0
    interval_seconds: float = 15.0
    probes: int = 4
    user_timeout_seconds: float | None = 120.0

    def __post_init__(self) -> None:
        for name in ("idle_seconds", "interval_seconds"):
            if not 0 < getattr(self, name) <= _SECONDS_MOST:
                raise ValueError(f"{name} must be more than 0 and at most {_SECONDS_MOST}: {getattr(self, name)}")
        if not 0 < self.probes <= _PROBES_MOST:
            raise ValueError(f"probes must be 1 to {_PROBES_MOST}: {self.probes}")
        if self.user_timeout_seconds is not None and not 0 < self.user_timeout_seconds < 2**31 / 1000:
            raise ValueError(f"user_timeout_seconds must be positive: {self.user_timeout_seconds}")

    def _apply(self, connection: Connection) -> None:
        """Set the socket's options; a UNIX socket has none, since its peer cannot vanish unnoticed."""
        if connection.accounting.is_tcp:
            keep_alive(
                connection.sock, self.idle_seconds, self.interval_seconds, self.probes, self.user_timeout_seconds
            )


DEFAULT_KEEPALIVE = KeepAlive()


@public
def supervise(
    stream: S,
    *,
    close_wait_seconds: float = 30.0,
    idle_seconds: float | None = None,
    keepalive: KeepAlive | None = DEFAULT_KEEPALIVE,
) -> Supervision[S]:
    """Bound how long a connection may stand still: ``async with supervise(stream) as stream:``.

    The peer's FIN or RST is noticed even while nobody reads. When nothing has moved since then for
    ``close_wait_seconds``, the block is cancelled and the socket closed, at most an eighth of that time later; leaving
    the block raises :class:`PeerGoneError`. So no socket stays in CLOSE_WAIT without progress for longer than that
    while the event loop runs, not even if the block shields itself from cancellation.

    Progress is a byte that was received, sent, or acknowledged by the peer's kernel. So a block can still read what the
    peer sent before its FIN, and a peer that reads a long answer after its FIN is never cut.

    Leaving the block closes the stream as its own ``async with`` does. In the case of ``PeerGoneError`` the stream was
    closed without waiting: by FIN, or by RST where a send was cut or ``ClosePolicy.on_error`` is ``"abort"``.

    :param stream: a :class:`SocketStream`, a :class:`UNIXSocketStream`, or a TLS stream over one
    :param close_wait_seconds: how long nothing may move after the peer has finished; ``math.inf`` for ever
    :param idle_seconds: how long nothing may move at any time; ``None`` for ever
    :param keepalive: how the kernel finds out that the peer has vanished; ``None`` leaves the socket as it is
    :raises TypeError: the stream is none of this package, nor TLS over one
    :raises ValueError: a time that is not positive

    Entering raises :class:`ClosedResourceError` if this side has closed the stream, and :class:`BusyResourceError` if
    it is supervised already, for example by :func:`serve`. Entering is no checkpoint, leaving is one.

    Leaving raises what the block raised as it is, in no group. It raises :class:`PeerGoneError` when the block was
    cancelled because nothing moved, and has raised nothing, or only that its stream was closed.

    Cancellation: passes through, and the stream is closed on the way.

    Concurrency: other tasks may use the stream meanwhile; they get :class:`ClosedResourceError` when it is closed. One
    task watches all supervised connections of an event loop, in the nursery of one of the blocks. An idle connection
    costs no CPU; one whose time runs is checked eight times within it.
    """
    return Supervision(stream, _connection_below(stream), idle_limits(close_wait_seconds, idle_seconds), keepalive)


def idle_limits(close_wait_seconds: float, idle_seconds: float | None) -> IdleLimits:
    """The limits for :func:`supervise`'s arguments.

    :raises ValueError: a time is not positive
    """
    return IdleLimits(
        _checked_seconds("close_wait_seconds", close_wait_seconds), _checked_seconds("idle_seconds", idle_seconds)
    )


def _checked_seconds(name: str, value: float | None) -> float:
    if value is None:
        return inf
    if not value > 0:
        raise ValueError(f"{name} must be positive: {value}")
    return value


def _connection_below(stream: object) -> Connection:
    """The connection of a stream, or of the stream below TLS.

    :raises TypeError: it is no stream of this package
    """
    found = socket_stream_of(stream)
    if found is None:
        raise TypeError(
            f"only a SocketStream, or TLS over one, can be supervised, not {type(stream).__name__}: the watcher"
            " needs its socket"
        )
    return found._connection


async def close_stream(stream: anyio.abc.AsyncResource, connection: Connection, error: BaseException | None) -> None:
    """Close a stream over ``connection`` as its own ``async with`` does when ``error`` leaves it.

    An error of the close does not replace ``error``; what a signal's handler raises does.
    """
    if is_inherited(connection):  # in a forked child another package's TLS stream would write into the connection
        connection.close_now()
        return
    if error is not None and connection.policy.on_error == "abort" and not is_cancellation(error):
        connection.abort()  # a TLS stream of another package has no close policy
    try:
        await stream.__aexit__(None if error is None else type(error), error, None)
    except Exception as failure:
        if error is None or is_from_handler(failure):
            raise
    finally:
        connection.close_now()


def is_consequence_of_close(error: BaseException) -> bool:
    """Whether the error says only that the connection was closed while it was used."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_consequence_of_close(inner) for inner in error.exceptions)
    return isinstance(error, (ClosedResourceError, BrokenResourceError))


@public
@final
class Supervision(Generic[S]):
    """The async context manager that :func:`supervise` returns. It is entered once, and gives the stream."""

    __slots__ = ("_connection", "_host", "_keepalive", "_limits", "_stream", "_timer", "_watcher")

    def __init__(self, stream: S, connection: Connection, limits: IdleLimits, keepalive: KeepAlive | None) -> None:
        """Not public: use :func:`supervise`."""
        self._stream = stream
        self._connection = connection
        self._limits = limits
        self._keepalive = keepalive

    async def __aenter__(self) -> S:
        self._host = WatcherHost()
        self._watcher = await self._host.__aenter__()
        try:
            self._timer = IdleTimer(self._connection, anyio.CancelScope(), self._limits)
            self._watcher.add(self._timer)
            try:
                if self._keepalive is not None:
                    self._keepalive._apply(self._connection)
            except BaseException:  # a signal's handler has raised it
                self._watcher.remove(self._timer)
                raise
        except BaseException:
            await self._host.__aexit__(None, None, None)  # noqa: ASYNC102 - shields itself
            raise
        self._timer.__enter__()
        return self._stream

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        error = exc
        try:
            if self._timer.__exit__(exc_type, exc, traceback):
                error = None
        except BaseException as remaining:  # noqa: ASYNC103 - the body's group without our cancellation; raised below
            error = remaining
        try:
            error = self._result(error)
            await close_stream(self._stream, self._connection, error)  # noqa: ASYNC102 - as the stream's own __aexit__
        finally:
            self._watcher.remove(self._timer)
            await self._host.__aexit__(None, None, None)  # noqa: ASYNC102 - shields itself
        try:
            if error is not None and error is not exc:
                context = error.__context__
                try:
                    raise error
                finally:
                    error.__context__ = context  # not what was going on in here
            return error is None
        finally:
            del error  # its traceback holds this frame

    def _result(self, error: BaseException | None) -> BaseException | None:
        """What the block raises in the end, when ``error`` has left it."""
        reason = self._timer.reason
        if reason is None or (error is not None and not is_consequence_of_close(error)):
            return error
        gone = PeerGoneError(reason)
        gone.__cause__ = error
        return gone
