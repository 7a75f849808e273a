"""A call that waits is cancelled: by a scope on every loop, and by asyncio's own ways where there are such.

How long that takes is counted in turns of the loop, not in milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, final

import anyio
import anyio.lowlevel
import trio

from support.waiting import until

# No call takes more turns to end; one that goes on waiting for its peer, or for a time to be over, takes thousands.
TURNS = 100

WAYS = ["scope", "deadline", "task", "task_each_turn", "timeout"]
"""Trio has the first two alone: there the others do the same."""


@final
class Waiting:
    """One call in a task of its own, to be cancelled."""

    def __init__(self, way: str, call: Callable[[], Awaitable[object]]) -> None:
        self._call = call
        self._way = "scope" if trio.lowlevel.in_trio_task() and way not in WAYS[:2] else way
        self._scope = anyio.CancelScope()
        self._task: asyncio.Task[Any] | None = None
        self._timeout: asyncio.Timeout | None = None
        self.is_over = False
        self.was_cancelled = False

    async def run(self) -> None:
        try:
            with self._scope:
                if self._way == "timeout":
                    async with asyncio.timeout(None) as self._timeout:
                        await self._call()
                elif self._way.startswith("task"):
                    self._task = asyncio.current_task()
                    await self._call()
                else:
                    await self._call()
        except asyncio.CancelledError:  # noqa: ASYNC103 - the test's own
            self.was_cancelled = True
        except TimeoutError:
            self.was_cancelled = True
        finally:
            self.is_over = True
        self.was_cancelled |= self._scope.cancelled_caught

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        elif self._timeout is not None:
            self._timeout.reschedule(asyncio.get_running_loop().time())
        elif self._way == "deadline":
            self._scope.deadline = anyio.current_time()
        else:
            self._scope.cancel()

    async def end(self) -> None:
        """Cancel it, and see it end soon, by that cancellation."""
        self.cancel()
        for _ in range(TURNS):
            await anyio.lowlevel.checkpoint()
            if self.is_over:
                break
            if self._way == "task_each_turn":
                self.cancel()
        assert self.is_over, "the call goes on waiting"
        assert self.was_cancelled, "the cancellation is lost"


async def cancel(
    way: str, call: Callable[[], Awaitable[object]], when: Callable[[], object] = lambda: True, *, turns: int = 20
) -> None:
    """Make ``call`` in a task, and cancel it when ``when`` is true and it waits: it ends at once."""
    async with anyio.create_task_group() as tasks:
        waiting = Waiting(way, call)
        tasks.start_soon(waiting.run)
        await until(when)
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        assert not waiting.is_over, "the call does not wait"
        await waiting.end()
