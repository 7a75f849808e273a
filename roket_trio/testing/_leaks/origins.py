"""Where in a program its sockets were opened, and whether only the garbage collector closed them.

CPython raises an audit event for each new socket object (``socket.__new__``, PEP 578), also for those that ``accept``,
``socketpair`` and TLS make. A library that opens descriptors without such objects (uvloop) is not seen. An audit hook
cannot be removed: this one is set on first use, and costs 0.1 µs for each event of the interpreter and 5 µs for each
socket.
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

from ..._unclosed import is_own

_FRAMES: Final = 30
_SHOWN: Final = 3
_LIBRARIES: Final = tuple({sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib")})
# Event loops and test frameworks: their own lines do not tell why a socket was opened.
_UNINFORMATIVE: Final = ("trio", "anyio", "uvloop", "pluggy", "_pytest", "pytest_")
_FOREIGN: Final = ("<frozen", *{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


@final
class Origin:
    """Where one socket object was made, and how it ended."""

    __slots__ = ("_calls", "_object", "descriptor", "was_abandoned")

    def __init__(self, sock: socket.socket, frame: FrameType | None) -> None:
        self.descriptor: tuple[int, int] | None = None
        """Its number and inode, from the first call of :func:`origin_of` for it on."""
        self.was_abandoned = False
        """Whether the garbage collector found it unclosed, after that call."""
        self._calls: list[tuple[CodeType, int]] = []
        while frame is not None and len(self._calls) < _FRAMES:
            self._calls.append((frame.f_code, frame.f_lineno or 0))
            frame = frame.f_back
        self._object = weakref.ref(sock, self._on_death)

    def __str__(self) -> str:
        """The calls that led to it, innermost first: the program's own, or else one of a library's. It is empty where a
        task of an event loop opened the socket and no other code is on the stack."""
        program = [call for call in self._calls if _is_program(call[0].co_filename)]
        library = [call for call in self._calls if _is_informative_library(call[0].co_filename)]
        return " < ".join(_call_text(code, line) for code, line in (program[:_SHOWN] or library[:1]))

    def is_at(self, fd: int) -> bool:
        sock = self._object()
        return sock is not None and sock.fileno() == fd

    def _on_death(self, _: object, _is_finalizing: Any = sys.is_finalizing) -> None:
        if _is_finalizing():  # modules are being emptied, and nobody reads the result any more
            return
        _living.discard(self)
        # The collector calls back before it finalizes what it found, so a descriptor that is still open now was left
        # to it, unless it was detached before: for another object (TLS does so), or for code that uses the number. An
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
    """Remember from now on where each new socket object is made. This cannot be undone."""
    global _is_set
    if not _is_set:
        _is_set = True
        sys.addaudithook(_on_audit_event)
        gc.callbacks.append(_on_collection)


def origin_of(fd: int) -> Origin | None:
    """The origin of a descriptor's socket object; ``None``: not known. Its end is watched from the first call on."""
    origin = next((origin for origin in tuple(_living) if origin.is_at(fd)), None)
    if origin is not None and origin.descriptor is None:
        try:
            origin.descriptor = (fd, os.fstat(fd).st_ino)
        except OSError:  # closed meanwhile, by another thread
            return None
    return origin


def _on_audit_event(event: str, arguments: tuple[object, ...]) -> None:
    if event != "socket.__new__":
        return
    sock = arguments[0]
    if isinstance(sock, socket.socket):  # a bare _socket.socket cannot be watched
        _living.add(Origin(sock, sys._getframe(1)))


def _on_collection(phase: str, _: object) -> None:
    global _is_collecting
    _is_collecting = phase == "start"


def _is_program(filename: str) -> bool:
    """Whether the code of a file is the user's: not Python's, not a library's, not this package's."""
    return not filename.startswith(_FOREIGN) and not is_own(filename)


def _is_informative_library(filename: str) -> bool:
    is_library = filename.startswith(_LIBRARIES) or is_own(filename)
    return is_library and not _in_library(filename).startswith(_UNINFORMATIVE)


def _in_library(filename: str) -> str:
    return next((filename[len(folder) :] for folder in _LIBRARIES if filename.startswith(folder)), filename)


def _call_text(code: CodeType, line: int) -> str:
    try:
        here = os.getcwd() + os.sep
    except OSError:  # it was removed
        here = ""
    return f"{_in_library(code.co_filename).removeprefix(here)}:{line} in {code.co_qualname}"
