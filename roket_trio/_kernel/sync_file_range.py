"""Let the disk begin before the file is complete, so that an fsync at its end has less to wait for:
sync_file_range(2)."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any

_WRITE = 2  # SYNC_FILE_RANGE_WRITE: begin to write what is dirty and not being written


def begin(fd: int, offset: int, count: int) -> bool:
    """For a worker thread: have ``count`` bytes from ``offset`` written out, without waiting for it.

    It may wait all the same, for room in the disk's queue. Nothing is promised: only fsync makes a file durable.

    :returns: False where that cannot be had
    :raises OSError: the disk's error
    """
    call = _found()
    if call is None:
        return False
    if call(fd, offset, count, _WRITE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.ESPIPE, errno.EINVAL, errno.EBADF, errno.EPERM):
        return False
    raise OSError(code, os.strerror(code))


def _found() -> Any:
    global _call
    if _call is False:
        _call = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
        if _call is not None:
            _call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return _call


_call: Any = False
