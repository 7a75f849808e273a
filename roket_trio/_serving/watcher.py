"""One task looks after every supervised connection of an event loop, with one epoll and one heap of deadlines.

Idle connections cost it nothing: the epoll tells when a peer has finished, and only from then on, or when there is an
idle bound, does it look at a connection's counters now and then. The task has no scope of its own: it lives in the
nursery of one of those whose connections it looks after (a :class:`Post`), shielded, because it must go on while they
are being cancelled, and moves to another one when its host leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from math import inf
from types import TracebackType
from typing import Any, final

import anyio
import anyio.abc
from anyio.lowlevel import RunVar

from .._connection.states import Phase
from .._errors import BusyResourceError
from .._kernel import epoll
from .._loops import Loop, current_loop
from .idle_timer import LOOKS, Deadlines, Watch

# So many looks (10 µs each) before the other tasks have their turn.
_LOOKS_AT_ONCE = 128


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
        self._peers = epoll.PeerWatch() if epoll.AVAILABLE else None
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
        return due if self._peers is not None else min(due, now + watch.budget.after_fin / LOOKS)

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
