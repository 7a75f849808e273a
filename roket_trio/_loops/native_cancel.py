"""Outlasting asyncio's own cancellation, ``Task.cancel``, which pierces AnyIO's shields, and delivering it later."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar, final

T = TypeVar("T")


@final
class Call(Generic[T]):
    """A call made by a worker thread, whose end can be waited for even when AnyIO no longer waits for the thread.

    With a ``concurrent.futures.Future`` for it a hop took 11 of 100 µs more.
    """

    __slots__ = ("_args", "_error", "_function", "_is_begun", "_is_over", "_lock", "_result", "_tell")

    def __init__(self, function: Callable[..., T], args: tuple[object, ...]) -> None:
        self._function: Callable[..., T] | None = function
        self._args = args
        self._lock = threading.Lock()
        self._is_begun = self._is_over = False
        self._tell: Callable[[], object] | None = None
        self._error: BaseException | None = None
        self._result: Any = None

    def make(self) -> None:
        """In the worker thread: make the call, unless :meth:`take_back` was called before."""
        with self._lock:
            function, self._function = self._function, None
            if function is None:
                return
            self._is_begun = True
        try:
            self._result = function(*self._args)
        except BaseException as error:  # noqa: ASYNC103 - raised where it is awaited
            self._error = error
        with self._lock:
            self._is_over = True
            tell = self._tell
        if tell is not None:
            tell()

    def take_back(self) -> bool:
        """Prevent the call. False if a thread has already begun it."""
        with self._lock:
            self._function = None
            return not self._is_begun

    def end(self) -> asyncio.Future[None]:
        """A future that is done when the thread has finished the call."""
        loop = asyncio.get_running_loop()
        end = loop.create_future()
        with self._lock:
            if self._is_over:
                end.set_result(None)
            else:
                self._tell = lambda: loop.call_soon_threadsafe(end.set_result, None)
        return end

    def result(self) -> T:
        """Return what the call returned, or raise what it raised. Once only."""
        error, self._error = self._error, None  # its traceback holds this object
        try:
            if error is not None:
                raise error
            result: T = self._result
            return result
        finally:
            del error


async def outlast(future: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait for ``future`` even if the task is cancelled; returns the cancellation, for :class:`Outlasted`."""
    interruption = None
    while not future.done():
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError as error:  # noqa: ASYNC103 - see Outlasted
            interruption = error
    return interruption


@final
class Outlasted:
    """The cancellations by asyncio that came while a task of the loop could not stop, until they are delivered."""

    __slots__ = ("tasks",)

    def __init__(self) -> None:
        self.tasks: set[int] = set()
        """The ids of the tasks that are to raise one at their next checkpoint.

        A checkpoint that need not wait must look here (and then let other tasks run): a task that only ever waits in
        shielded calls would outlast its cancellation again and again.
        """

    def deliver_later(self, interruption: asyncio.CancelledError) -> None:
        """Raise a cancellation at the task's next await."""
        if (task := asyncio.current_task()) is not None:
            # Not at once: the request may be withdrawn before the task waits again (an asyncio.timeout() whose block
            # ends with this call), and before Python 3.13 a cancellation that a running task asks for is raised all the
            # same.
            self.tasks.add(id(task))
            task.get_loop().call_soon(self._deliver, task, interruption.args)

    def _deliver(self, task: asyncio.Task[object], message: tuple[object, ...]) -> None:
        self.tasks.discard(id(task))
        if task.cancelling():
            task.uncancel()  # so that asyncio.timeout() and TaskGroup count this request once
            task.cancel(*message)
