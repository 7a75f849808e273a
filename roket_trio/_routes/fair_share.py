"""Fair shares of one event loop for the transfers that run in it.

A transfer that never has to wait could keep the loop to itself, and a hundred that are ready at once could keep it for
the length of a hundred slices. So there are a few places: who has moved a slice in one turn of the loop has used one
up, and it is free again when that turn is over. However many transfers there are, in one turn run as many slices as
fit into a millisecond, by what the last ones took, first come first served; one transfer alone pays one checkpoint for
so many slices.

Measured (100 transfers of 20 MB, the worst that another task had to wait): 82-175 ms when a transfer only looked at the
clock, 3 ms so.
"""

from __future__ import annotations

import weakref
from collections import deque
from time import monotonic
from typing import final

import anyio

from .._loops import YIELD_EVERY, Loop

# The most that one slice moves (bytes): 0.15 to 0.5 ms. A thousand transfers of 8 MiB at once take 1.22 times what a
# bare epoll loop does so, 1.26 in slices of 1 MiB.
QUANTUM = 2 << 20

# So many slices in one turn at first, and at most: one that finds its socket full takes next to no time, and the next
# ones may not. (With 16 at most the others waited 6 to 9 ms, p99, beside a hundred transfers; with four 1 to 3.)
_SLOTS_FIRST = 2
SLOTS_MOST = 4

# How much the last slice counts in the average.
_WEIGHT = 1 / 16

_schedulers: weakref.WeakKeyDictionary[Loop, FairScheduler] = weakref.WeakKeyDictionary()


@final
class FairScheduler:
    """The places of one loop: ``await scheduler.acquire()`` before a slice, ``scheduler.release()`` after it, and no
    ``await`` between."""

    __slots__ = (
        "__weakref__",
        "_began",
        "_free",
        "_loop",
        "_quantum_seconds",
        "_queue",
        "_slots",
        "_turn_is_awaited",
        "_used",
    )

    def __init__(self, loop: Loop) -> None:
        self._loop = weakref.ref(loop)
        # Each place is free, used up in this turn, or on its way to one that had waited for it.
        self._slots = self._free = _SLOTS_FIRST
        self._used = 0
        # What a slice takes, on average, and when the one that runs began.
        self._quantum_seconds = YIELD_EVERY / _SLOTS_FIRST
        self._began = 0.0
        self._queue: deque[anyio.Event] = deque()
        # Somebody waits for the next turn, and will free then what was used in this one.
        self._turn_is_awaited = False

    async def acquire(self) -> None:
        """Wait for a place. A check for cancellation when there is one, otherwise a checkpoint: as many as are free in
        a turn are used up within a millisecond."""
        loop = self._loop()
        assert loop is not None
        if self._free:
            await loop.checkpoint_if_cancelled()
        elif not self._turn_is_awaited:
            await self._wait_for_the_next_turn(loop)
        if self._free:
            self._free -= 1
            self._pass_on()
        else:
            await self._wait_in_the_queue(loop)
        self._began = monotonic()

    def release(self) -> None:
        """Let the next one have it, in the next turn; or two, or none, as the time that a slice takes allows."""
        self._quantum_seconds += (monotonic() - self._began - self._quantum_seconds) * _WEIGHT
        if self._slots > 1 and self._slots * self._quantum_seconds > YIELD_EVERY:
            self._slots -= 1
            return
        self._return_slot()
        if self._slots < SLOTS_MOST and (self._slots + 1) * self._quantum_seconds <= YIELD_EVERY:
            self._slots += 1
            self._return_slot()

    def _return_slot(self) -> None:
        if self._queue:
            self._queue.popleft().set()
        else:
            self._used += 1

    async def _wait_for_the_next_turn(self, loop: Loop) -> None:
        self._turn_is_awaited = True
        try:
            await loop.checkpoint()
        except BaseException:
            self._end_turn()
            self._pass_on()
            raise
        self._end_turn()

    def _end_turn(self) -> None:
        self._turn_is_awaited = False
        self._free, self._used = self._used, 0

    def _pass_on(self) -> None:
        while self._free and self._queue:
            self._free -= 1
            self._queue.popleft().set()

    async def _wait_in_the_queue(self, loop: Loop) -> None:
        # Who waits here does not wait for ever: somebody waits for the next turn, or is about to run and give back.
        mine = anyio.Event()
        self._queue.append(mine)
        try:
            await mine.wait()
        except BaseException:
            if mine.is_set():
                self._return_slot()
            else:
                self._queue.remove(mine)
            raise
        loop.waited()


def scheduler_of(loop: Loop) -> FairScheduler:
    """The places of ``loop``."""
    found = _schedulers.get(loop)
    if found is None:
        found = _schedulers[loop] = FairScheduler(loop)
    return found
