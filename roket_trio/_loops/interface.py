"""What the streams need of an event loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from time import monotonic
from typing import Any, Protocol, TypeVar

import anyio

T = TypeVar("T")

# A task that never has to wait lets other tasks run this often (seconds). Trio's full checkpoint costs 5 µs, its check
# for cancellation 0.4 µs: one schedule point a millisecond costs half a percent.
YIELD_EVERY = 0.001

# So many worker threads at once, which is what Trio and AnyIO allow each program. They are counted apart from the
# program's own. A thread that uses a file cannot be abandoned when its task is cancelled, so it must not have to wait
# for threads of the program that may be busy for long.
THREADS_MOST = 40


class Readiness(ABC):
    """Waits for one descriptor. The caller sees to it that at most one task waits for each direction.

    Wait only after the descriptor was not ready (EAGAIN, or a poll): an edge-triggered event is reported once.
    """

    __slots__ = ()

    @abstractmethod
    async def wait_readable(self) -> None:
        """Wait until a read may succeed. Spurious returns are allowed.

        :raises ClosedResourceError: when :meth:`close` is called meanwhile
        """

    @abstractmethod
    async def wait_writable(self) -> None:
        """Wait until a write may succeed, by the rules of :meth:`wait_readable`."""

    def pause_reading(self) -> None:  # noqa: B027 - only a shared epoll watches while no task waits
        """Do not wake the loop for what arrives, since a worker thread reads; until :meth:`resume_reading`."""

    def resume_reading(self) -> None:  # noqa: B027
        """Let what arrives wake the loop again. Read or poll before the next wait. Allowed after :meth:`close`."""

    @abstractmethod
    def close(self) -> None:
        """Stop watching, and wake the waiting tasks with :class:`ClosedResourceError`. The descriptor stays open.
        Idempotent."""


class Nursery(Protocol):
    """The common part of AnyIO's task group and Trio's nursery."""

    @property
    def cancel_scope(self) -> anyio.CancelScope: ...

    def start_soon(self, async_fn: Callable[..., Coroutine[Any, Any, Any]], /, *args: Any) -> object: ...


class Loop(ABC):
    """What the streams need of an event loop. There is one object for each running loop (:func:`current_loop`)."""

    __slots__ = ("__weakref__", "yield_at")

    def __init__(self) -> None:
        self.yield_at: float = 0.0

    @abstractmethod
    def readiness(self, fd: int) -> Readiness:
        """Make the object that waits for ``fd``, which must be non-blocking and pollable."""

    @abstractmethod
    def open_nursery(self) -> AbstractAsyncContextManager[Nursery]:
        """Make the library's own nursery. On Trio a task takes 36 µs in AnyIO's task group and 9 µs in Trio's."""

    now: Callable[[], float]
    """The clock of the loop's deadlines. (``anyio.current_time`` on uvloop is when this iteration began.)"""

    checkpoint_if_cancelled: Callable[[], Awaitable[None]]
    """Raise a cancellation if one is due; otherwise return at once. This is the library's own function."""

    wait_readable: Callable[[int], Awaitable[None]]
    wait_writable: Callable[[int], Awaitable[None]]
    """The library's own functions that wait for a descriptor."""

    def resume_in_child(self, scope: anyio.CancelScope) -> None:  # noqa: B027 - Trio goes on by itself
        """In a forked child: let the library find this loop, and the task of ``scope``, so that this can be left."""

    @abstractmethod
    def notify_closing(self, fd: int) -> None:
        """Wake the tasks that wait for ``fd`` by these functions. May be called outside of the loop."""

    @abstractmethod
    def call_when_readable(self, fd: int, call: Callable[[], float]) -> Callable[[], None]:
        """Call ``call`` soon, then whenever ``fd`` is readable or the seconds that it returned are over, in no task
        of the program's. It must not raise.

        :param fd: -1 for none; only the time counts then
        :returns: what ends it. That is to be called in the loop's thread and before ``fd`` is closed.
        """

    @abstractmethod
    def call_soon(self, call: Callable[[], object]) -> None:
        """Call ``call`` in the loop. Any thread may ask for it. It is not called if the loop has ended."""

    @abstractmethod
    async def run_in_thread(self, function: Callable[..., T], *args: object) -> T:
        """Call ``function(*args)`` in a worker thread and return its result.

        It cannot be cancelled. It waits until the thread has finished, so the thread no longer uses any buffer or
        descriptor when this returns, and its result is never lost. A cancellation is delivered at the next checkpoint.
        """

    @abstractmethod
    async def shielded(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Await ``attempt()`` to its end, whatever cancels the task.

        The cancellation is delivered at the next checkpoint.

        :param attempt: is called again when asyncio's own cancellation (``Task.cancel``) has interrupted it
        """

    def waited(self) -> None:
        """Note that the calling task has just been suspended, so that other tasks have run."""
        self.yield_at = monotonic() + YIELD_EVERY

    def yield_is_due(self) -> bool:
        """Whether no task has been suspended by the streams for :data:`YIELD_EVERY`."""
        return monotonic() >= self.yield_at

    @abstractmethod
    async def cancel_shielded_checkpoint(self) -> None:
        """Let other tasks run. A cancellation is delivered at the next checkpoint, so the caller can return first."""

    @abstractmethod
    async def checkpoint(self) -> None:
        """A full checkpoint: raises a cancellation that is due, and lets other tasks run."""

    async def step(self) -> None:
        """Check for cancellation, and let other tasks run if that is due. It precedes every operation.

        Nothing like it follows an operation: a cancellation must not keep bytes that were received from the caller.
        """
        if monotonic() >= self.yield_at:
            await self.checkpoint()
        else:
            await self.checkpoint_if_cancelled()
