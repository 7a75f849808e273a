"""How far it is: a bar, a line, or JSON, on standard error, while a transfer runs."""

from __future__ import annotations

import os
import sys

import anyio
from anyio import to_thread

from ..console.command_status import CommandStatus
from .displays import FRAME, Display, JSONLines, Line, Lines
from .meter_text import Rate

# What is over sooner needs no meter, nor the tenth of a second that loading rich takes (seconds).
_PATIENCE = 0.5


def chosen(how: str) -> str:
    """Resolve ``auto``: a bar on a terminal, nothing elsewhere."""
    if how != "auto":
        return how
    return "bar" if sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb" else "none"


async def show_progress(status: CommandStatus, how: str) -> None:
    """Show how far the transfer is, until cancelled; then nothing of a bar is left."""
    how = chosen(how)
    if how == "none":
        return
    rate = Rate()
    rate.of(status.moved())
    await anyio.sleep(_PATIENCE)
    display = await to_thread.run_sync(_display, how, abandon_on_cancel=True)
    try:
        while True:
            # Abandoned when a terminal is stopped (Ctrl-S): it must not stop the transfer, nor its end.
            await to_thread.run_sync(display.show, status, rate.of(status.moved()), abandon_on_cancel=True)
            await anyio.sleep(display.every)
    finally:
        with anyio.move_on_after(FRAME, shield=True):
            await to_thread.run_sync(display.clear, abandon_on_cancel=True)


def _display(how: str) -> Display:
    if how == "json":
        return JSONLines()
    if how == "plain" or not sys.stderr.isatty():
        return Lines()
    try:
        from .rich_bar import Bar
    except ImportError:  # rich comes with the extra `cli`
        return Line()
    return Bar()
