"""Show the progress of a transfer while it runs."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress

import anyio
from anyio import to_thread

from ..console.command_status import CommandStatus
from .displays import Display, JSONDisplay, LineDisplay, LogDisplay
from .progress_text import Speedometer

# A transfer that is over sooner needs no progress, nor the tenth of a second that loading rich takes (seconds).
_DELAY = 0.5
# How long the end of a command waits until its display is removed: a terminal that is stopped (Ctrl-S) holds up the
# thread, and a busy machine runs it late (seconds).
_REMOVAL = 2.0


def resolve(kind: str) -> str:
    """The kind of display that ``--progress`` names; ``auto`` is a bar on a terminal, and none elsewhere."""
    if kind != "auto":
        return kind
    return "bar" if sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb" else "none"


async def show_progress(status: CommandStatus, kind: str) -> None:
    """Show the progress until cancelled, or until it cannot be shown any more; then the bar is removed.

    :param kind: a value of ``--progress``
    """
    kind = resolve(kind)
    if kind == "none":
        return
    speedometer = Speedometer()
    speedometer.update(status.moved())
    await anyio.sleep(_DELAY)
    display = await to_thread.run_sync(display_of, kind, abandon_on_cancel=True)
    # A thread may still be drawing, or be about to, when the display is removed.
    drawing = threading.Lock()
    is_removed = False

    def draw(speed: float) -> None:
        with drawing:
            if not is_removed:
                display.show(status, speed)

    def remove() -> None:
        nonlocal is_removed
        with drawing:
            is_removed = True
            display.clear()

    try:
        while True:
            # A terminal that is stopped (Ctrl-S) blocks the thread: neither the transfer nor its end waits for that.
            speed = speedometer.update(status.moved())
            await to_thread.run_sync(draw, speed, abandon_on_cancel=True)
            await anyio.sleep(display.interval)
    except OSError:  # the terminal is gone, or the disk is full: the transfer goes on unseen
        return
    finally:
        with anyio.move_on_after(_REMOVAL, shield=True), suppress(OSError):
            await to_thread.run_sync(remove, abandon_on_cancel=True)


def display_of(kind: str) -> Display:
    """The display of that kind, as :func:`resolve` has it. Blocks: loading rich takes time."""
    if kind == "json":
        return JSONDisplay()
    if kind == "plain" or not sys.stderr.isatty():
        return LogDisplay()
    try:
        from .rich_bar import RichBar
    except ImportError:  # rich comes with the extra `cli`
        return LineDisplay()
    return RichBar()
