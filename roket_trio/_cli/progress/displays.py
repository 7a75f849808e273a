"""Ways to show progress on standard error that need no library."""

from __future__ import annotations

import json
import sys
from typing import Protocol, final

from ..console.command_status import CommandStatus
from .meter_text import columns, in_words

# How often a person's meter is drawn, and a program's written (seconds).
FRAME = 0.1
_LINE = 1.0


class Display(Protocol):
    """One way to show it. Called in a worker thread, never twice at once: a terminal can block."""

    every: float

    def show(self, status: CommandStatus, rate: float) -> None: ...

    def clear(self) -> None: ...


@final
class Lines:
    """A line a second, for logs."""

    every = _LINE

    def show(self, status: CommandStatus, rate: float) -> None:
        sys.stderr.write(in_words(status, rate) + "\n")
        sys.stderr.flush()

    def clear(self) -> None:
        pass


@final
class Line:
    """One line that is written over and over: a bar without rich."""

    every = FRAME

    def show(self, status: CommandStatus, rate: float) -> None:
        width = columns()
        sys.stderr.write("\r" + in_words(status, rate, width)[:width].ljust(width))
        sys.stderr.flush()

    def clear(self) -> None:
        sys.stderr.write("\r" + " " * (columns() + len("^C")) + "\r")
        sys.stderr.flush()


@final
class JSONLines:
    """An object a second, for programs."""

    every = _LINE

    def show(self, status: CommandStatus, rate: float) -> None:
        told = {"bytes": status.moved(), "total": status.total, "bytes_per_second": round(rate), "phase": status.phase}
        sys.stderr.write(json.dumps({"progress": told}) + "\n")
        sys.stderr.flush()

    def clear(self) -> None:
        pass
