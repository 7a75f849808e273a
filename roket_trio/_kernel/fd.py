"""Facts about a descriptor, and small calls on it."""

from __future__ import annotations

import enum
import errno
import os
import select
import stat
import struct
import sys
from typing import final

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
    except OSError:
        return False
    return True


def _is_pollable(fd: int) -> bool:
    """Whether the kernel can report when the file is ready: epoll refuses other files (EPERM, epoll_ctl(2))."""
    if not hasattr(select, "epoll"):
        return os.isatty(fd)
    with select.epoll() as epoll:
        try:
            epoll.register(fd, 0)
        except OSError:
            return False
    return True


def ioctl_int(fd: int, request: int) -> int:
    """An ``ioctl`` that answers with one int."""
    answer: int = struct.unpack("i", fcntl.ioctl(fd, request, b"\0\0\0\0"))[0]
    return answer
