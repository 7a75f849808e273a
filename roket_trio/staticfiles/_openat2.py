"""Open the file that a client's path names, and nothing outside of a directory: openat2(2), Linux 5.6."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
import sys
from typing import Any

# linux/openat2.h; the number is the same on every architecture but Alpha.
_OPENAT2 = 437
_NO_MAGICLINKS = 0x02
_BENEATH = 0x08
_CACHED = 0x20  # Linux 5.12: EAGAIN instead of waiting for a disk
_HOW = struct.Struct("=QQQ")

# O_NONBLOCK: opening a FIFO that has no writer must not wait for one.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

# Old kernels, and filters that know no such call (EPERM: older container runtimes).
_ABSENT = (errno.ENOSYS, errno.EPERM)

# How often the call is repeated when a directory of the path was renamed meanwhile.
_TRIES = 100

AVAILABLE = sys.platform == "linux"


def open_beneath(directory: int, path: bytes, *, cached_only: bool = False) -> int:
    """Open ``path`` for reading, if every directory on its way is in ``directory``.

    Symbolic links are followed as long as they stay there; without openat2 none is followed.

    :param directory: a descriptor of the directory
    :param path: relative to it
    :param cached_only: do not wait for a disk
    :raises BlockingIOError: ``cached_only`` is set, and the call would wait, or the kernel cannot say
    :raises ValueError: a path with a NUL
    :raises OSError: EXDEV (without openat2 also ELOOP): the path leads out; or what :func:`os.open` raises
    """
    if b"\0" in path:
        raise ValueError("embedded null byte")
    resolve = _BENEATH | _NO_MAGICLINKS | (_CACHED if cached_only else 0)
    code = _openat2(directory, path, resolve) if AVAILABLE else -errno.ENOSYS
    if code >= 0:
        return code
    if -code not in _ABSENT:
        raise OSError(-code, os.strerror(-code), os.fsdecode(path))
    if cached_only:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return _walk(directory, path)


def is_supported(directory: str) -> bool:
    """Whether the kernel has openat2: it is tried on a directory."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        found = _openat2(fd, b".", _BENEATH) if AVAILABLE else -errno.ENOSYS
    finally:
        os.close(fd)
    if found >= 0:
        os.close(found)
    return found >= 0


def _openat2(directory: int, path: bytes, resolve: int) -> int:
    """Call openat2(2); returns the descriptor, or the negative errno."""
    how = _HOW.pack(_FLAGS, 0, resolve)
    for _ in range(_TRIES):
        fd: int = _syscall()(_OPENAT2, directory, path, how, _HOW.size)
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        if code == errno.EINVAL and resolve & _CACHED:  # a kernel before 5.12
            return -errno.EAGAIN
        # EAGAIN: something was renamed on the way (openat2(2)), or the answer is not cached.
        if code != errno.EINTR and (code != errno.EAGAIN or resolve & _CACHED):
            break
    return -code


def _walk(directory: int, path: bytes) -> int:
    """Open ``path`` a component at a time, following no link."""
    *parents, name = path.split(b"/")
    here = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        for part in parents:
            _check(part)
            following = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = following
        _check(name)
        return os.open(name, _FLAGS | os.O_NOFOLLOW, dir_fd=here)
    finally:
        os.close(here)


def _check(part: bytes) -> None:
    if part in (b"", b".."):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), os.fsdecode(part))


@functools.cache
def _syscall() -> Any:
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]
    syscall.restype = ctypes.c_long
    return syscall
