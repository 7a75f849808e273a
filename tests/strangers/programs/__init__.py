"""Programs that use a library for real, with our names in the place of AnyIO's or Trio's.

``ROKET_NAMES=anyio python -m tests.strangers.programs.NAME LOOP`` exits with 0 when all of it has worked, and no socket
is left.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from support.loops import run_bounded
from support.waiting import until as until

from .. import put_names  # before the programs' own imports take names from AnyIO or Trio

assert put_names.names, "ROKET_NAMES says in whose modules our names are put"


def run(program: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``program`` on the loop that is named on the command line."""
    before = sockets()
    run_bounded(sys.argv[1], program)
    left = sockets() - before
    assert not left, f"open at the end: {left}"


def sockets() -> set[str]:
    """The process's sockets, by what /proc calls them."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:  # that of listdir itself
            continue
    return {name for name in found if name.startswith("socket:")}
