"""Descriptors: facts about them, and small calls on them."""

from __future__ import annotations

import enum
import errno
import os
import select
import stat
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import final

from .signal_handlers import is_from_kernel

if sys.platform != "win32":  # where importing a stream says so in one line
    import fcntl

# The errnos that mean "the kernel cannot do this with these two descriptors". After one of them another route is tried,
# provided that the call moved nothing. All others (EIO, ENOSPC, EPIPE...) are failures.
REFUSALS = frozenset(
    {
        errno.ENOSYS,
        errno.EINVAL,
        errno.EOPNOTSUPP,
        errno.ENOTSUP,
        errno.EXDEV,
        errno.EBADF,
        errno.ENOTSOCK,
        errno.ESPIPE,
    }
)


@final
class OwnedDescriptors:
    """Raw descriptors that are closed with this object, whatever exception interrupts their opening or their closing.

    Python runs the handlers of signals, which may raise, between two instructions: a descriptor that ``os.open`` has
    returned and that is not stored yet would be lost. A call of C is one instruction. So one call opens and stores, and
    one call takes out and closes.
    """

    __slots__ = ("_fds",)

    def __init__(self, opening: Iterator[int]) -> None:
        """Open the descriptors.

        :param opening: gives them, and opens them without any code in Python: ``map(os.dup, (fd,))``
        """
        self._fds: list[int | None] = [None]
        self._fds.extend(opening)

    def __getitem__(self, index: int) -> int:
        """The descriptor that was opened first (0), second (1)...

        :raises IndexError: they are closed
        """
        fd = self._fds[index + 1]
        assert fd is not None
        return fd

    # The functions are bound as defaults, since modules are emptied when the interpreter ends.

    def close(self, _close: Callable[[int], None] = os.close, _consume: Callable[..., object] = deque) -> None:
        """Close them. Idempotent."""
        if getattr(self, "_fds", None):  # an exception may have come before there were any
            _consume(map(_close, iter(self._fds.pop, None)), 0)

    def __del__(self) -> None:
        self.close()


@final
class FileKind(enum.Enum):
    """How a descriptor reads and writes."""

    REGULAR = "regular file"
    """Has pages that may be cached, and offsets; never pollable."""
    STREAM = "stream"
    """A pipe, a FIFO, a terminal, a socket: no offsets; blocks until the other end acts, so it must be polled."""
    OTHER = "device or generated file"
    """/proc, /dev/zero, a block device...: read and written in a worker thread, with the descriptor's own position."""


def file_kind(fd: int, status: os.stat_result) -> FileKind:
    """The kind of an open file; ``status`` is its ``fstat``. A regular file of size 0 may be generated (/proc)."""
    mode = status.st_mode
    if stat.S_ISREG(mode) and _is_seekable(fd):
        return FileKind.REGULAR
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        return FileKind.STREAM
    if stat.S_ISBLK(mode):
        return FileKind.OTHER
    # Terminals, /dev/random, /dev/kmsg, eventfds, and what only claims to be a regular file (tracefs' trace_pipe).
    return FileKind.STREAM if _is_pollable(fd) else FileKind.OTHER


def _is_seekable(fd: int) -> bool:
    try:
        os.lseek(fd, 0, os.SEEK_CUR)
    except OSError as error:
        if not is_from_kernel(error):
            raise
        return False
    return True


def _is_pollable(fd: int) -> bool:
    """Whether the kernel can report when the file is ready: epoll refuses other files (EPERM, epoll_ctl(2))."""
    if not hasattr(select, "epoll"):
        return os.isatty(fd)
    with select.epoll() as epoll:
        try:
            epoll.register(fd, 0)
        except OSError as error:
            if not is_from_kernel(error):
                raise
            return False
    return True


def ioctl_int(fd: int, request: int) -> int:
    """An ``ioctl`` that answers with one int."""
    answer: int = struct.unpack("i", fcntl.ioctl(fd, request, b"\0\0\0\0"))[0]
    return answer
