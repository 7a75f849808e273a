"""``supervise``: a connection whose peer has finished, or has vanished, holds up a block for no longer than agreed.

The bound holds while the loop runs, whatever the body does: the watcher (:mod:`roket_trio._serving.watcher`) cancels
the body and closes the socket by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from types import TracebackType
from typing import Any, Generic, TypeVar, final

import anyio
import anyio.abc

from .._connection.connection import Connection
from .._errors import BrokenResourceError, ClosedResourceError, PeerGoneError
from .._kernel.tcp import keep_alive
from .._origin import public
from .._streams.sockets import SocketStream, is_cancellation
from .idle_timer import Budget, IdleTimer
from .watcher import WatcherHost

S = TypeVar("S", bound=anyio.abc.AsyncResource)

# The most that the kernel takes (tcp(7), MAX_TCP_KEEPIDLE, MAX_TCP_KEEPCNT).
_SECONDS_MOST = 32767
_PROBES_MOST = 127


@public
@final
@dataclass(frozen=True, slots=True)
class KeepAlive:
    """How the kernel finds out that a TCP peer has vanished without FIN or RST: a cut cable, a lost router state.

    With these values within two minutes, idle or not. Linux by itself asks a peer that is silent after two hours, and
    only when told to; data that nobody acknowledges it repeats for 15 minutes.

    :param idle_seconds: ask a peer that has been silent for so long (TCP_KEEPIDLE)...
    :param interval_seconds: ...and again after so long without an answer (TCP_KEEPINTVL)...
    :param probes: ...and give up when so many were not answered (TCP_KEEPCNT); Linux goes by ``user_timeout_seconds``
        instead where that is set
    :param user_timeout_seconds: give up when data stays unacknowledged for so long (TCP_USER_TIMEOUT). A peer that is
        alive and takes nothing for so long is cut too, as by nginx's ``send_timeout`` after 60 seconds. ``None``: the
        system's own bound, and such a peer may go on for ever

    The connection is then as if the peer had reset it.

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

    def apply(self, connection: Connection) -> None:
        """Tell the kernel. Nothing happens to a UNIX socket, whose peer cannot vanish unseen."""
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

    A peer that has finished (FIN) or has reset the connection is noticed while nobody reads. When nothing has moved
    since then for ``close_wait_seconds``, the block is cancelled and the socket closed, at most an eighth of that time
    later; leaving the block raises :class:`PeerGoneError`. So no socket stays in CLOSE_WAIT without progress for longer
    while the event loop runs, not even if the block shields itself from cancellation.

    Progress is a byte that was received, sent, or acknowledged by the peer's kernel: what the peer sent before its FIN
    may still be read, and a peer that reads a long answer after its FIN is never cut.

    The block's end closes the stream, by the rules of its ``async with``. After ``PeerGoneError`` it was closed without
    waiting: by FIN, or by RST where a send was cut or ``ClosePolicy.on_error`` is ``"abort"``.

    :param stream: a :class:`SocketStream`, a :class:`UNIXSocketStream`, or a TLS stream over one
    :param close_wait_seconds: how long it may stand still after the peer has finished; ``math.inf`` for ever
    :param idle_seconds: how long it may stand still at any time; ``None`` for ever
    :param keepalive: how the kernel finds out that the peer has vanished; ``None`` leaves the socket as it is
    :raises TypeError: the stream is no connection of ours
    :raises ValueError: a time that is not positive

    Entering raises :class:`ClosedResourceError` if this side has closed the stream, :class:`BusyResourceError` if it is
    supervised already (by :func:`serve`, say). Entering is no checkpoint, leaving is one.

    Leaving raises what the block raised as it is, in no group, and :class:`PeerGoneError` when the budget was used up
    and the block raised nothing, or only what follows from that.

    Cancellation: passes through; the stream is closed on the way.

    Concurrency: other tasks may use the stream meanwhile; they get :class:`ClosedResourceError` when it is closed. One
    task of the event loop looks after all its supervised connections; it lives in the nursery of one of the blocks. An
    idle connection costs no CPU, one whose time runs eight short looks in that time.
    """
    budget = Budget(
        checked_seconds("close_wait_seconds", close_wait_seconds), checked_seconds("idle_seconds", idle_seconds)
    )
    return Supervision(stream, connection_under(stream), budget, keepalive)


def checked_seconds(name: str, value: float | None) -> float:
    """A bound, ``inf`` for none.

    :raises ValueError: it is not positive
    """
    if value is None:
        return inf
    if not value > 0:
        raise ValueError(f"{name} must be positive: {value}")
    return value


def connection_under(stream: Any) -> Connection:
    """The connection that a stream is a face of, or runs over.

    :raises TypeError: it is none of ours
    """
    inner = stream
    while not isinstance(inner, SocketStream):
        inner = getattr(inner, "transport_stream", None)
        if inner is None:
            raise TypeError(
                f"only a SocketStream, or TLS over one, can be supervised, not {type(stream).__name__}: the socket is"
                " watched itself"
            )
    return inner._connection


async def close_face(face: Any, connection: Connection, error: BaseException | None) -> None:
    """Close a stream over ``connection``, as when ``error`` leaves an ``async with`` of its own.

    An error of the close does not take the place of another one.
    """
    if error is not None and connection.policy.on_error == "abort" and not is_cancellation(error):
        connection.abort()  # a TLS stream that is not ours knows of no policy
    try:
        await face.__aexit__(None if error is None else type(error), error, None)
    except Exception:
        if error is None:
            raise
    finally:
        connection.close_now()


def follows_from_a_close(error: BaseException) -> bool:
    """Whether this is what a body meets whose connection was closed for it."""
    if isinstance(error, BaseExceptionGroup):
        return all(follows_from_a_close(inner) for inner in error.exceptions)
    return isinstance(error, (ClosedResourceError, BrokenResourceError))


@public
@final
class Supervision(Generic[S]):
    """What :func:`supervise` returns: an async context manager, to be entered once."""

    __slots__ = ("_budget", "_connection", "_host", "_keepalive", "_stream", "_timer", "_watcher")

    def __init__(self, stream: S, connection: Connection, budget: Budget, keepalive: KeepAlive | None) -> None:
        """Not public: use :func:`supervise`."""
        self._stream = stream
        self._connection = connection
        self._budget = budget
        self._keepalive = keepalive

    async def __aenter__(self) -> S:
        self._host = WatcherHost()
        self._watcher = await self._host.__aenter__()
        try:
            self._timer = IdleTimer(self._connection, anyio.CancelScope(), self._budget)
            self._watcher.add(self._timer)
        except BaseException:
            await self._host.__aexit__(None, None, None)  # noqa: ASYNC102 - shields itself
            raise
        if self._keepalive is not None:
            self._keepalive.apply(self._connection)
        self._timer.scope.__enter__()
        return self._stream

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        error = exc
        try:
            if self._timer.scope.__exit__(exc_type, exc, traceback):
                error = None
        except BaseException as remaining:  # noqa: ASYNC103 - the body's group without our cancellation; raised below
            error = remaining
        try:
            error = self._judged(error)
            await close_face(self._stream, self._connection, error)  # noqa: ASYNC102 - as the stream's own __aexit__
        finally:
            self._watcher.drop(self._timer)
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

    def _judged(self, error: BaseException | None) -> BaseException | None:
        """What leaves the block in the end."""
        reason = self._timer.reason
        if reason is None or (error is not None and not follows_from_a_close(error)):
            return error
        gone = PeerGoneError(reason)
        gone.__cause__ = error
        return gone
