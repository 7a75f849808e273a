"""Looking at a socket of another process: pidfd_getfd(2)."""

from __future__ import annotations

import os
import socket

from .libc import libc_function

_PIDFD_GETFD = 438  # the same on every architecture (Linux 5.6)


def copy_socket(pid: int, fd: int) -> socket.socket:
    """Copy a process's descriptor; the caller closes the copy.

    While the copy is open the socket stays open, whatever its owner does, so close it at once. Meant for children of
    this process.

    :raises OSError: it is not allowed (ptrace(2), ``PTRACE_MODE_ATTACH``), there is no such process or descriptor, or
        the kernel is older than 5.6
    """
    import ctypes

    process = os.pidfd_open(pid)
    try:
        copy = libc_function("syscall")(_PIDFD_GETFD, process, fd, 0)
    finally:
        os.close(process)
    if copy < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return socket.socket(fileno=copy)
