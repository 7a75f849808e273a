"""What keeps a socket open, as far as the garbage collector can tell: an object that refers to it, or a paused loop."""

from __future__ import annotations

import gc
import socket
import sys
from collections.abc import Iterable
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, ModuleType
from typing import Any, Final, cast, final

_LOOKED_AT: Final = 200_000  # objects, about 0.1 s
# Through these the whole program can be reached.
_NOT_ENTERED: Final = (type, ModuleType, FrameType, CodeType, BuiltinFunctionType, str, bytes, int, float)
_MODULES_NOT_ENTERED: Final = ("_pytest.", "pluggy.", "xdist.", "execnet.")


def reachable_descriptors(root: object, fds: set[int]) -> set[int]:
    """Those of the descriptors ``fds`` whose socket objects can be reached from ``root``.

    An event loop on the way is not entered, since it refers to every socket that it serves. A socket that has no Python
    object (uvloop) is not found, nor is one that only a running thread refers to.
    """
    found: set[int] = set()
    seen: set[int] = set()
    loops = _event_loops()
    waiting: list[object] = [root]
    while waiting and len(seen) < _LOOKED_AT and len(found) < len(fds):
        item = waiting.pop()
        kind = type(item)  # not isinstance(): a proxy may lie about its class, and runs code to do so
        if id(item) in seen or issubclass(kind, _NOT_ENTERED + loops):
            continue
        seen.add(id(item))
        if issubclass(kind, socket.socket):
            fd = socket.socket.fileno(cast(socket.socket, item))
            found |= {fd} & fds
        waiting += _referents(item)
    return found


def event_loop_descriptors() -> set[int]:
    """The descriptors of the sockets that event loops of this process have for themselves, to wake themselves with.

    A loop has them as attributes of its own, as no loop has the sockets that it serves. It takes about 50 ns for each
    object of the process.
    """
    wakeup: type = getattr(sys.modules.get("trio._core._wakeup_socketpair"), "WakeupSocketpair", _Absent)
    owners = (_event_loops()[0], wakeup)
    found: set[int] = set()
    for owner in gc.get_objects():
        if issubclass(type(owner), owners):
            attributes = gc.get_referents(owner)
            attributes += [value for each in attributes if type(each) is dict for value in each.values()]
            found |= {socket.socket.fileno(each) for each in attributes if issubclass(type(each), socket.socket)}
    return found


@final
class _Absent:
    """Stands for a class whose module is not loaded."""


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
    for item in gc.get_objects():
        kind = type(item)
        if issubclass(kind, asyncio_loop):
            loop = cast(Any, item)
            if not loop.is_closed() and not loop.is_running():
                return True
        elif issubclass(kind, trio_run) and cast(Any, item).tasks:
            return True
    return False


def _event_loops() -> tuple[type, ...]:
    names = (("asyncio", "AbstractEventLoop"), ("selectors", "BaseSelector"), ("trio._core._run", "Runner"))
    return tuple(getattr(sys.modules.get(module), name, _Absent) for module, name in names)


def _referents(item: object) -> Iterable[object]:
    if isinstance(item, FunctionType):  # not its globals
        return [item.__closure__, item.__defaults__, item.__kwdefaults__]
    if type(item).__module__.startswith(_MODULES_NOT_ENTERED):
        return ()
    return gc.get_referents(item)
