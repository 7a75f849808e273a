"""A worker thread for one file stream, once the stream keeps one busy.

A hop to a worker thread of the loop and back takes 100 µs on Trio, 125 on asyncio, 92 on uvloop (AnyIO's own: 106, 80,
55). A hop to this thread takes 37, 35 and 15, since it wakes the loop by an eventfd that stays registered. With it a
write of 1 MiB takes 1.23 times as long as the blocking one, without it 1.55. The thread starts at the third hop, so
that a small file never needs one, and ends with the stream. There are a few at most; the other streams use the loop's
threads.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from itertools import starmap
from queue import SimpleQueue
from time import monotonic
from typing import Any, TypeVar, cast, final

from .._kernel.fd import OwnedDescriptors
from .._kernel.signal_handlers import is_from_handler, is_from_kernel
from .._loops import Loop, Readiness

T = TypeVar("T")

_AVAILABLE = hasattr(os, "eventfd")

# More threads would only wait for the same disk.
_AT_MOST = 8
# A token for each of them. A semaphore would not do: it holds a lock for a moment, and if the collector ended a thread
# just then, it would wait for that lock for ever.
_tokens = [None] * _AT_MOST

# How long the end of an idle thread is waited for, at most (seconds). It takes 50 µs. But the collector may be at work
# in ``threading.enumerate``, for example, which holds a lock that every thread of Python takes when it ends.
_END_SECONDS = 0.5

_BEGIN_AT_HOP = 3

# The loop itself waits this long (seconds) for the thread before it runs other tasks: copying a MiB takes 0.25 ms, and
# coming back through the loop another 0.1. It waits only while no schedule point is due, so that other tasks still run
# once a millisecond however many files are busy; and not for a while after a call that took longer, which waited for a
# disk.
_WAIT_IN_LOOP = 0.0005
_NO_WAIT_FOR = 0.1


@final
class Worker:
    """Runs blocking calls for one stream, one at a time."""

    __slots__ = ("_hops", "_own", "loop")

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self._hops = 0
        self._own: _Thread | None = None

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call ``function(*args)`` in a thread, by the rules of :meth:`~roket_trio._loops.Loop.run_in_thread`."""
        if self._own is None:
            self._hops += 1
            if self._hops >= _BEGIN_AT_HOP and _AVAILABLE:
                self._start()
            if self._own is None:
                return await self.loop.run_in_thread(function, *args)
        return cast(T, await self._own.run(function, args))

    def _start(self) -> None:
        try:
            _tokens.pop()
        except IndexError:  # there are enough already
            return
        self._own = _Thread(self.loop)
        try:
            if not self._own.start():
                self._own = None
        except BaseException:
            self.end()
            raise

    def begin(self, function: Callable[..., object], *args: object) -> bool:
        """Begin to call ``function(*args)`` in the thread of its own; :meth:`finish` waits for it.

        :returns: False while the stream has no thread of its own: nothing was begun
        """
        if self._own is None:
            return False
        self._own.begin(function, args)
        return True

    async def finish(self) -> None:
        """Wait for what :meth:`begin` has begun, whatever cancels the task, and raise what it raised."""
        assert self._own is not None
        await self._own.finish()

    def end(self) -> None:
        """End the thread, once it is idle. Idempotent."""
        if self._own is not None:
            own, self._own = self._own, None
            own.end()

    def __del__(self, _is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # A signal's handler raised before its owner could end it. (At the interpreter's end no thread runs any more.)
        if getattr(self, "_own", None) is not None and not _is_finalizing():
            self.end()


@final
class _Thread:
    """The thread. :meth:`start` it once its owner has it, so that no exception can lose it."""

    __slots__ = (
        "_done",
        "_error",
        "_finished",
        "_is_awaited",
        "_is_busy",
        "_is_over",
        "_jobs",
        "_no_wait_until",
        "_readiness",
        "_result",
        "_thread",
        "loop",
    )

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        # What the thread has to call; None ends it. It can be ended even if Ctrl-C came while it had a call to make.
        self._jobs: SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        self._result: Any = None
        self._error: BaseException | None = None
        self._is_awaited = False
        # Whether a call was begun whose end nobody has seen, and whether it has ended.
        self._is_busy = self._is_over = False
        self._no_wait_until = 0.0
        self._finished = threading.Lock()
        self._finished.acquire()
        self._thread: threading.Thread | None = None
        self._readiness: Readiness | None = None

    def start(self) -> bool:
        """Start the thread. False where there are too many descriptors, or threads."""
        try:
            self._done = OwnedDescriptors(starmap(os.eventfd, ((0, os.EFD_NONBLOCK | os.EFD_CLOEXEC),)))
            self._readiness = self.loop.readiness(self._done[0])
            self._thread = threading.Thread(target=self._work, name="roket_trio file worker", daemon=True)
            self._thread.start()
        except (OSError, RuntimeError) as error:
            if is_from_handler(error):
                raise
            if self._readiness is not None:
                self._readiness.close()
            _tokens.append(None)
            return False
        return True

    async def run(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        self.begin(function, args)
        return await self.finish()

    def begin(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._settle()
        self._finished.acquire(blocking=False)
        self._is_over = False
        self._is_busy = True
        self._jobs.put((function, args))

    async def finish(self) -> Any:
        try:
            if not self._is_finished_soon():
                await self.loop.shielded(self._wait)
        except BaseException:
            self._settle()
            raise
        self._is_awaited = False
        self._is_busy = False
        result, error_of_job = self._result, self._error
        self._result = self._error = None
        if error_of_job is not None:
            try:
                raise error_of_job
            finally:
                del error_of_job  # it holds this frame
        return result

    def _settle(self) -> None:
        """Block until the call is over, if its wait was interrupted: by a signal's handler, or by the end of the loop.

        The call uses the caller's buffer and descriptor, and its count has to be right when the exception is seen.
        """
        # The collector may run this in the thread itself, which cannot wait for itself.
        if self._is_busy and threading.current_thread() is not self._thread:
            if not self._is_over:
                self._finished.acquire()
            self._is_busy = self._is_awaited = False
            self._result = self._error = None

    def _is_finished_soon(self) -> bool:
        now = monotonic()
        if now < self._no_wait_until or now >= self.loop.yield_at:
            return False
        if self._finished.acquire(timeout=_WAIT_IN_LOOP):
            return True
        self._no_wait_until = monotonic() + _NO_WAIT_FOR
        return False

    async def _wait(self) -> None:
        # Set before the check, while the thread checks it after the release: so one of the two sees the other.
        self._is_awaited = True
        while not self._finished.acquire(blocking=False):
            try:
                os.eventfd_read(self._done[0])  # it may be from an earlier call
            except BlockingIOError as error:
                if not is_from_kernel(error):
                    raise
                assert self._readiness is not None
                await self._readiness.wait_readable()

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                self._done.close()
                _tokens.append(None)
                return
            function, args = job
            try:
                self._result = function(*args)
            except BaseException as error:  # noqa: ASYNC103 - raised where it is awaited
                self._error = error
            del job, function, args  # release the caller's buffer
            self._is_over = True
            self._finished.release()
            if self._is_awaited:
                os.eventfd_write(self._done[0], 1)

    def end(self) -> None:
        self._jobs.put(None)  # first: a second signal leaves no thread either
        if self._readiness is not None:
            self._readiness.close()
        if self._thread is None or not self._thread.ident:  # a signal's handler has raised before it ran
            _tokens.append(None)
        elif self._thread is not threading.current_thread():
            # It is busy only when its task was never finished; what it uses must not be closed before it has ended.
            self._thread.join(None if self._is_busy else _END_SECONDS)
