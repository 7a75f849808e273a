"""The watcher: one task for all supervised connections of an event loop, with one epoll and one queue of idle timers.

Idle connections cost nothing. The epoll reports when a peer has finished. Only from then on, or when there is an idle
limit, does the watcher read a connection's counters from time to time. The task has no nursery of its own. It runs in
the nursery of one of the blocks whose connections it watches (:class:`WatcherHost`), and in another one's when that
block ends. It is shielded, since it must go on while those blocks are cancelled.
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
from .._errors import bare, exits_in_group
from .._kernel import epoll
from .._loops import Loop, current_loop
from .idle_timer import IdleTimer, TimerQueue

# So many checks (10 µs each) before the other tasks run.
_CHECKS_AT_ONCE = 128

# Only without an epoll: how often the watcher asks whether the peer has finished, within the time after that.
_POLLS = 8


@final
class Watcher:
    """Watches all supervised connections of one event loop."""

    def __init__(self, loop: Loop) -> None:
        """:raises OSError: no descriptor is left for the epoll"""
        self._loop = loop
        self._timers: dict[int, IdleTimer] = {}
        self._queue = TimerQueue()
        self._hosts: dict[WatcherHost, None] = {}
        self._current_host: WatcherHost | None = None
        self._sleep_scope: anyio.CancelScope | None = None
        self._peer_events = epoll.PeerEvents() if epoll.AVAILABLE else None
        self._readiness = None if self._peer_events is None else loop.readiness(self._peer_events.fileno())

    # --- connections -------------------------------------------------------------------------------------------------

    def add(self, timer: IdleTimer) -> None:
        """Begin to watch a connection, within a :class:`WatcherHost`. :meth:`remove` it afterwards.

        :raises ClosedResourceError: it was closed on this side
        :raises BusyResourceError: it is supervised already
        :raises OSError: the system's limit of epoll's watches is reached
        """
        connection = timer.connection
        connection.life.check_open()
        connection.supervision.acquire()
        if self._peer_events is not None:
            try:
                self._peer_events.add(connection.sock)
            except BaseException:
                connection.supervision.release()
                raise
        self._timers[timer.fd] = timer
        if self._peer_events is None or timer.limit < inf:
            now = self._loop.now()
            self._schedule(timer, now, timer.start(now))

    def remove(self, timer: IdleTimer) -> None:
        """Stop watching. Best after the connection was closed: the kernel has then removed it from the epoll."""
        timer.connection.supervision.release()
        self._queue.schedule(timer, inf)
        if self._timers.get(timer.fd) is timer:
            del self._timers[timer.fd]
            if self._peer_events is not None and timer.connection.sock.fileno() == timer.fd:
                self._peer_events.drop(timer.connection.sock)

    def _schedule(self, timer: IdleTimer, now: float, due: float) -> None:
        if self._peer_events is None and timer.connection.life.phase is not Phase.CLOSED:
            due = min(due, now + timer.limits.after_fin / _POLLS)
        self._queue.schedule(timer, due)
        if self._sleep_scope is not None and due < self._sleep_scope.deadline:
            self._sleep_scope.deadline = due

    # --- the task ----------------------------------------------------------------------------------------------------

    @exits_in_group
    async def run(self, scope: anyio.CancelScope) -> None:
        """Watch until ``scope``, a shielded scope, is cancelled."""
        with scope:
            while True:
                try:
                    # Both, in each turn: peers that finish in every turn would otherwise put the checks off for ever.
                    has_started = self._start_timers_of_finished_peers()
                    if self._check_timers() or has_started:
                        await self._loop.checkpoint()
                    else:
                        await self._sleep()
                except anyio.get_cancelled_exc_class():  # noqa: ASYNC103 - see below
                    if scope.cancel_called:
                        raise
                    # asyncio's Task.cancel() pierces shields. What cancels all tasks cancels the supervised ones too,
                    # and the watcher ends with the last of them.
                finally:
                    self._sleep_scope = None

    async def _sleep(self) -> None:
        """Wait until a peer finishes or a check is due."""
        with anyio.CancelScope(deadline=self._queue.next_due()) as self._sleep_scope:
            if self._readiness is None:
                await anyio.sleep_forever()
            else:
                await self._readiness.wait_readable()

    def _start_timers_of_finished_peers(self) -> bool:
        """Start the timers of the connections whose peers have finished. False when there were none."""
        ready = self._peer_events.take() if self._peer_events is not None else []
        now = self._loop.now()
        for fd in ready:
            timer = self._timers.get(fd)
            # The connection is asked again: epoll reports a closed socket that another process still has open, and by
            # now its number may be another socket's.
            if timer is not None and not timer.has_peer_finished and timer.is_peer_gone():
                self._schedule(timer, now, timer.peer_finished(now))
        return bool(ready)

    def _check_timers(self) -> bool:
        """Make some of the checks that are due. False when none is left."""
        for _ in range(_CHECKS_AT_ONCE):
            now = self._loop.now()
            timer = self._queue.first_due(now)
            if timer is None:
                return False
            if self._peer_events is None and not timer.has_peer_finished and timer.is_peer_gone():
                timer.peer_finished(now)
            self._schedule(timer, now, timer.check(now))
        return True

    # --- where the task runs -----------------------------------------------------------------------------------------

    def host_opened(self, host: WatcherHost) -> None:
        """Use a nursery, if the task runs in none yet."""
        self._hosts[host] = None
        if self._current_host is None:
            self._current_host = host
            host.start(self.run)

    def host_closing(self, host: WatcherHost) -> None:
        """End the task if it runs in this nursery, which is about to end."""
        del self._hosts[host]
        if self._current_host is host:
            host.stop()

    def host_closed(self, host: WatcherHost) -> None:
        """Go on in the newest nursery, which is likely to last longest; the watcher ends if there is none."""
        if self._current_host is not host:
            return
        self._current_host = next(reversed(self._hosts), None)
        if self._current_host is not None:
            self._current_host.start(self.run)
            return
        _watcher.set(None)
        if self._readiness is not None and self._peer_events is not None:
            self._readiness.close()
            self._peer_events.close()


_watcher: RunVar[Watcher | None] = RunVar("roket_trio watcher", None)


@final
class WatcherHost:
    """A nursery in which the watcher can run: ``async with WatcherHost() as watcher``, around what is supervised.

    Entering is no checkpoint; leaving is one that cannot be cancelled. Nothing but the watcher runs in the nursery, and
    an exception of the block does not pass through it.
    """

    __slots__ = ("_nursery", "_scope", "_tasks", "_watcher")

    def __init__(self) -> None:
        """Make it in the event loop that is to run it."""
        self._nursery = current_loop().open_nursery()

    def start(self, task: Callable[[anyio.CancelScope], Coroutine[Any, Any, None]]) -> None:
        """Start the watcher's task here."""
        self._scope = anyio.CancelScope(shield=True)
        self._tasks.start_soon(task, self._scope)

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
        watcher.host_opened(self)
        return watcher

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watcher.host_closing(self)
        # There is nothing to wait for but the task's own last step.
        self._tasks.cancel_scope.shield = True
        try:
            await self._nursery.__aexit__(None, None, None)  # noqa: ASYNC102 - see above
        except BaseExceptionGroup as group:
            raise bare(group) from None  # noqa: ASYNC123 - Ctrl-C in the task, say, comes out as it is
        finally:
            self._watcher.host_closed(self)
