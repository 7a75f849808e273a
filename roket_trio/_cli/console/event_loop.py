"""From the command line into the event loop, and back when the work is done or a signal arrives."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import final

import anyio

from .command_status import CommandStatus
from .exit_codes import after_signal
from .signals import ending_signals

Main = Callable[[], Awaitable[int]]


def run_in_event_loop(main: Main, status: CommandStatus, *, on_first_signal: Callable[[], bool] | None = None) -> int:
    """Run ``main`` in an event loop until it returns its exit code, or a signal cancels it.

    :param on_first_signal: called at the first signal, instead of the cancellation, where it returns True: a server
        goes on until its connections have ended
    :returns: the exit code: that of ``main``, or that of a command that a signal has ended
    """
    return anyio.run(_until_a_signal, main, status, on_first_signal, backend="trio")


async def _until_a_signal(main: Main, status: CommandStatus, on_first_signal: Callable[[], bool] | None) -> int:
    code = 0
    ended_by = 0

    async def handle_signals() -> None:
        nonlocal ended_by
        is_first = True
        async for number in received:
            if is_first and on_first_signal is not None and on_first_signal():
                is_first = False
                continue
            ended_by = number
            tasks.cancel_scope.cancel()

    with anyio.open_signal_receiver(*ending_signals()) as received:
        async with bare_task_group() as tasks:
            tasks.start_soon(handle_signals)
            code = await main()
            tasks.cancel_scope.cancel()
    if not ended_by:
        return code
    moved = status.moved()
    status.facts["bytes"] = moved
    how_far = f" after {moved} bytes" if moved else ""
    return status.fail(after_signal(ended_by), f"interrupted by {signal.Signals(ended_by).name}{how_far}")


@asynccontextmanager
async def bare_task_group() -> AsyncIterator[anyio.abc.TaskGroup]:
    """A task group that raises the exception of its body, or of a task, as it is and not in an exception group."""
    failure: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        failure = _first(group)
    if failure is not None:
        raise failure


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first exception in a group; a cancellation, if there is one, since the scope that cancelled expects it."""
    cancellations = group.subgroup(anyio.get_cancelled_exc_class())
    while isinstance(inner := (cancellations or group).exceptions[0], BaseExceptionGroup):
        group, cancellations = inner, None
    return inner


@final
class Shutdown:
    """An event that can be made before there is an event loop."""

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    async def wait(self) -> None:
        """Wait until :meth:`set` is called."""
        self._event = anyio.Event()
        await self._event.wait()

    def set(self) -> bool:
        """Set the event, if a task is waiting for it; returns whether one is."""
        if self._event is None:
            return False
        self._event.set()
        return True
