"""From the command line into the event loop and back, whatever interrupts it."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import final

import anyio

from .command_status import Tally

# What ends a command like Ctrl-C does, so that no partial file and no socket is left.
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

Main = Callable[[], Awaitable[int]]


def run(main: Main, tally: Tally, *, told: Callable[[], bool] | None = None) -> int:
    """Run ``main`` in an event loop until it returns its exit code or a signal comes.

    :param told: takes the first signal itself, and says whether it has: a server goes on until it has drained
    :returns: the exit code; after a signal 128 and its number
    """
    return anyio.run(_until_a_signal, main, tally, told, backend="trio")


async def _until_a_signal(main: Main, tally: Tally, told: Callable[[], bool] | None) -> int:
    # One that is ignored is somebody's will: nohup, a shell's background job. One whose handler Python does not know
    # (None) could not be put back.
    wanted = [number for number in _SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    caught: list[int] = []
    code = 0

    async def listen() -> None:
        async for number in received:
            if not caught and told is not None and told():
                caught.append(0)
                continue
            caught[:] = [number]
            tasks.cancel_scope.cancel()

    try:
        with anyio.open_signal_receiver(*wanted) as received:
            async with alone() as tasks:
                tasks.start_soon(listen)
                code = await main()
                tasks.cancel_scope.cancel()
    finally:
        number = caught[0] if caught else 0
    if number:
        name = signal.Signals(number).name
        how_far = f" after {tally.moved()} bytes" if tally.moved() else ""
        tally.facts["bytes"] = tally.moved()
        return tally.fail(128 + number, f"interrupted by {name}{how_far}")
    return code


@asynccontextmanager
async def alone() -> AsyncIterator[anyio.abc.TaskGroup]:
    """A task group that raises what a task of it raises, or the body, as it is and in no group."""
    failure: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        failure = _first(group)
    if failure is not None:
        raise failure


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first exception in a group; a cancellation, if one is in it: whoever cancelled waits for that."""
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
        """Until :meth:`set`."""
        self._event = anyio.Event()
        await self._event.wait()

    def set(self) -> bool:
        """Whether anybody was waiting for it."""
        if self._event is None:
            return False
        self._event.set()
        return True
