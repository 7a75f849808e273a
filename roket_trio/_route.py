"""What the routes of a transfer have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ._errors import BrokenResourceError, broken
from ._pace import Pace


class Route(ABC):
    """One way from a source to a sink, for one transfer. It may be run again after it was interrupted.

    ``bytes_moved`` is what the sink has accepted, over all runs; ``name`` is the way that runs or ran last. Both are
    plain attributes that change while it runs, and cost nothing to read.
    """

    __slots__ = ("bytes_moved", "fallbacks", "name", "pace")

    def __init__(self, name: str, pace: Pace) -> None:
        self.bytes_moved = 0
        self.name = name
        self.pace = pace
        # The faster ways that the kernel refused.
        self.fallbacks: list[str] = []

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
