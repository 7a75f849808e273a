"""The fair scheduler: it divides one event loop among the transfers that run in it.

A transfer that never has to wait could keep the loop to itself, and a hundred that are ready at once could keep it for
the length of a hundred slices. So a loop has a few slots. A transfer takes a slot for each slice that it moves, and the
slot is free again in the next turn of the loop. In one turn as many slices run as fit into a millisecond, however many
transfers there are, and transfers that wait are served in the order in which they came. A transfer that is alone makes
one checkpoint for as many slices as there are slots.

Measured with 100 transfers of 20 MB: another task had to wait for at most 3 ms; for 82 to 175 ms when each transfer
looked at the clock instead.
"""

from __future__ import annotations

import weakref
from collections import deque
from time import monotonic
from typing import final

import anyio

from .._loops import YIELD_EVERY, Loop

# The most that one slice moves (bytes), in 0.15 to 0.5 ms. A thousand transfers of 8 MiB at once take 1.22 times what a
# bare epoll loop takes with this quantum, 1.26 times with 1 MiB.
QUANTUM = 2 << 20

# How many slots there are at first, and at most. The most is not larger, since a slice that finds its socket full takes
# next to no time, and the next ones may not: beside a hundred transfers the other tasks waited 6 to 9 ms (p99) with 16
# slots, 1 to 3 ms with four.
_SLOTS_FIRST = 2
SLOTS_MOST = 4

# How much the last slice counts in the average.
_WEIGHT = 1 / 16

_schedulers: weakref.WeakKeyDictionary[Loop, FairScheduler] = weakref.WeakKeyDictionary()


@final
class FairScheduler:
    """Gives the slots of one loop to its transfers.

    Call ``await scheduler.acquire()`` before a slice and ``scheduler.release()`` after it, with no ``await`` between.
    """

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
        # Each slot is free, used in this turn, or given to a task of the queue that has not run yet.
        self._slots = self._free = _SLOTS_FIRST
        self._used = 0
        # How long a slice takes on average (seconds), and when the one that runs began.
        self._quantum_seconds = YIELD_EVERY / _SLOTS_FIRST
        self._began = 0.0
        self._queue: deque[anyio.Event] = deque()
        # Whether a task waits for the next turn, in which it frees what was used in this one.
        self._turn_is_awaited = False

    async def acquire(self) -> None:
        """Wait for a slot. With a free slot this is a check for cancellation, otherwise a checkpoint."""
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
        """Free the slot for the next turn, and adapt the number of slots to the time that a slice takes."""
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
        # This wait ends: another task waits for the next turn, or has a slot and is about to release it.
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
    """The scheduler of ``loop``, which the first call makes."""
    found = _schedulers.get(loop)
    if found is None:
        found = _schedulers[loop] = FairScheduler(loop)
    return found
