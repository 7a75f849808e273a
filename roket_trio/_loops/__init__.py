"""The running event loop behind one small interface: readiness of descriptors, checkpoints, worker threads."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module

if sys.platform == "win32":  # here, since every stream needs a loop
    raise ImportError("roket_trio needs a POSIX system, such as Linux or macOS: it does not run on Windows")

from trio import lowlevel  # not `import trio`: that name is the module beside this one

from .interface import YIELD_EVERY as YIELD_EVERY
from .interface import Loop as Loop
from .interface import Nursery as Nursery
from .interface import Readiness as Readiness
from .resource_guard import ResourceGuard as ResourceGuard
from .trio import TrioLoop

# One for each run, not one for each thread: what a loop counts (the slots of the fair scheduler) ends with its run.
_of_run: lowlevel.RunVar[TrioLoop] = lowlevel.RunVar("roket_trio loop")
_find_asyncio_loop: Callable[[], Loop] | None = None


def current_loop() -> Loop:
    """The loop that runs the calling task.

    :raises RuntimeError: outside of an event loop
    """
    if lowlevel.in_trio_task():
        try:
            return _of_run.get()
        except LookupError:
            loop = TrioLoop()
            _of_run.set(loop)
            return loop
    global _find_asyncio_loop
    if _find_asyncio_loop is None:  # a program that never runs asyncio does not load it: 13 ms
        _find_asyncio_loop = import_module(".asyncio", __name__).running_loop
    return _find_asyncio_loop()
