"""The idle timer of a supervised connection, and the queue of those that run.

Nothing here waits: the watcher (:mod:`roket_trio._serving.watcher`) calls what is due.
"""

from __future__ import annotations

import heapq
import itertools
from math import inf
from types import TracebackType
from typing import NamedTuple, final

import anyio

from .._connection.connection import Connection
from .._connection.idle_clock import IdleClock
from .._connection.peer_end import peer_has_finished
from .._connection.states import Phase
from .._kernel import tcp
from .._kernel.signal_handlers import is_from_kernel
from .._unclosed import is_inherited

# Stale entries are removed from the queue when they are the larger part of it, and more than this.
_STALE_AT_MOST = 64


@final
class IdleLimits(NamedTuple):
    """For how long a connection may stand still (seconds; ``inf`` for ever)."""

    after_fin: float
    """After the peer has finished."""
    ever: float
    """At any time."""


@final
class IdleTimer:
    """Notices that nothing has moved on one supervised connection for too long, and then closes it."""

    __slots__ = ("_clock", "connection", "due", "fd", "has_peer_finished", "limits", "reason", "scope")

    def __init__(self, connection: Connection, scope: anyio.CancelScope, limits: IdleLimits) -> None:
        """:param scope: what is cancelled when the connection has stood still for too long"""
        self.connection: Connection = connection
        self.scope: anyio.CancelScope = scope
        self.fd: int = connection.sock.fileno()
        self.has_peer_finished: bool = False
        # When the next check is due, as the timer queue has it. None: there is none.
        self.due: float | None = None
        # Why the connection was closed, if it was.
        self.reason: str | None = None
        self.limits = limits
        self._clock: IdleClock | None = None

    def __enter__(self) -> None:
        """Begin the block that is cancelled."""
        self.scope.__enter__()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if is_inherited(self.connection):
            self.connection.loop.resume_in_child(self.scope)
        return bool(self.scope.__exit__(exc_type, exc, traceback))

    def is_peer_gone(self) -> bool:
        """Whether the peer's FIN or RST has arrived at a connection that is not closed yet."""
        connection = self.connection
        return connection.sock.fileno() == self.fd and peer_has_finished(connection)

    def peer_finished(self, now: float) -> float:
        """Note that the peer's FIN or RST has come, which counts as a movement; returns when to check."""
        self.has_peer_finished = True
        return self.start(now)

    @property
    def limit(self) -> float:
        """For how long nothing may move, now."""
        limits = self.limits
        return min(limits.after_fin, limits.ever) if self.has_peer_finished else limits.ever

    def start(self, now: float) -> float:
        """Begin to measure; returns when to check."""
        self._clock = IdleClock(self.limit, self._progress(), now)
        return self._clock.due

    def check(self, now: float) -> float:
        """Compare what has moved, and close the connection if nothing has for too long.

        :returns: when to check again, ``inf`` for never
        """
        life = self.connection.life
        if life.phase is Phase.CLOSED or self._clock is None:
            return inf
        progress = self._progress()
        # A close that has begun has bounds of its own, unless it waits for a worker thread.
        if life.phase is Phase.CLOSING and self.connection.descriptor_users.are_none:
            self._clock.restart(progress, now)
        elif self._clock.is_over(progress, now):
            self._close()
            return inf
        return self._clock.due

    def _progress(self) -> tuple[int, int]:
        """What changes with each byte that moves: how many we have moved, and how many the peer has acknowledged."""
        connection = self.connection
        moved = connection.moved_bytes
        try:
            if connection.accounting.is_tcp:
                return moved, tcp.acked_bytes(connection.sock) or 0
            # A UNIX socket's peer takes from our queue.
            return moved, tcp.unacked_bytes(connection.sock) if tcp.HAVE_TCP_INFO else 0
        except OSError as error:
            if not is_from_kernel(error):
                raise
            # other code has closed the descriptor
            return moved, 0

    def _close(self) -> None:
        why = "the peer has finished or is lost, and " if self.has_peer_finished else ""
        self.reason = f"{why}nothing has moved for {self.limit:g} seconds"
        # The body is cancelled first, so that it does not meet a closed stream instead.
        self.scope.cancel()
        # The connection is closed here, so that a body that shields itself does not keep the socket.
        if self.connection.policy.on_error == "abort":
            self.connection.abort()
        else:
            self.connection.close_now()


@final
class TimerQueue:
    """The idle timers with a check to come, the next one first: a heap. Rescheduling a timer leaves a stale entry."""

    __slots__ = ("_heap", "_number", "_stale")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, IdleTimer]] = []
        self._number = itertools.count()
        self._stale = 0

    def schedule(self, timer: IdleTimer, due: float) -> None:
        """Have ``timer`` checked at ``due`` instead of when it was due before; ``inf`` for never."""
        if timer.due is not None:
            self._stale += 1
        timer.due = None if due == inf else due
        if timer.due is not None:
            heapq.heappush(self._heap, (due, next(self._number), timer))
        if self._stale > _STALE_AT_MOST and self._stale * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].due == entry[0]]
            heapq.heapify(self._heap)
            self._stale = 0

    def next_due(self) -> float:
        """When the next check is due; ``inf`` for never."""
        heap = self._heap
        while heap and heap[0][2].due != heap[0][0]:
            heapq.heappop(heap)
            self._stale -= 1
        return heap[0][0] if heap else inf

    def first_due(self, now: float) -> IdleTimer | None:
        """A timer whose check is due. It stays in the queue until it is scheduled again."""
        return None if self.next_due() > now else self._heap[0][2]
