"""How long nothing has moved. Pure: the caller says what time it is, and does the waiting."""

from __future__ import annotations

from typing import final

# How often a figure is compared within its limit. So a limit is kept at most an eighth late.
_CHECKS = 8


@final
class IdleClock:
    """Measures for how long a figure, a count of bytes for example, has not changed.

    Time in which the event loop stood still does not count: nothing could move meanwhile.
    """

    __slots__ = ("_changed_at", "_figure", "_limit", "due")

    def __init__(self, limit: float, figure: object, now: float) -> None:
        """:param limit: for how long the figure may stay the same (seconds; ``inf`` for ever)"""
        self._limit = limit
        self.due: float
        """When to call :meth:`is_over`."""
        self.restart(figure, now)

    def restart(self, figure: object, now: float) -> None:
        """Measure from ``now`` on."""
        self._figure = figure
        self._changed_at = now
        self.due = now + self._limit / _CHECKS

    def is_over(self, figure: object, now: float) -> bool:
        """Note the figure. True when it has been the same for ``limit``; otherwise call this again at :attr:`due`."""
        if figure != self._figure:
            self.restart(figure, now)
            return False
        if now - self.due > self._limit / _CHECKS:
            self._changed_at += now - self.due  # the loop stood still
        end = self._changed_at + self._limit
        if now >= end:
            return True
        self.due = min(now + self._limit / _CHECKS, end)
        return False
