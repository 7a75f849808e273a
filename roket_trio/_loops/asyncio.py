"""asyncio and uvloop: waits in the shared epoll of the loop, or by AnyIO's functions where there is no epoll."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import weakref
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from math import inf
from time import monotonic
from typing import Any, TypeVar, final

import anyio
import anyio.lowlevel
import anyio.to_thread

from .._errors import bare, exits_in_group
from .._kernel.epoll import copy_in_child
from .interface import THREADS_MOST, YIELD_EVERY, Loop, Nursery, Readiness
from .native_cancel import Call, Outlasted, outlast
from .readiness import LibraryReadiness
from .shared_epoll import HAS_EPOLL, SharedEpoll

T = TypeVar("T")

USE_SHARED_EPOLL = HAS_EPOLL

_loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncioLoop] = weakref.WeakKeyDictionary()


def _checkpoint_if_cancelled(
    running: Callable[[], asyncio.AbstractEventLoop | None], outlasted: set[int]
) -> Callable[[], Awaitable[None]]:
    """Make a faster form of AnyIO's check for cancellation, which precedes every operation.

    It takes 0.5 instead of 1.1 µs (CPython 3.11, two scopes), since it looks up the task alone, and the state of a task
    only when another task asks. That is 8 % of reading a cached file in pieces of 64 KiB.

    It relies on what is private to AnyIO. That is tried when a loop is first used; if it is not as expected, AnyIO's
    own function is used. For a task whose scopes are cancelled AnyIO's function is called in any case.

    :param outlasted: the tasks that have asyncio's own cancellation to come (:attr:`Outlasted.tasks`)
    """
    try:
        from anyio._backends._asyncio import CancelScope, TaskState, _task_states
        from anyio._core._eventloop import get_async_backend

        theirs = get_async_backend().checkpoint_if_cancelled
        probe = CancelScope()
        state_of, probed = _task_states.get, TaskState(None, probe)
        (probe._cancel_called, probe._shield, probe._parent_scope, probed.cancel_scope, weakref.ref(probed))
    except (ImportError, AttributeError, TypeError):

        async def plain_checkpoint_if_cancelled() -> None:
            if id(asyncio.current_task()) in outlasted:
                await asyncio.sleep(0)
            await anyio.lowlevel.checkpoint_if_cancelled()

        return plain_checkpoint_if_cancelled

    # The task that asked last, and its state. The references are weak: a state leads to frames, by scopes and tasks.
    known_task: Callable[[], asyncio.Task[Any] | None] = _nothing
    known_state: Callable[[], TaskState | None] = _nothing

    async def checkpoint_if_cancelled() -> None:
        nonlocal known_task, known_state
        task = asyncio.current_task(running())
        if task is None:
            return
        if outlasted and id(task) in outlasted:
            await asyncio.sleep(0)  # it is delivered in this turn
        if known_task() is not task or (state := known_state()) is None:
            state = state_of(task)
            if state is None:
                return
            known_task, known_state = weakref.ref(task), weakref.ref(state)
        scope = state.cancel_scope
        while scope is not None:
            if scope._cancel_called:
                await theirs()
                return
            if scope._shield:
                return
            scope = scope._parent_scope

    return checkpoint_if_cancelled


def _nothing() -> None:
    return None


def _epoll_of(reference: Callable[[], asyncio.AbstractEventLoop | None]) -> int:
    """The descriptor of a loop's own epoll, by what is private to asyncio and uvloop; -1 if there is none any more."""
    loop: Any = reference()
    if loop is None or loop.is_closed():
        return -1
    if hasattr(loop, "_get_backend_id"):  # uvloop
        return int(loop._get_backend_id())
    selector: Any = getattr(loop, "_selector", None)
    return int(selector.fileno()) if hasattr(selector, "fileno") else -1


def running_loop() -> AsyncioLoop:
    """The loop that runs the calling task.

    :raises RuntimeError: outside of an event loop
    """
    running = asyncio.get_running_loop()
    found = _loops.get(running)
    if found is None:
        found = _loops[running] = AsyncioLoop(running)
    return found


@exits_in_group
async def _hop(call: Call[Any], threads: anyio.CapacityLimiter) -> None:
    await anyio.to_thread.run_sync(call.make, limiter=threads)


@final
class _Calls:
    """The calls of one function: soon, when a descriptor is readable, and when it has asked for them."""

    __slots__ = ("_call", "_fd", "_is_stopped", "_loop", "_next")

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, call: Callable[[], float]) -> None:
        # Weak: who is to stop this may be a value of a dictionary that has the loop as its weak key.
        self._loop = weakref.ref(loop)
        self._fd = fd
        self._call = call
        self._is_stopped = False
        if fd >= 0:
            loop.add_reader(fd, self._make)
        self._next: asyncio.Handle | None = loop.call_soon(self._make)

    def _make(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        seconds = self._call()
        loop = self._loop()
        if seconds < inf and loop is not None and not self._is_stopped:
            self._next = loop.call_later(seconds, self._make)

    def stop(self) -> None:
        self._is_stopped = True
        if self._next is not None:
            self._next.cancel()
        loop = self._loop()
        if self._fd >= 0 and loop is not None and not loop.is_closed():
            loop.remove_reader(self._fd)


@final
class AsyncioLoop(Loop):
    __slots__ = ("_epoll", "_loop", "_outlasted", "_threads", "checkpoint_if_cancelled")

    now = staticmethod(monotonic)
    wait_readable = staticmethod(anyio.wait_readable)
    wait_writable = staticmethod(anyio.wait_writable)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = weakref.ref(loop)
        self._outlasted = Outlasted()
        self.checkpoint_if_cancelled = _checkpoint_if_cancelled(self._loop, self._outlasted.tasks)
        # Weak, since this object is a value of _loops and must not keep its key: the sockets keep the epoll, and that
        # keeps the loop.
        self._epoll: Callable[[], SharedEpoll | None] = _nothing
        self._threads = anyio.CapacityLimiter(THREADS_MOST)
        # Neither asyncio nor uvloop gives a forked child an epoll of its own.
        if USE_SHARED_EPOLL:
            copy_in_child(self, functools.partial(_epoll_of, self._loop))

    def readiness(self, fd: int) -> Readiness:
        if not USE_SHARED_EPOLL:
            return LibraryReadiness(self, fd)
        epoll = self._epoll()
        if epoll is None:
            loop = self._loop()
            assert loop is not None  # it runs this task
            epoll = SharedEpoll(self, loop, self._forget_epoll)
            self._epoll = weakref.ref(epoll)
        return epoll.register(fd)

    def notify_closing(self, fd: int) -> None:
        with contextlib.suppress(RuntimeError):  # outside of the loop nobody waits
            asyncio.get_running_loop()
            anyio.notify_closing(fd)

    def resume_in_child(self, scope: anyio.CancelScope) -> None:
        # asyncio forgets the running loop, for children that run one of their own, and since Python 3.14 the running
        # task too. AnyIO's scopes would raise RuntimeError in place of what leaves them.
        loop = self._loop()
        if loop is not None and asyncio._get_running_loop() is None:
            asyncio._set_running_loop(loop)
            task = getattr(scope, "_host_task", None)  # private to AnyIO
            if task is not None and asyncio.current_task() is None:
                asyncio.tasks._enter_task(loop, task)

    def call_when_readable(self, fd: int, call: Callable[[], float]) -> Callable[[], None]:
        loop = self._loop()
        assert loop is not None  # it runs this task
        return _Calls(loop, fd, call).stop

    def call_soon(self, call: Callable[[], object]) -> None:
        loop = self._loop()
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(call)

    def open_nursery(self) -> AbstractAsyncContextManager[Nursery]:
        return anyio.create_task_group()

    def _forget_epoll(self, epoll: SharedEpoll) -> None:
        if self._epoll() is epoll:
            self._epoll = _nothing

    async def checkpoint(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.yield_at = monotonic() + YIELD_EVERY

    async def cancel_shielded_checkpoint(self) -> None:
        try:
            await anyio.lowlevel.cancel_shielded_checkpoint()
        except asyncio.CancelledError as error:  # noqa: ASYNC103 - see Outlasted
            self._outlasted.deliver_later(error)
        self.yield_at = monotonic() + YIELD_EVERY

    async def shielded(self, attempt: Callable[[], Awaitable[T]]) -> T:
        interruption: asyncio.CancelledError | None = None
        with anyio.CancelScope(shield=True):
            while True:
                try:
                    result = await attempt()
                    break
                except asyncio.CancelledError as error:  # noqa: ASYNC103 - see Outlasted
                    interruption = error
        if interruption is not None:
            self._outlasted.deliver_later(interruption)
        return result

    async def run_in_thread(self, function: Callable[..., T], *args: object) -> T:
        interruption: asyncio.CancelledError | None = None
        with anyio.CancelScope(shield=True):
            while True:
                call = Call(function, args)
                hop = asyncio.ensure_future(_hop(call, self._threads))
                interruption = await outlast(hop) or interruption
                if not hop.cancelled() and hop.exception() is None:
                    break
                # What cancels all tasks, as asyncio.run() does at its end, cancels that one too; a signal's handler may
                # raise in it. A thread that has begun goes on and is waited for; if none has, the call is made again.
                if not call.take_back():
                    interruption = await outlast(call.end()) or interruption
                    break
                if not hop.cancelled():
                    break
        self.waited()
        if interruption is not None:
            self._outlasted.deliver_later(interruption)
        if not hop.cancelled():
            try:
                hop.result()
            except BaseExceptionGroup as group:
                raise bare(group) from None  # noqa: ASYNC123 - what a handler has raised
        return call.result()
