"""What keeps a socket open, as far as the garbage collector can tell: an object that has it, a loop that is paused."""

from __future__ import annotations

import gc
import socket
import sys
from collections.abc import Iterable
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, ModuleType
from typing import Any, Final, cast, final

_LOOKED_AT: Final = 200_000  # objects, about 0.1 s
# Behind these is the whole program.
_WALLS: Final = (type, ModuleType, FrameType, CodeType, BuiltinFunctionType, str, bytes, int, float)
_WALLED_OFF: Final = ("_pytest.", "pluggy.", "xdist.", "execnet.")


def held_by(root: object, fds: set[int]) -> set[int]:
    """Those of some descriptors whose socket objects can be reached from ``root``.

    An event loop on the way is not entered: it knows every socket, whoever forgot it. A socket without an object of
    its own (uvloop) is not found, nor is what only a running thread knows.
    """
    found: set[int] = set()
    seen: set[int] = set()
    loops = _event_loops()
    waiting: list[object] = [root]
    while waiting and len(seen) < _LOOKED_AT and len(found) < len(fds):
        this = waiting.pop()
        kind = type(this)  # not isinstance(): a proxy may lie, and work to do so
        if id(this) in seen or issubclass(kind, _WALLS + loops):
            continue
        seen.add(id(this))
        if issubclass(kind, socket.socket):
            fd = socket.socket.fileno(cast(socket.socket, this))
            found |= {fd} & fds
        waiting += _referents(this)
    return found


@final
class _Nothing:
    pass


def has_paused_loop() -> bool:
    """Whether an event loop of this process is neither running nor closed: one of a wider scope, between two tests.

    What such a loop is to close it cannot close now. Trio does not say whether a run is paused, so each run that has
    tasks counts. A loop that only the garbage collector knows is never going to run again, and does not count.
    """
    if not _sees_paused_loop():
        return False
    gc.collect()
    return _sees_paused_loop()


def _sees_paused_loop() -> bool:
    asyncio_loop, _, trio_run = _event_loops()
    for this in gc.get_objects():
        kind = type(this)
        if issubclass(kind, asyncio_loop):
            loop = cast(Any, this)
            if not loop.is_closed() and not loop.is_running():
                return True
        elif issubclass(kind, trio_run) and cast(Any, this).tasks:
            return True
    return False


def _event_loops() -> tuple[type, ...]:
    names = (("asyncio", "AbstractEventLoop"), ("selectors", "BaseSelector"), ("trio._core._run", "Runner"))
    return tuple(getattr(sys.modules.get(module), name, _Nothing) for module, name in names)


def _referents(this: object) -> Iterable[object]:
    if isinstance(this, FunctionType):  # not its globals
        return [this.__closure__, this.__defaults__, this.__kwdefaults__]
    if type(this).__module__.startswith(_WALLED_OFF):
        return ()
    return gc.get_referents(this)
