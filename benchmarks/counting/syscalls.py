"""How many system calls this process makes, by the kernel's own count.

``perf_event_open(2)`` on the tracepoint ``raw_syscalls:sys_enter`` costs 0.4 µs a call, so what is counted is not
timed. It needs CAP_PERFMON; where it may not be had, :mod:`.strace` counts from outside.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import platform
import struct
import sys
from collections.abc import Iterator

# The numbers of x86-64 and of the generic table (arm64, riscv64). fsopen and what follows are the same on all (5.2).
_PERF_EVENT_OPEN = {"x86_64": 298}.get(platform.machine(), 241)
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_FSCONFIG_CMD_CREATE = 6

_ATTRIBUTES = struct.Struct("=IIQQQQQ24x")  # struct perf_event_attr, PERF_ATTR_SIZE_VER0
_TYPE_TRACEPOINT = 2
_INHERIT, _INHERIT_THREAD = 1 << 1, 1 << 35  # threads that begin later count; children that are forked do not
_FLAG_FD_CLOEXEC = 8

_EVENT = "events/raw_syscalls/sys_enter/id"


class SyscallCounter:
    """Counts the system calls of all threads of this process, from its making until :meth:`end`.

    :raises OSError: the kernel does not let this process count
    """

    def __init__(self) -> None:
        self._counters: list[int] = []
        event = _event()
        try:
            for thread in os.listdir("/proc/self/task"):
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    self._counters.append(_open_counter(event, int(thread)))
        except BaseException:
            self._close()
            raise

    def end(self) -> int:
        """How many system calls there were; stops counting."""
        total = sum(int.from_bytes(os.read(counter, 8), sys.byteorder) for counter in self._counters)
        self._close()
        return total

    def _close(self) -> None:
        while self._counters:
            os.close(self._counters.pop())


@functools.cache
def available() -> bool:
    """Whether the kernel lets this process count."""
    try:
        SyscallCounter().end()
    except OSError:
        return False
    return True


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    result: int = ctypes.CDLL(None, use_errno=True).syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _open_counter(event: int, thread: int) -> int:
    attributes = _ATTRIBUTES.pack(_TYPE_TRACEPOINT, _ATTRIBUTES.size, event, 0, 0, 0, _INHERIT | _INHERIT_THREAD)
    return _syscall(_PERF_EVENT_OPEN, attributes, thread, -1, -1, _FLAG_FD_CLOEXEC)


@functools.cache
def _event() -> int:
    """The tracepoint's number."""
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, "no perf_event_open(2)")
    for place in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing"):
        with contextlib.suppress(OSError), open(os.path.join(place, _EVENT), "rb") as file:
            return int(file.read())
    with _private_tracefs() as directory, open(os.open(_EVENT, os.O_RDONLY, dir_fd=directory), "rb") as file:
        return int(file.read())


@contextlib.contextmanager
def _private_tracefs() -> Iterator[int]:
    """A mount that nobody else sees (fsmount(2)), where there is none: its directory."""
    context = _syscall(_FSOPEN, b"tracefs", 1)
    try:
        _syscall(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        directory = _syscall(_FSMOUNT, context, 1, 0)
    finally:
        os.close(context)
    try:
        yield directory
    finally:
        os.close(directory)
