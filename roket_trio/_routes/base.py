"""What the routes of a transfer have in common."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from typing import SupportsIndex

from .._errors import BrokenResourceError, broken
from .rate_limit import RateLimiter

# What off_t holds (lseek(2)).
_OFFSET_MOST = (1 << 63) - 1


def checked_count(count: SupportsIndex | None) -> int | None:
    """How many bytes a caller wants to move.

    :raises TypeError: it is no integer
    :raises ValueError: it is negative
    """
    if count is None:
        return None
    number = operator.index(count)
    if number < 0:
        raise ValueError(f"count must not be negative: {number}")
    return number


def checked_offset(offset: SupportsIndex) -> int:
    """Where in a file a caller wants to begin.

    :raises TypeError: it is no integer
    :raises ValueError: it is negative, or larger than any file
    """
    number = operator.index(offset)
    if number < 0:
        raise ValueError(f"offset must not be negative: {number}")
    if number > _OFFSET_MOST:
        raise ValueError(f"offset is beyond the end of any file: {number}")
    return number


class Route(ABC):
    """One way from a source to a sink, for one transfer. It may be run again after it was interrupted.

    ``bytes_moved`` is what the sink has accepted, over all runs; ``name`` is the way that runs or ran last. Both are
    plain attributes that change while it runs, and cost nothing to read.
    """

    __slots__ = ("bytes_moved", "fallbacks", "limiter", "name", "unknown")

    def __init__(self, name: str, limiter: RateLimiter) -> None:
        self.bytes_moved = 0
        self.name = name
        self.limiter = limiter
        # The faster ways that the kernel refused.
        self.fallbacks: list[str] = []
        # What nobody knows since it was interrupted, so that it cannot be run again.
        self.unknown: str | None = None

    @abstractmethod
    async def run(self) -> None:
        """Move what is left to be moved.

        :raises BrokenResourceError: one side failed; its ``side`` says which
        :raises TruncatedError: the source ended early
        """

    def fall_back(self, to: str) -> None:
        """The kernel has refused the way that was tried, and moved nothing."""
        self.fallbacks.append(self.name)
        self.name = to

    def failed(self, side: str, what: str, error: OSError) -> BrokenResourceError:
        """The exception for an error of the source's or the sink's; raise it ``from error``."""
        verb = "reading" if side == "source" else "writing"
        failure = broken(f"{verb} {what} failed after {self.bytes_moved} bytes were moved", error)
        failure.side = side
        failure.bytes_moved = self.bytes_moved
        return failure
