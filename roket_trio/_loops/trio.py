"""The streams' view of Trio, whose own functions do everything."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from time import monotonic
from typing import TypeVar, cast, final

import trio

from .._kernel.epoll import copy_in_child
from .interface import THREADS_MOST, YIELD_EVERY, Loop, Nursery, Readiness
from .readiness import LibraryReadiness

T = TypeVar("T")


@final
class TrioLoop(Loop):
    __slots__ = ("_threads", "_token")

    def __init__(self) -> None:
        super().__init__()
        self._threads = trio.CapacityLimiter(THREADS_MOST)
        self._token = trio.lowlevel.current_trio_token()
        with suppress(ImportError, AttributeError):  # private to Trio, which gives a forked child no epoll of its own
            from trio._core._run import GLOBAL_RUN_CONTEXT

            copy_in_child(self, GLOBAL_RUN_CONTEXT.runner.io_manager._epoll.fileno)

    def readiness(self, fd: int) -> Readiness:
        return LibraryReadiness(self, fd)

    def open_nursery(self) -> AbstractAsyncContextManager[Nursery]:
        # Trio's scope has all that AnyIO's has; its type does not say so.
        return cast(AbstractAsyncContextManager[Nursery], trio.open_nursery(strict_exception_groups=True))

    now = staticmethod(trio.current_time)
    checkpoint_if_cancelled = staticmethod(trio.lowlevel.checkpoint_if_cancelled)
    wait_readable = staticmethod(trio.lowlevel.wait_readable)
    wait_writable = staticmethod(trio.lowlevel.wait_writable)

    def notify_closing(self, fd: int) -> None:
        # Outside of a Trio run (a stream that outlived its loop, or a collector in another thread) nobody waits.
        if trio.lowlevel.in_trio_run():
            trio.lowlevel.notify_closing(fd)

    def call_when_readable(self, fd: int, call: Callable[[], float]) -> Callable[[], None]:
        scope = trio.CancelScope()

        async def watch() -> None:
            with scope:
                while True:
                    seconds = call()
                    if scope.cancel_called:  # the descriptor may be closed
                        return
                    with trio.move_on_after(seconds):
                        if fd < 0:
                            await trio.sleep_forever()
                        else:
                            await trio.lowlevel.wait_readable(fd)

        # Trio calls nothing back for a descriptor: a task has to wait. A system task belongs to no task of the
        # program's, and ends with the run.
        trio.lowlevel.spawn_system_task(watch, name="roket_trio: wait for peers that finish")
        return scope.cancel

    def call_soon(self, call: Callable[[], object]) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(call)

    async def checkpoint(self) -> None:
        await trio.lowlevel.checkpoint()
        self.yield_at = monotonic() + YIELD_EVERY

    async def cancel_shielded_checkpoint(self) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()
        self.yield_at = monotonic() + YIELD_EVERY

    async def shielded(self, attempt: Callable[[], Awaitable[T]]) -> T:
        with trio.CancelScope(shield=True):
            return await attempt()
        raise AssertionError("a shield swallows nothing")

    async def run_in_thread(self, function: Callable[..., T], *args: object) -> T:
        # The thread holds the lock while it makes the call. It is reentrant, since the collector may run in that thread
        # and close this coroutine there.
        calling = threading.RLock()
        is_withdrawn = False

        def call() -> T | None:
            with calling:
                return None if is_withdrawn else function(*args)

        try:
            with trio.CancelScope(shield=True):  # Trio checks for cancellation once, before the thread begins
                result = cast(T, await trio.to_thread.run_sync(call, limiter=self._threads))
                self.waited()
                return result
        except BaseException:
            # A signal's handler may have raised it, or the run is at its end. The thread is waited for nevertheless:
            # it uses the caller's buffer and descriptor.
            is_withdrawn = True
            with calling:
                pass
            raise
        raise AssertionError("a shield swallows nothing")
