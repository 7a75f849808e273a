"""Where in a program its sockets were opened, and whether it was the garbage collector that closed them.

CPython tells of each new socket object by an audit event (``socket.__new__``, PEP 578), also of those that ``accept``,
``socketpair`` and TLS make; a library that opens descriptors without such objects (uvloop) goes unseen. An audit hook
cannot be taken off again: this one is set on first use, and costs 0.1 µs for each event of the interpreter and 5 for
each socket.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
import sysconfig
import weakref
from types import CodeType, FrameType
from typing import Any, Final, final

_FRAMES: Final = 30
_SHOWN: Final = 3
_LIBRARIES: Final = tuple({sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib")})
_MUTE: Final = ("trio", "anyio", "uvloop", "pluggy", "_pytest", "pytest_")  # where they open a socket tells nothing
_FOREIGN: Final = ("<frozen", *{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


@final
class Origin:
    """One socket object: where it was made, and how it ended."""

    __slots__ = ("_calls", "_object", "descriptor", "was_abandoned")

    def __init__(self, sock: socket.socket, frame: FrameType | None) -> None:
        self.descriptor: tuple[int, int] | None = None
        """Its number and inode, once somebody has asked for it by :func:`origin_of`."""
        self.was_abandoned = False
        """Whether the garbage collector found it unclosed, after it was asked for."""
        self._calls: list[tuple[CodeType, int]] = []
        while frame is not None and len(self._calls) < _FRAMES:
            self._calls.append((frame.f_code, frame.f_lineno or 0))
            frame = frame.f_back
        self._object = weakref.ref(sock, self._died)

    def __str__(self) -> str:
        """The calls that led to it, innermost first: the program's own, or else a library's; empty where a task of an
        event loop opened it that knows nothing of either."""
        own = [call for call in self._calls if not call[0].co_filename.startswith(_FOREIGN)]
        library = [call for call in self._calls if _is_telling(call[0].co_filename)]
        return " < ".join(_told(code, line) for code, line in (own[:_SHOWN] or library[:1]))

    def is_at(self, fd: int) -> bool:
        sock = self._object()
        return sock is not None and sock.fileno() == fd

    def _died(self, _: object, _is_finalizing: Any = sys.is_finalizing) -> None:
        if _is_finalizing():  # modules are being emptied, and nobody asks any more
            return
        _living.discard(self)
        # The collector calls back before it finalizes what it found, so a descriptor that is still open now was left
        # to it, unless it was detached before: for another object (TLS wraps so), or for who uses the bare number. An
        # object that dies with its last reference is finalized first (Objects/typeobject.c, subtype_dealloc).
        if self.descriptor is not None and _is_collecting:
            fd, inode = self.descriptor
            try:
                is_open = os.fstat(fd).st_ino == inode
            except OSError:
                return
            self.was_abandoned = is_open and not any(other.is_at(fd) for other in tuple(_living))


_living: set[Origin] = set()
_is_set = False
_is_collecting = False


def watch_origins() -> None:
    """From now on know of each new socket object where it was made. For good."""
    global _is_set
    if not _is_set:
        _is_set = True
        sys.addaudithook(_heard)
        gc.callbacks.append(_collects)


def origin_of(fd: int) -> Origin | None:
    """Of the socket object of a descriptor of this process; ``None``: not known.

    From here on its end is watched.
    """
    origin = next((origin for origin in tuple(_living) if origin.is_at(fd)), None)
    if origin is not None and origin.descriptor is None:
        try:
            origin.descriptor = (fd, os.fstat(fd).st_ino)
        except OSError:  # closed meanwhile, by another thread
            return None
    return origin


def _heard(event: str, arguments: tuple[object, ...]) -> None:
    if event != "socket.__new__":
        return
    sock = arguments[0]
    if isinstance(sock, socket.socket):  # a bare _socket.socket cannot be watched
        _living.add(Origin(sock, sys._getframe(1)))


def _collects(phase: str, _: object) -> None:
    global _is_collecting
    _is_collecting = phase == "start"


def _is_telling(filename: str) -> bool:
    return filename.startswith(_LIBRARIES) and not _in_library(filename).startswith(_MUTE)


def _in_library(filename: str) -> str:
    return next((filename[len(folder) :] for folder in _LIBRARIES if filename.startswith(folder)), filename)


def _told(code: CodeType, line: int) -> str:
    try:
        here = os.getcwd() + os.sep
    except OSError:  # it was removed
        here = ""
    return f"{_in_library(code.co_filename).removeprefix(here)}:{line} in {code.co_qualname}"
