"""Fair shares of one event loop for the transfers that run in it.

A transfer that never has to wait could keep the loop to itself, and a hundred that are ready at once could keep it for
the length of a hundred slices. So a slice is done only by who holds one of a few places, first come first served: in
one turn of the loop at most :data:`PLACES` slices run, however many transfers there are. One alone never waits for a
place.
"""

from __future__ import annotations

import weakref
from typing import final

import anyio

from ._loops import Loop

# At most so many slices in one turn of the loop, and the most that one slice moves (bytes): a turn takes half a
# millisecond at 4 GiB/s. A thousand transfers at once reach 0.68 of a bare epoll loop's throughput so (2 MiB each),
# 0.52 with 4 places of 256 KiB.
PLACES = 2
SLICE = 1 << 20

_shares: weakref.WeakKeyDictionary[Loop, Shares] = weakref.WeakKeyDictionary()


@final
class Shares:
    """The places of one loop: ``await shares.take()`` before a slice, ``shares.give_back()`` after it."""

    __slots__ = ("__weakref__", "_loop", "_places")

    def __init__(self, loop: Loop) -> None:
        self._loop = weakref.ref(loop)
        self._places = anyio.Semaphore(PLACES, max_value=PLACES, fast_acquire=True)

    async def take(self) -> None:
        """Wait for a place. A checkpoint when there is none, or when the loop has not turned for a millisecond."""
        loop = self._loop()
        assert loop is not None
        await loop.step()
        try:
            self._places.acquire_nowait()
        except anyio.WouldBlock:
            await self._places.acquire()
            loop.waited()

    def give_back(self) -> None:
        """Let the next one have it."""
        self._places.release()


def shares_of(loop: Loop) -> Shares:
    """The places of ``loop``."""
    found = _shares.get(loop)
    if found is None:
        found = _shares[loop] = Shares(loop)
    return found
