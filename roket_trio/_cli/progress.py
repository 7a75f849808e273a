"""How far it is: a bar, a line, or JSON, on standard error, while a transfer runs."""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from time import monotonic
from typing import Protocol, final

import anyio
from anyio import to_thread

from .tally import Tally
from .units import brief, duration

# What is over sooner needs no meter, nor the tenth of a second that loading rich takes (seconds).
_PATIENCE = 0.5

# How often a person's meter is drawn, and a program's written (seconds).
_FRAME = 0.1
_LINE = 1.0

# Over how many frames the rate is averaged.
_WINDOW = 30


class Display(Protocol):
    """One way to show it. Called in a worker thread, never twice at once: a terminal can block."""

    every: float

    def show(self, tally: Tally, rate: float) -> None: ...

    def clear(self) -> None: ...


def chosen(how: str) -> str:
    """Resolve ``auto``: a bar on a terminal, nothing elsewhere."""
    if how != "auto":
        return how
    return "bar" if sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb" else "none"


async def show_progress(tally: Tally, how: str) -> None:
    """Show how far the transfer is, until cancelled; then nothing of a bar is left."""
    how = chosen(how)
    if how == "none":
        return
    rate = Rate()
    rate.of(tally.moved())
    await anyio.sleep(_PATIENCE)
    display = await to_thread.run_sync(_display, how, abandon_on_cancel=True)
    try:
        while True:
            # Abandoned when a terminal is stopped (Ctrl-S): it must not stop the transfer, nor its end.
            await to_thread.run_sync(display.show, tally, rate.of(tally.moved()), abandon_on_cancel=True)
            await anyio.sleep(display.every)
    finally:
        with anyio.move_on_after(_FRAME, shield=True):
            await to_thread.run_sync(display.clear, abandon_on_cancel=True)


def _display(how: str) -> Display:
    if how == "json":
        return JSONLines()
    if how == "plain" or not sys.stderr.isatty():
        return Lines()
    try:
        from .bar import Bar
    except ImportError:  # rich comes with the extra `cli`
        return Line()
    return Bar()


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


def in_words(tally: Tally, rate: float, most: int = sys.maxsize) -> str:
    """``45% 461 MiB of 1.0 GiB, 1.2 GiB/s, 0.45 s left``, or as much of it as ``most`` characters hold."""
    moved, total = tally.moved(), tally.total
    if tally.phase:
        return f"{brief(moved)}, {tally.phase}"
    pace = f"{brief(rate)}/s" if rate else "stalled"
    if not total:
        return f"{brief(moved)}, {pace}"
    percent = f"{moved * 100 // total}%"
    ways = [f"{percent} {brief(moved)} of {brief(total)}, {pace}", f"{percent} {brief(moved)}, {pace}"]
    if rate and total > moved:
        ways.insert(0, f"{ways[0]}, {duration((total - moved) / rate)} left")
    return next((words for words in ways if len(words) <= most), f"{percent} {pace}")


@final
class Lines:
    """A line a second, for logs."""

    every = _LINE

    def show(self, tally: Tally, rate: float) -> None:
        sys.stderr.write(in_words(tally, rate) + "\n")
        sys.stderr.flush()

    def clear(self) -> None:
        pass


@final
class Line:
    """One line that is written over and over: a bar without rich."""

    every = _FRAME

    def show(self, tally: Tally, rate: float) -> None:
        width = columns()
        sys.stderr.write("\r" + in_words(tally, rate, width)[:width].ljust(width))
        sys.stderr.flush()

    def clear(self) -> None:
        sys.stderr.write("\r" + " " * (columns() + len("^C")) + "\r")
        sys.stderr.flush()


@final
class JSONLines:
    """An object a second, for programs."""

    every = _LINE

    def show(self, tally: Tally, rate: float) -> None:
        told = {"bytes": tally.moved(), "total": tally.total, "bytes_per_second": round(rate), "phase": tally.phase}
        sys.stderr.write(json.dumps({"progress": told}) + "\n")
        sys.stderr.flush()

    def clear(self) -> None:
        pass
