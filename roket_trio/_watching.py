"""One task looks after every supervised connection of an event loop, with one epoll and one heap of deadlines.

Idle connections cost it nothing: the epoll tells when a peer has finished, and only from then on, or when there is an
idle bound, does it look at a connection's counters now and then. The task has no scope of its own: it lives in the
nursery of one of those whose connections it looks after (a :class:`Post`), shielded, because it must go on while they
are being cancelled, and moves to another one when its host leaves.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Coroutine
from math import inf
from types import TracebackType
from typing import Any, NamedTuple, final

import anyio
import anyio.abc
from anyio.lowlevel import RunVar

from ._closing import Phase
from ._connection import Connection
from ._errors import BusyResourceError
from ._kernel import edge, tcp
from ._loops import Loop, current_loop

# A connection whose time runs is looked at so many times before it is over, so it is cut at most an eighth late.
_LOOKS = 8

# So many looks (6 µs each) before the other tasks have their turn.
_LOOKS_AT_ONCE = 128

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
class Watch:
    """One supervised connection: what has moved, since when nothing has, and what was decided about it."""

    __slots__ = ("_moved_at", "_seen", "budget", "connection", "due", "fd", "has_peer_finished", "scope", "verdict")

    def __init__(self, connection: Connection, scope: anyio.CancelScope, budget: Budget) -> None:
        """:param scope: what is cancelled when the budget is used up"""
        self.connection: Connection = connection
        self.scope: anyio.CancelScope = scope
        self.fd: int = connection.sock.fileno()
        self.has_peer_finished: bool = False
        # When it is to be looked at again. None: not at all.
        self.due: float | None = None
        # Why the connection was closed, if it was.
        self.verdict: str | None = None
        self.budget = budget
        self._seen: tuple[int, int] = (0, 0)
        self._moved_at = 0.0

    def is_peer_gone(self) -> bool:
        """Whether the peer's FIN or RST has arrived at a connection that is not closed yet."""
        return self.connection.life.phase is not Phase.CLOSED and self.connection.peer_has_finished()

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
        return now + self.limit / _LOOKS

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
        elif self.due is not None and now - self.due > limit / _LOOKS:
            self._moved_at += now - self.due  # the loop stood still, and with it everybody who would have moved
        if now >= self._moved_at + limit:
            self._close(limit)
            return inf
        return min(now + limit / _LOOKS, self._moved_at + limit)

    def _progress(self) -> tuple[int, int]:
        """What changes whenever a byte has moved: how many we have moved, and how many the peer's side has taken."""
        connection = self.connection
        moved = connection.received_bytes + connection.ledger.sent_bytes
        try:
            if connection.ledger.is_tcp:
                return moved, tcp.acked_bytes(connection.sock) or 0
            # A UNIX socket's peer takes from our queue.
            return moved, tcp.unacked_bytes(connection.sock) if tcp.HAVE_TCP_INFO else 0
        except OSError:  # closed behind our back
            return moved, 0

    def _close(self, limit: float) -> None:
        why = "the peer has finished or is lost, and " if self.has_peer_finished else ""
        self.verdict = f"{why}nothing has moved for {limit:g} seconds"
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
        self._heap: list[tuple[float, int, Watch]] = []
        self._number = itertools.count()
        self._stale = 0

    def put(self, watch: Watch, due: float) -> None:
        """Look at ``watch`` at ``due``, instead of whenever that was to be; ``inf`` for never."""
        if watch.due is not None:
            self._stale += 1
        watch.due = None if due == inf else due
        if watch.due is not None:
            heapq.heappush(self._heap, (due, next(self._number), watch))
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

    def take(self, now: float) -> Watch | None:
        """One that is due. Its ``due`` stays, for it to see whether it was looked at late: :meth:`put` it next."""
        if self.next() > now:
            return None
        return self._heap[0][2]


@final
class Patrol:
    """All supervised connections of one event loop, and the task that looks after them."""

    def __init__(self, loop: Loop) -> None:
        """:raises OSError: no descriptor is left for the epoll"""
        self._loop = loop
        self._watches: dict[int, Watch] = {}
        self._deadlines = Deadlines()
        self._posts: dict[Post, None] = {}
        self._on_duty: Post | None = None
        self._nap: anyio.CancelScope | None = None
        self._peers = edge.PeerWatch() if edge.AVAILABLE else None
        self._readiness = None if self._peers is None else loop.readiness(self._peers.fileno())

    # --- connections -------------------------------------------------------------------------------------------------

    def add(self, watch: Watch) -> None:
        """Look after a connection, within a :class:`Post`. Pair it with :meth:`drop`.

        :raises ClosedResourceError: it was closed on this side
        :raises BusyResourceError: it is being looked after already
        :raises OSError: the system has no more watches
        """
        connection = watch.connection
        connection.life.check_open()
        if connection.is_supervised:
            raise BusyResourceError("supervising")
        if self._peers is not None:
            self._peers.add(connection.sock)
        connection.is_supervised = True
        self._watches[watch.fd] = watch
        if self._peers is None or watch.limit < inf:
            now = self._loop.now()
            self._put(watch, self._no_later(watch, now, watch.begin(now)))

    def drop(self, watch: Watch) -> None:
        """Look after it no longer. Best after it was closed: the kernel has then forgotten it by itself."""
        watch.connection.is_supervised = False
        self._deadlines.put(watch, inf)
        if self._watches.get(watch.fd) is watch:
            del self._watches[watch.fd]
            if self._peers is not None and watch.connection.sock.fileno() == watch.fd:
                self._peers.drop(watch.connection.sock)

    def _put(self, watch: Watch, due: float) -> None:
        self._deadlines.put(watch, due)
        if self._nap is not None and due < self._nap.deadline:
            self._nap.deadline = due

    def _no_later(self, watch: Watch, now: float, due: float) -> float:
        """Without an epoll somebody has to look whether the peer has finished."""
        return due if self._peers is not None else min(due, now + watch.budget.after_fin / _LOOKS)

    # --- the task ----------------------------------------------------------------------------------------------------

    async def work(self, shift: anyio.CancelScope) -> None:
        """Look after the connections until ``shift``, a shielded scope, is cancelled."""
        with shift:
            while True:
                try:
                    await self._turn()
                except anyio.get_cancelled_exc_class():  # noqa: ASYNC103 - see below
                    if shift.cancel_called:
                        raise
                    # asyncio's Task.cancel() pierces shields. Whoever cancels all tasks cancels the supervised ones
                    # too, and this one ends with the last of them.
                finally:
                    self._nap = None

    async def _turn(self) -> None:
        """See to what is to be seen to, and sleep until there is more."""
        if self._see_who_has_finished() or self._look_at_those_due():
            await self._loop.checkpoint()
            return
        with anyio.CancelScope(deadline=self._deadlines.next()) as self._nap:
            if self._readiness is None:
                await anyio.sleep_forever()
            else:
                await self._readiness.wait_readable()

    def _see_who_has_finished(self) -> bool:
        """Let the time of those run whose peer has finished. False when there are no more."""
        news = self._peers.take() if self._peers is not None else []
        now = self._loop.now()
        for fd in news:
            watch = self._watches.get(fd)
            # Asked again: a closed socket that another process shares is remembered, by a number that is another's now.
            if watch is not None and not watch.has_peer_finished and watch.is_peer_gone():
                self._put(watch, watch.peer_finished(now))
        return bool(news)

    def _look_at_those_due(self) -> bool:
        """Look at some of the connections whose time has come. False when there are no more."""
        for _ in range(_LOOKS_AT_ONCE):
            now = self._loop.now()
            watch = self._deadlines.take(now)
            if watch is None:
                return False
            if self._peers is None and not watch.has_peer_finished and watch.is_peer_gone():
                watch.peer_finished(now)
            due = watch.look(now)
            if watch.connection.life.phase is not Phase.CLOSED:
                due = self._no_later(watch, now, due)
            self._deadlines.put(watch, due)
        return True

    # --- where the task lives ----------------------------------------------------------------------------------------

    def open(self, post: Post) -> None:
        """One more nursery that the task may live in."""
        self._posts[post] = None
        if self._on_duty is None:
            self._on_duty = post
            post.start(self.work)

    def leave(self, post: Post) -> None:
        """A nursery is about to end: the task ends there, if it lives there, and is not started there again."""
        del self._posts[post]
        if self._on_duty is post:
            post.relieve()

    def left(self, post: Post) -> None:
        """The nursery has ended: the task moves to the newest one, which is likely to last longest; or all is over."""
        if self._on_duty is not post:
            return
        self._on_duty = next(reversed(self._posts), None)
        if self._on_duty is not None:
            self._on_duty.start(self.work)
            return
        _patrol.set(None)
        if self._readiness is not None and self._peers is not None:
            self._readiness.close()
            self._peers.close()


_patrol: RunVar[Patrol | None] = RunVar("roket_trio patrol", None)


@final
class Post:
    """A nursery that the task may live in: ``async with Post() as patrol``, around what is supervised.

    Entering is no checkpoint, leaving is one that cannot be cancelled. Nothing else runs in the nursery, and it sees
    no exception of the block's.
    """

    __slots__ = ("_nursery", "_patrol", "_shift", "_tasks")

    def __init__(self) -> None:
        """In the event loop that is to run it."""
        self._nursery = current_loop().open_nursery()

    def start(self, work: Callable[[anyio.CancelScope], Coroutine[Any, Any, None]]) -> None:
        """Start the task here."""
        self._shift = anyio.CancelScope(shield=True)
        self._tasks.start_soon(work, self._shift)

    def relieve(self) -> None:
        """End the task that was started here."""
        self._shift.cancel()

    async def __aenter__(self) -> Patrol:
        patrol = _patrol.get()
        if patrol is None:
            patrol = Patrol(current_loop())
            _patrol.set(patrol)
        self._patrol = patrol
        self._tasks = await self._nursery.__aenter__()
        patrol.open(self)
        return patrol

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._patrol.leave(self)
        # There is nothing to wait for but the task's own last step.
        self._tasks.cancel_scope.shield = True
        try:
            await self._nursery.__aexit__(None, None, None)  # noqa: ASYNC102 - see above
        except BaseExceptionGroup as group:
            if len(group.exceptions) != 1:
                raise
            raise group.exceptions[0] from None  # noqa: ASYNC123 - Ctrl-C in the task, say, comes out as it is
        finally:
            self._patrol.left(self)
