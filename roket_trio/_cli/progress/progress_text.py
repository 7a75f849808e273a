"""The progress of a transfer in words."""

from __future__ import annotations

import os
import sys
from collections import deque
from time import monotonic
from typing import final

from ..console.command_status import CommandStatus
from ..console.units import duration, short_size

# Over how many calls the speed is averaged.
_WINDOW = 30


def usable_columns() -> int:
    """How long a line that is rewritten in place may be.

    It leaves space for the ``^C`` that a terminal echoes behind it, which must not begin another line.
    """
    return max(1, (os.get_terminal_size(sys.stderr.fileno()).columns or 80) - len("^C") - 1)


@final
class Speedometer:
    """The speed in bytes per second, averaged over the last calls."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=_WINDOW)

    def update(self, moved: int) -> float:
        """Note how many bytes have been moved until now; returns the speed."""
        now = monotonic()
        self._seen.append((now, moved))
        then, before = self._seen[0]
        return (moved - before) / (now - then) if now > then else 0.0


def progress_text(status: CommandStatus, bytes_per_second: float, most: int = sys.maxsize) -> str:
    """``45% 461 MiB of 1.0 GiB, 1.2 GiB/s, 0.45 s left``, or as much of it as fits into ``most`` characters."""
    moved, total = status.moved(), status.total
    if status.phase:
        return f"{short_size(moved)}, {status.phase}"
    speed = f"{short_size(bytes_per_second)}/s" if bytes_per_second else "stalled"
    if not total:
        return f"{short_size(moved)}, {speed}"
    percent = f"{moved * 100 // total}%"
    figure = f"{percent} {short_size(moved)}"
    texts = [f"{figure} of {short_size(total)}, {speed}", f"{figure}, {speed}"]
    if bytes_per_second and total > moved:
        texts.insert(0, f"{texts[0]}, {duration((total - moved) / bytes_per_second)} left")
    return next((text for text in texts if len(text) <= most), f"{percent} {speed}")
