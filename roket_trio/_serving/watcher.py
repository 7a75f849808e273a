"""One task looks after every supervised connection of an event loop, with one epoll and one heap of deadlines.

Idle connections cost it nothing: the epoll tells when a peer has finished, and only from then on, or when there is an
idle bound, does it look at a connection's counters now and then. The task has no scope of its own: it lives in the
nursery of one of those whose connections it looks after (a :class:`WatcherHost`), shielded, because it must go on
while they are being cancelled, and moves to another one when its host leaves.
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
from .._kernel import epoll
from .._loops import Loop, current_loop
from .idle_timer import LOOKS, Deadlines, IdleTimer

# So many looks (10 µs each) before the other tasks have their turn.
_LOOKS_AT_ONCE = 128


@final
class Watcher:
    """All supervised connections of one event loop, and the task that looks after them."""

    def __init__(self, loop: Loop) -> None:
        """:raises OSError: no descriptor is left for the epoll"""
        self._loop = loop
        self._timers: dict[int, IdleTimer] = {}
        self._deadlines = Deadlines()
        self._hosts: dict[WatcherHost, None] = {}
        self._current_host: WatcherHost | None = None
        self._sleep_scope: anyio.CancelScope | None = None
        self._peers = epoll.PeerEvents() if epoll.AVAILABLE else None
        self._readiness = None if self._peers is None else loop.readiness(self._peers.fileno())

    # --- connections -------------------------------------------------------------------------------------------------

    def add(self, timer: IdleTimer) -> None:
        """Look after a connection, within a :class:`WatcherHost`. Pair it with :meth:`drop`.

        :raises ClosedResourceError: it was closed on this side
        :raises BusyResourceError: it is being looked after already
        :raises OSError: the system has no more watches
        """
        connection = timer.connection
        connection.life.check_open()
        connection.begin_supervision()
        if self._peers is not None:
            try:
                self._peers.add(connection.sock)
            except BaseException:
                connection.end_supervision()
                raise
        self._timers[timer.fd] = timer
        if self._peers is None or timer.limit < inf:
            now = self._loop.now()
            self._put(timer, self._no_later(timer, now, timer.begin(now)))

    def drop(self, timer: IdleTimer) -> None:
        """Look after it no longer. Best after it was closed: the kernel has then forgotten it by itself."""
        timer.connection.end_supervision()
        self._deadlines.put(timer, inf)
        if self._timers.get(timer.fd) is timer:
            del self._timers[timer.fd]
            if self._peers is not None and timer.connection.sock.fileno() == timer.fd:
                self._peers.drop(timer.connection.sock)

    def _put(self, timer: IdleTimer, due: float) -> None:
        self._deadlines.put(timer, due)
        if self._sleep_scope is not None and due < self._sleep_scope.deadline:
            self._sleep_scope.deadline = due

    def _no_later(self, timer: IdleTimer, now: float, due: float) -> float:
        """Without an epoll somebody has to look whether the peer has finished."""
        return due if self._peers is not None else min(due, now + timer.budget.after_fin / LOOKS)

    # --- the task ----------------------------------------------------------------------------------------------------

    async def work(self, scope: anyio.CancelScope) -> None:
        """Look after the connections until ``scope``, a shielded scope, is cancelled."""
        with scope:
            while True:
                try:
                    await self._turn()
                except anyio.get_cancelled_exc_class():  # noqa: ASYNC103 - see below
                    if scope.cancel_called:
                        raise
                    # asyncio's Task.cancel() pierces shields. Whoever cancels all tasks cancels the supervised ones
                    # too, and this one ends with the last of them.
                finally:
                    self._sleep_scope = None

    async def _turn(self) -> None:
        """See to what is to be seen to, and sleep until there is more."""
        if self._see_who_has_finished() or self._look_at_those_due():
            await self._loop.checkpoint()
            return
        with anyio.CancelScope(deadline=self._deadlines.next()) as self._sleep_scope:
            if self._readiness is None:
                await anyio.sleep_forever()
            else:
                await self._readiness.wait_readable()

    def _see_who_has_finished(self) -> bool:
        """Let the time of those run whose peer has finished. False when there are no more."""
        news = self._peers.take() if self._peers is not None else []
        now = self._loop.now()
        for fd in news:
            timer = self._timers.get(fd)
            # Asked again: a closed socket that another process shares is remembered, by a number that is another's now.
            if timer is not None and not timer.has_peer_finished and timer.is_peer_gone():
                self._put(timer, timer.peer_finished(now))
        return bool(news)

    def _look_at_those_due(self) -> bool:
        """Look at some of the connections whose time has come. False when there are no more."""
        for _ in range(_LOOKS_AT_ONCE):
            now = self._loop.now()
            timer = self._deadlines.take(now)
            if timer is None:
                return False
            if self._peers is None and not timer.has_peer_finished and timer.is_peer_gone():
                timer.peer_finished(now)
            due = timer.look(now)
            if timer.connection.life.phase is not Phase.CLOSED:
                due = self._no_later(timer, now, due)
            self._deadlines.put(timer, due)
        return True

    # --- where the task lives ----------------------------------------------------------------------------------------

    def open(self, host: WatcherHost) -> None:
        """One more nursery that the task may live in."""
        self._hosts[host] = None
        if self._current_host is None:
            self._current_host = host
            host.start(self.work)

    def leave(self, host: WatcherHost) -> None:
        """A nursery is about to end: the task ends there, if it lives there, and is not started there again."""
        del self._hosts[host]
        if self._current_host is host:
            host.stop()

    def left(self, host: WatcherHost) -> None:
        """The nursery has ended: the task moves to the newest one, which is likely to last longest; or all is over."""
        if self._current_host is not host:
            return
        self._current_host = next(reversed(self._hosts), None)
        if self._current_host is not None:
            self._current_host.start(self.work)
            return
        _watcher.set(None)
        if self._readiness is not None and self._peers is not None:
            self._readiness.close()
            self._peers.close()


_watcher: RunVar[Watcher | None] = RunVar("roket_trio watcher", None)


@final
class WatcherHost:
    """A nursery that the task may live in: ``async with WatcherHost() as watcher``, around what is supervised.

    Entering is no checkpoint, leaving is one that cannot be cancelled. Nothing else runs in the nursery, and it sees
    no exception of the block's.
    """

    __slots__ = ("_nursery", "_scope", "_tasks", "_watcher")

    def __init__(self) -> None:
        """In the event loop that is to run it."""
        self._nursery = current_loop().open_nursery()

    def start(self, work: Callable[[anyio.CancelScope], Coroutine[Any, Any, None]]) -> None:
        """Start the task here."""
        self._scope = anyio.CancelScope(shield=True)
        self._tasks.start_soon(work, self._scope)

    def stop(self) -> None:
        """End the task that was started here."""
        self._scope.cancel()

    async def __aenter__(self) -> Watcher:
        watcher = _watcher.get()
        if watcher is None:
            watcher = Watcher(current_loop())
            _watcher.set(watcher)
        self._watcher = watcher
        self._tasks = await self._nursery.__aenter__()
        watcher.open(self)
        return watcher

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watcher.leave(self)
        # There is nothing to wait for but the task's own last step.
        self._tasks.cancel_scope.shield = True
        try:
            await self._nursery.__aexit__(None, None, None)  # noqa: ASYNC102 - see above
        except BaseExceptionGroup as group:
            if len(group.exceptions) != 1:
                raise
            raise group.exceptions[0] from None  # noqa: ASYNC123 - Ctrl-C in the task, say, comes out as it is
        finally:
            self._watcher.left(self)
