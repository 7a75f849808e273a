"""Starting to write a file to the disk before it is complete, so that its fsync takes less time: sync_file_range(2)."""

from __future__ import annotations

import ctypes
import errno
import os

from .libc import libc_function

_WRITE = 2  # SYNC_FILE_RANGE_WRITE: begin to write what is dirty and not being written


def begin(fd: int, offset: int, count: int) -> bool:
    """For a worker thread: start writing ``count`` bytes from ``offset`` to the disk, and do not wait for the end.

    It may wait nevertheless, while the disk's queue is full. Only fsync makes a file durable.

    :returns: False where the system cannot do that
    :raises OSError: the disk's error
    """
    call = libc_function("sync_file_range")
    if call is None:
        return False
    if call(fd, ctypes.c_int64(offset), ctypes.c_int64(count), _WRITE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.ESPIPE, errno.EINVAL, errno.EBADF, errno.EPERM):
        return False
    raise OSError(code, os.strerror(code))
