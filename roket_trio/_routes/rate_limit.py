"""How fast a transfer may go."""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import final

import anyio

# The shortest time over which the rate holds (seconds). One step moves what the rate allows in it.
_GRAIN = 0.01


@final
class RateLimiter:
    """A limit in bytes a second, smooth at 10 ms, or no limit.

    After a pause at most 10 ms are made up for, so that a stall is not followed by a burst.
    """

    __slots__ = ("_free_at", "_rate")

    def __init__(self, rate: float | None) -> None:
        """:param rate: bytes a second; ``None`` or ``inf`` for no limit
        :raises ValueError: the rate is not positive
        """
        if rate is not None and not rate > 0:
            raise ValueError(f"rate_limit must be positive, not {rate}")
        self._rate = None if rate == inf else rate
        self._free_at = 0.0

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit at all."""
        return self._rate is not None

    def step(self, wanted: int) -> int:
        """How much of ``wanted`` may be moved in one step."""
        if self._rate is None:
            return wanted
        return max(1, min(wanted, int(self._rate * _GRAIN)))

    def moved(self, count: int) -> None:
        """Count the bytes that a step has moved."""
        if self._rate is not None:
            self._free_at = max(self._free_at, monotonic() - _GRAIN) + count / self._rate

    async def wait(self) -> None:
        """Wait until the next step is allowed. It is a checkpoint only if it has to wait."""
        if self._rate is not None and (seconds := self._free_at - monotonic()) > 0:
            await anyio.sleep(seconds)


UNLIMITED = RateLimiter(None)
"""For all transfers without a limit: it keeps nothing."""
