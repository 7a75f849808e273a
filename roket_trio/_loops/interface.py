"""What the streams need of an event loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from time import monotonic
from typing import Any, Protocol, TypeVar

import anyio

T = TypeVar("T")

# A task that never has to wait still lets the others run this often (seconds). Trio's full checkpoint costs 5 µs, its
# check for cancellation 0.4 µs: at one schedule point a millisecond the price of fairness is half a percent.
YIELD_EVERY = 0.001

# So many worker threads at once, which is what Trio and AnyIO allow each program. They are counted apart: what a file's
# thread has been lent must be waited for, whatever cancels, so it must not wait for what a program's own threads do.
THREADS_MOST = 40


class Readiness(ABC):
    """Waits for one descriptor. At most one task waits for each direction; the caller sees to that.

    Wait only after the descriptor has said no (EAGAIN, or a poll): what it would say yes to may have been told before.
    """

    __slots__ = ()

    @abstractmethod
    async def wait_readable(self) -> None:
        """Wait until a read may succeed. Spurious returns are allowed.

        :raises ClosedResourceError: when :meth:`close` is called meanwhile
        """

    @abstractmethod
    async def wait_writable(self) -> None:
        """Wait until a write may succeed; otherwise as :meth:`wait_readable`."""

    def pause_reading(self) -> None:  # noqa: B027 - only who watches all the time has to
        """A worker thread reads until :meth:`resume_reading`: what arrives meanwhile need not wake the loop."""

    def resume_reading(self) -> None:  # noqa: B027
        """The loop reads again, and asks the descriptor before it waits. Also after :meth:`close`."""

    @abstractmethod
    def close(self) -> None:
        """Wake who waits, with :class:`ClosedResourceError`, and forget the descriptor. Does not close it.
        Idempotent."""


class Nursery(Protocol):
    """What AnyIO's task group and Trio's nursery have in common."""

    @property
    def cancel_scope(self) -> anyio.CancelScope: ...

    def start_soon(self, async_fn: Callable[..., Coroutine[Any, Any, Any]], /, *args: Any) -> object: ...


class Loop(ABC):
    """What the streams need of an event loop. One object for each running loop (:func:`current_loop`)."""

    __slots__ = ("__weakref__", "yield_at")

    def __init__(self) -> None:
        self.yield_at: float = 0.0

    @abstractmethod
    def readiness(self, fd: int) -> Readiness:
        """Start to look after ``fd``, which must be non-blocking and pollable."""

    @abstractmethod
    def open_nursery(self) -> AbstractAsyncContextManager[Nursery]:
        """The library's own nursery. On Trio AnyIO's task group takes 36 µs for a task where Trio's takes 9."""

    now: Callable[[], float]
    """The loop's clock, by which its deadlines go. (``anyio.current_time`` on uvloop is when this turn began.)"""

    checkpoint_if_cancelled: Callable[[], Awaitable[None]]
    """Raise the cancellation that is due, if one is; otherwise return at once. The library's own function."""

    @abstractmethod
    async def run_in_thread(self, function: Callable[..., T], *args: object) -> T:
        """Call ``function(*args)`` in a worker thread and return its result.

        Not to be cancelled: the call always waits for the thread to let go, so what the thread was lent (buffers,
        descriptors) is free again when it returns, and its result is never lost. A cancellation is delivered at the
        next checkpoint.
        """

    @abstractmethod
    async def shielded(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Await ``attempt()`` to its end, whatever cancels the task.

        The cancellation is delivered at the next checkpoint.

        :param attempt: is made again when a native cancellation of asyncio (``Task.cancel``) has broken it off
        """

    def waited(self) -> None:
        """Note that the calling task has just been suspended: the others had their turn."""
        self.yield_at = monotonic() + YIELD_EVERY

    def yield_is_due(self) -> bool:
        """Whether it is :data:`YIELD_EVERY` since a task of this loop was last suspended in here."""
        return monotonic() >= self.yield_at

    @abstractmethod
    async def cancel_shielded_checkpoint(self) -> None:
        """A schedule point that a cancellation does not break: what was done before it must be reported.

        The cancellation is delivered at the next checkpoint.
        """

    @abstractmethod
    async def checkpoint(self) -> None:
        """A full checkpoint: raises a cancellation that is due, and lets the others run."""

    async def step(self) -> None:
        """What precedes every operation: check for cancellation, and let the others run if that is due.

        Before and not after: once bytes have been taken nothing should come between them and the caller.
        """
        if monotonic() >= self.yield_at:
            await self.checkpoint()
        else:
            await self.checkpoint_if_cancelled()
