"""The time of one supervised connection: what has moved, since when nothing has, and what is done about it.

Nothing here waits: :mod:`roket_trio._serving.watcher` says when to look.
"""

from __future__ import annotations

import heapq
import itertools
from math import inf
from typing import NamedTuple, final

import anyio

from .._connection.connection import Connection
from .._connection.states import Phase
from .._kernel import tcp

# A connection whose time runs is looked at so many times before it is over, so it is cut at most an eighth late.
LOOKS = 8

# Stale entries of the heap are thrown out when they are the larger part of it, and at least so many.
_STALE_AT_MOST = 64


@final
class Budget(NamedTuple):
    """For how long a connection may stand still (seconds; ``inf`` for ever)."""

    after_fin: float
    """After the peer has finished."""
    ever: float
    """At any time."""


@final
class IdleTimer:
    """One supervised connection: what has moved, since when nothing has, and what was decided about it."""

    __slots__ = ("_moved_at", "_seen", "budget", "connection", "due", "fd", "has_peer_finished", "reason", "scope")

    def __init__(self, connection: Connection, scope: anyio.CancelScope, budget: Budget) -> None:
        """:param scope: what is cancelled when the budget is used up"""
        self.connection: Connection = connection
        self.scope: anyio.CancelScope = scope
        self.fd: int = connection.sock.fileno()
        self.has_peer_finished: bool = False
        # When it is to be looked at again. None: not at all.
        self.due: float | None = None
        # Why the connection was closed, if it was.
        self.reason: str | None = None
        self.budget = budget
        self._seen: tuple[int, int] = (0, 0)
        self._moved_at = 0.0

    def is_peer_gone(self) -> bool:
        """Whether the peer's FIN or RST has arrived at a connection that is not closed yet."""
        connection = self.connection
        return connection.sock.fileno() == self.fd and connection.peer_has_finished()

    def peer_finished(self, now: float) -> float:
        """The peer's FIN or RST has come, which is a movement like any other; returns when to look."""
        self.has_peer_finished = True
        return self.begin(now)

    @property
    def limit(self) -> float:
        """For how long nothing may move, now."""
        budget = self.budget
        return min(budget.after_fin, budget.ever) if self.has_peer_finished else budget.ever

    def begin(self, now: float) -> float:
        """The time begins to run; returns when to look."""
        self._seen = self._progress()
        self._moved_at = now
        return now + self.limit / LOOKS

    def look(self, now: float) -> float:
        """See whether anything has moved, and close the connection if that is too long ago.

        :returns: when to look again, ``inf`` for never
        """
        life = self.connection.life
        if life.phase is Phase.CLOSED:
            return inf
        limit = self.limit
        seen = self._progress()
        # A close that has begun has bounds of its own, unless it waits for a worker thread.
        if seen != self._seen or (life.phase is Phase.CLOSING and not self.connection.is_lent):
            self._seen, self._moved_at = seen, now
        elif self.due is not None and now - self.due > limit / LOOKS:
            self._moved_at += now - self.due  # the loop stood still, and with it everybody who would have moved
        if now >= self._moved_at + limit:
            self._close(limit)
            return inf
        return min(now + limit / LOOKS, self._moved_at + limit)

    def _progress(self) -> tuple[int, int]:
        """What changes whenever a byte has moved: how many we have moved, and how many the peer's side has taken."""
        connection = self.connection
        moved = connection.moved_bytes
        try:
            if connection.accounting.is_tcp:
                return moved, tcp.acked_bytes(connection.sock) or 0
            # A UNIX socket's peer takes from our queue.
            return moved, tcp.unacked_bytes(connection.sock) if tcp.HAVE_TCP_INFO else 0
        except OSError:  # closed behind our back
            return moved, 0

    def _close(self, limit: float) -> None:
        why = "the peer has finished or is lost, and " if self.has_peer_finished else ""
        self.reason = f"{why}nothing has moved for {limit:g} seconds"
        # In this order: the body learns of its cancellation, and not of a stream that was closed under its hands.
        self.scope.cancel()
        # Here and now: a body that shields itself does not keep the socket.
        if self.connection.policy.on_error == "abort":
            self.connection.abort()
        else:
            self.connection.close_now()


@final
class Deadlines:
    """A heap of the watches that have a time, the next one first; one that is rescheduled leaves a stale entry."""

    __slots__ = ("_heap", "_number", "_stale")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, IdleTimer]] = []
        self._number = itertools.count()
        self._stale = 0

    def put(self, timer: IdleTimer, due: float) -> None:
        """Look at ``watch`` at ``due``, instead of whenever that was to be; ``inf`` for never."""
        if timer.due is not None:
            self._stale += 1
        timer.due = None if due == inf else due
        if timer.due is not None:
            heapq.heappush(self._heap, (due, next(self._number), timer))
        if self._stale > _STALE_AT_MOST and self._stale * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].due == entry[0]]
            heapq.heapify(self._heap)
            self._stale = 0

    def next(self) -> float:
        """When the next one is due; ``inf`` for never."""
        heap = self._heap
        while heap and heap[0][2].due != heap[0][0]:
            heapq.heappop(heap)
            self._stale -= 1
        return heap[0][0] if heap else inf

    def take(self, now: float) -> IdleTimer | None:
        """One that is due. Its ``due`` stays, for it to see whether it was looked at late: :meth:`put` it next."""
        if self.next() > now:
            return None
        return self._heap[0][2]
