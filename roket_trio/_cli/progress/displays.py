"""The displays of progress on standard error that need no library."""

from __future__ import annotations

import json
import sys
from typing import Protocol, final

from ..console.command_status import CommandStatus
from .progress_text import progress_text, usable_columns

# How often a line for a person is rewritten, and how often one is added to a log (seconds).
FRAME = 0.1
_LOG = 1.0


class Display(Protocol):
    """A way to show progress. Its methods are called in a worker thread, since a terminal can block; never two at
    once."""

    interval: float
    """How long to wait between two calls of :meth:`show` (seconds)."""

    def show(self, status: CommandStatus, bytes_per_second: float) -> None: ...

    def clear(self) -> None:
        """Remove what is shown, so that the last line can be printed."""


@final
class LogDisplay:
    """A line of text every second."""

    interval = _LOG

    def show(self, status: CommandStatus, bytes_per_second: float) -> None:
        sys.stderr.write(progress_text(status, bytes_per_second) + "\n")
        sys.stderr.flush()

    def clear(self) -> None:
        pass


@final
class JSONDisplay:
    """A line of JSON every second."""

    interval = _LOG

    def show(self, status: CommandStatus, bytes_per_second: float) -> None:
        progress = {
            "bytes": status.moved(),
            "total": status.total,
            "bytes_per_second": round(bytes_per_second),
            "phase": status.phase,
        }
        sys.stderr.write(json.dumps({"progress": progress}) + "\n")
        sys.stderr.flush()

    def clear(self) -> None:
        pass


@final
class LineDisplay:
    """One line of text that is rewritten in place, for a terminal where rich is not installed."""

    interval = FRAME

    def show(self, status: CommandStatus, bytes_per_second: float) -> None:
        width = usable_columns()
        sys.stderr.write("\r" + progress_text(status, bytes_per_second, width)[:width].ljust(width))
        sys.stderr.flush()

    def clear(self) -> None:
        sys.stderr.write("\r" + " " * (usable_columns() + len("^C")) + "\r")
        sys.stderr.flush()
