"""Watches for peers that finish, by FIN or by RST. All those of an event loop share one epoll.

An idle connection costs nothing: it is an entry in that epoll (:class:`PeerEvents`), which the loop waits for in no
task of the program's. So a watch begins in one task and ends in another, and ten thousand of them need one descriptor.
The epoll exists as long as there is something to watch.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from itertools import islice
from math import inf
from types import TracebackType
from typing import TYPE_CHECKING, Self, final

import anyio
from anyio.lowlevel import RunVar

from .._kernel import epoll
from .._kernel.signal_handlers import SuppressKernelErrors, is_from_kernel
from .._loops import Loop, current_loop
from .._public import public
from .peer_end import peer_has_finished

if TYPE_CHECKING:
    from .connection import Connection

# How often to ask again (seconds): connections that no epoll watches, and those that are in use when the peer finishes.
_CHECK_EVERY = 0.02
# So many at a time (5 µs each), so that very many take 3 % of a CPU and no more.
_CHECKS_AT_ONCE = 128


@public
@final
class PeerWatch:
    """Waits for the peer of one connection to finish; ``stream.release_at_fin()`` makes it.

    It belongs to no task: any task of the event loop may end it, by :meth:`stop` or as a ``with`` block. It ends by
    itself when the connection is closed. Dropping it does not end it.
    """

    __slots__ = ("_all", "_call", "_connection", "_fd", "_is_polled", "_is_stopped")

    def __init__(self, all_of_loop: PeerWatches, connection: Connection, call: Callable[[Connection], bool]) -> None:
        """Not public: use ``release_at_fin``."""
        self._all = all_of_loop
        # Weak, so that a stream that is dropped unclosed is found by the collector as without a watch.
        self._connection = weakref.ref(connection)
        self._call = call
        self._fd = connection.sock.fileno()
        self._is_polled = False
        self._is_stopped = False

    def stop(self) -> None:
        """End the watch; the connection stays as it is. A second call has no effect. Not a checkpoint."""
        self._is_stopped = True
        self._end()

    def _end(self) -> None:
        connection = self._connection()
        if connection is not None:
            connection._at_close.discard(self._end)
        self._all.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


@final
class PeerWatches:
    """All the watches of one event loop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        # By descriptor: epoll takes one entry for each.
        self._watches: dict[int, dict[PeerWatch, None]] = {}
        # Those to ask again, the next one first.
        self._again: dict[PeerWatch, None] = {}
        self._events: epoll.PeerEvents | None = None
        self._stop: Callable[[], None] | None = None

    def add(self, connection: Connection, call: Callable[[Connection], bool]) -> PeerWatch:
        """Call ``call`` soon after the peer has finished, and again while it returns False. It must not raise."""
        watch = PeerWatch(self, connection, call)
        fd = watch._fd
        if fd < 0:  # it was released
            self._loop.call_soon(lambda: watch._is_stopped or not connection.life.is_open or call(connection))
            return watch
        others = self._watches.get(fd, {})
        if any(other._connection() is not connection for other in others):  # other code has closed that descriptor
            others = {}
        is_first = not others
        others[watch] = None
        # First: from now on no finalizer that removes the last other watch closes the epoll.
        self._watches[fd] = others
        connection._at_close.add(watch._end)
        try:
            self._begin(watch, connection, is_first)
        except BaseException:  # a signal's handler has raised it
            watch.stop()
            raise
        return watch

    def _begin(self, watch: PeerWatch, connection: Connection, is_first: bool) -> None:
        is_running = self._stop is not None
        if not is_running and epoll.AVAILABLE:
            with SuppressKernelErrors():  # no descriptor is left
                self._events = epoll.PeerEvents()
        watch._is_polled = True
        if self._events is not None:
            with SuppressKernelErrors():  # the user's limit of epoll's watches
                if is_first:
                    self._events.add(connection.sock)
                watch._is_polled = False
        if watch._is_polled or (not is_first and peer_has_finished(connection)):
            self._again[watch] = None
        if not is_running or self._again:
            self._run()

    def remove(self, watch: PeerWatch) -> None:
        """Watch no longer. A finalizer may call this, also in another thread or after the end of the loop."""
        self._again.pop(watch, None)
        watches = self._watches.get(watch._fd, {})
        if watches.pop(watch, self) is self or watches:
            return
        del self._watches[watch._fd]
        if self._events is not None:
            with SuppressKernelErrors():  # other code has closed the descriptor
                self._events.drop(watch._fd)
        if self._watches:
            return
        if threading.get_ident() == self._thread:
            self._end_if_unused()
        else:
            self._loop.call_soon(self._end_if_unused)

    def _run(self) -> None:
        if self._stop is not None:
            self._stop()
        fd = -1 if self._events is None else self._events.fileno()
        self._stop = self._loop.call_when_readable(fd, self._look)

    def _end_if_unused(self) -> None:
        if self._watches or self._stop is None:
            return
        self._stop()
        self._stop = None
        if self._events is not None:
            self._events.close()
            self._events = None

    def _look(self) -> float:
        """Ask those whose peers may have finished; returns after how many seconds to look again."""
        if self._events is not None:
            for fd in self._events.take():
                for watch in tuple(self._watches.get(fd, ())):
                    self._ask(watch)
        for watch in tuple(islice(self._again, _CHECKS_AT_ONCE)):
            if self._again.pop(watch, self) is not self:
                self._ask(watch)
        return _CHECK_EVERY if self._again else inf

    def _ask(self, watch: PeerWatch) -> None:
        connection = watch._connection()
        # Epoll reports a closed socket that another process still has open, and its number may be another socket's.
        if connection is None or connection.sock.fileno() != watch._fd:
            return
        try:
            others = tuple(self._watches.get(watch._fd, ()))
            if not peer_has_finished(connection):
                is_over, again = False, watch._is_polled
            else:
                is_over = watch._call(connection)
                again = not is_over
        except OSError as error:
            if not is_from_kernel(error):
                self._again[watch] = None
                raise
            is_over, again, others = True, False, ()  # other code has closed the descriptor by its number
        if is_over:
            watch.stop()
            if connection.sock.fileno() < 0:
                # It was released now, which has ended its other watches. All are told, but those that were stopped.
                for other in others:
                    if not other._is_stopped:
                        other.stop()
                        other._call(connection)
        elif again:
            self._again[watch] = None


_watches: RunVar[PeerWatches] = RunVar("roket_trio peer watches")


def watch_peer(connection: Connection, call: Callable[[Connection], bool]) -> PeerWatch:
    """Have ``call`` called once the peer has finished; see :meth:`PeerWatches.add`. In the connection's event loop."""
    try:
        watches = _watches.get()
    except LookupError:
        watches = PeerWatches(current_loop())
        _watches.set(watches)
    return watches.add(connection, call)


async def wait_peer_closed(connection: Connection) -> None:
    """Wait until the peer's FIN or RST has arrived, without receiving data. Any number of tasks may wait.

    :raises ClosedResourceError: the connection was closed on this side, before or meanwhile
    """
    connection.life.check_open()
    await connection.loop.checkpoint()
    connection.life.check_open()
    if connection.life.has_peer_finished:
        return
    is_over = anyio.Event()

    def finished(_: Connection) -> bool:
        is_over.set()
        return True

    watch = watch_peer(connection, finished)
    connection._at_close.add(is_over.set)
    try:
        await is_over.wait()
    finally:
        connection._at_close.discard(is_over.set)
        watch.stop()
    connection.life.check_open()
