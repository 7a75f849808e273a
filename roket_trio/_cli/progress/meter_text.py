"""How far a transfer is, in words."""

from __future__ import annotations

import os
import sys
from collections import deque
from time import monotonic
from typing import final

from ..console.command_status import CommandStatus
from ..console.units import duration, short_size

# Over how many frames the rate is averaged.
_WINDOW = 30


def columns() -> int:
    """How long a line may be that is drawn over: a terminal that echoes ``^C`` behind it must not begin another."""
    return max(1, (os.get_terminal_size(sys.stderr.fileno()).columns or 80) - len("^C") - 1)


@final
class Rate:
    """Bytes a second, averaged over the last few seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=_WINDOW)

    def of(self, moved: int) -> float:
        """Note how far it is, and return the rate."""
        now = monotonic()
        self._seen.append((now, moved))
        then, before = self._seen[0]
        return (moved - before) / (now - then) if now > then else 0.0


def in_words(status: CommandStatus, rate: float, most: int = sys.maxsize) -> str:
    """``45% 461 MiB of 1.0 GiB, 1.2 GiB/s, 0.45 s left``, or as much of it as ``most`` characters hold."""
    moved, total = status.moved(), status.total
    if status.phase:
        return f"{short_size(moved)}, {status.phase}"
    pace = f"{short_size(rate)}/s" if rate else "stalled"
    if not total:
        return f"{short_size(moved)}, {pace}"
    percent = f"{moved * 100 // total}%"
    ways = [f"{percent} {short_size(moved)} of {short_size(total)}, {pace}", f"{percent} {short_size(moved)}, {pace}"]
    if rate and total > moved:
        ways.insert(0, f"{ways[0]}, {duration((total - moved) / rate)} left")
    return next((words for words in ways if len(words) <= most), f"{percent} {pace}")
