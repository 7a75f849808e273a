"""Where in a program its sockets were opened, and whether only the garbage collector closed them.

CPython raises an audit event for each new socket object (``socket.__new__``, PEP 578), also for those that ``accept``,
``socketpair`` and TLS make. The place is kept by the socket's inode, so it is known of a descriptor too that was
detached from its object (``os.fdopen``, STARTTLS), or duplicated. A library that opens descriptors without objects
(uvloop) is not seen, nor is what was detached before any other audit event. An audit hook cannot be removed: this one
is set on first use, and costs 0.1 µs for each event of the interpreter and 6 µs for each socket.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
import sysconfig
import weakref
from collections.abc import Set as AbstractSet
from threading import get_ident
from types import CodeType, FrameType
from typing import Any, Final, final

from ..._unclosed import is_own
from .collector import pause_collector, resume_collector

_FRAMES: Final = 30
_SHOWN: Final = 3
_LIBRARIES: Final = tuple({sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib")})
# Event loops and test frameworks: their own lines do not tell why a socket was opened.
_UNINFORMATIVE: Final = ("trio", "anyio", "uvloop", "pluggy", "_pytest", "pytest_")
_FOREIGN: Final = ("<frozen", *{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


# So many places are kept of sockets that one test opens. Those that are closed are forgotten when it ends.
_KEPT: Final = 4096
_INIT: Final = socket.socket.__init__.__code__


@final
class Origin:
    """Where one socket object was made, and how it ended."""

    __slots__ = ("_calls", "_object", "descriptor", "was_abandoned")

    def __init__(self, sock: socket.socket, frame: FrameType | None) -> None:
        self.descriptor: tuple[int, int] | None = None
        """Its number and inode, from the first call of :func:`origin_of` for it on."""
        self.was_abandoned = False
        """Whether the garbage collector found it unclosed and closed it, after that call."""
        calls: list[CodeType | int] = []  # code and line by turns: one object for the collector to look at, not thirty
        while frame is not None and len(calls) < 2 * _FRAMES:
            calls += (frame.f_code, frame.f_lineno or 0)
            frame = frame.f_back
        self._calls = tuple(calls)
        self._object = weakref.ref(sock, self._on_death)

    def __str__(self) -> str:
        """The calls that led to it, innermost first: the program's own, or else one of a library's. It is empty where a
        task of an event loop opened the socket and no other code is on the stack."""
        calls: list[tuple[Any, Any]] = list(zip(self._calls[::2], self._calls[1::2], strict=True))
        program = [call for call in calls if _is_program(call[0].co_filename)]
        library = [call for call in calls if _is_informative_library(call[0].co_filename)]
        return " < ".join(_call_text(code, line) for code, line in (program[:_SHOWN] or library[:1]))

    @property
    def fd(self) -> int:
        """The descriptor of its object; -1: it is closed, detached or gone."""
        sock = self._object()
        return -1 if sock is None else socket.socket.fileno(sock)

    def note_descriptor(self, fd: int) -> None:
        """Keep the place by the socket's inode. Where that is known, it was opened at the place that is known."""
        try:
            inode = os.fstat(fd).st_ino
        except OSError:  # closed meanwhile, by another thread
            return
        earlier = _by_inode.get(inode)
        if earlier is not None:
            self._calls = earlier._calls
        elif len(_by_inode) >= _KEPT:
            _by_inode.pop(next(iter(_by_inode)), None)
        _by_inode[inode] = self

    def _on_death(self, _: object, _is_finalizing: Any = sys.is_finalizing) -> None:
        if _is_finalizing():  # modules are being emptied, and nobody reads the result any more
            return
        _living.discard(self)
        # The collector calls back before it finalizes what it found, so a descriptor that is open now, and closed when
        # the collector ends, was left to it. One that is still open then was detached: for another object (TLS does
        # so), or for code that uses the number. An object that dies with its last reference is finalized first
        # (Objects/typeobject.c, subtype_dealloc).
        if _is_collecting and self.descriptor is not None and _is_open(self.descriptor):
            _found_by_collector.append(self)


_living: set[Origin] = set()
_by_inode: dict[int, Origin] = {}
_newest: dict[int, Origin] = {}
"""By thread: the origin whose descriptor is not known yet, since the event comes before the system call."""
_found_by_collector: list[Origin] = []
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
    """The origin of a socket; ``None``: not known. How its object ends is watched from the first call on."""
    if (newest := _newest.pop(get_ident(), None)) is not None:
        newest.note_descriptor(newest.fd)
    try:
        inode = os.fstat(fd).st_ino
    except OSError:  # closed meanwhile, by another thread
        return None
    origin = _by_inode.get(inode)
    if origin is None or origin.fd != fd:  # another thread has just made it, or a copy of the object has its descriptor
        origin = next((other for other in tuple(_living) if other.fd == fd), origin)
    if origin is not None and origin.descriptor is None:
        origin.descriptor = (fd, inode)
    return origin


def known_inodes() -> set[int]:
    """The sockets whose origins are known."""
    return set(_by_inode)


def forget(inodes: AbstractSet[int]) -> None:
    """Forget the origins of sockets that are closed."""
    for inode in inodes:
        _by_inode.pop(inode, None)


def _on_audit_event(event: str, arguments: tuple[object, ...]) -> None:
    if event != "socket.__new__" and not _newest:
        return
    was_enabled = pause_collector()
    try:
        if (newest := _newest.pop(get_ident(), None)) is not None:
            newest.note_descriptor(newest.fd)
        if event == "socket.__new__" and isinstance(arguments[0], socket.socket):  # a bare _socket.socket: no weakref
            _note_socket(arguments[0], sys._getframe(1))
    finally:
        resume_collector(was_enabled)


def _note_socket(sock: socket.socket, frame: FrameType) -> None:
    origin = Origin(sock, frame)
    _living.add(origin)
    # The number of a descriptor that is there already, as of accept() and socketpair(), is an argument of this call.
    fd = frame.f_locals.get("fileno") if frame.f_code is _INIT else None
    if isinstance(fd, int):
        origin.note_descriptor(fd)
    else:
        _newest[get_ident()] = origin


def _on_collection(phase: str, _: object) -> None:
    global _is_collecting
    _is_collecting = phase == "start"
    if not _is_collecting:
        while _found_by_collector:
            origin = _found_by_collector.pop()
            origin.was_abandoned = origin.descriptor is not None and not _is_open(origin.descriptor)


def _is_open(descriptor: tuple[int, int]) -> bool:
    try:
        return os.fstat(descriptor[0]).st_ino == descriptor[1]
    except OSError:
        return False


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
