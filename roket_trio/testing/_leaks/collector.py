"""Keep the garbage collector from starting in this package's own code.

What it finds warns on its way (``ResourceWarning``), and the warning names the line that was running. It must be one of
the program's, as it would be without a census. What is allocated and freed meanwhile leaves the collector's counter as
it was, so it starts in the program where it would have started there.

These are functions, and no context manager: an object for it would be an allocation at which the collector may start.
From CPython 3.12 on a collection that is due begins at the next function that is entered, whosever that is. So one that
the program's own allocation has called for may still begin at the first line of a function of ours.
"""

from __future__ import annotations

import gc


def pause_collector() -> bool:
    """Let the collector not start by itself, in any thread; returns what :func:`resume_collector` needs."""
    was_enabled = gc.isenabled()
    gc.disable()
    return was_enabled


def resume_collector(was_enabled: bool) -> None:
    """Leave the collector as the program had it."""
    if was_enabled:
        gc.enable()
