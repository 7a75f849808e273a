"""Pipes, FIFOs, terminals and sockets as files: polled, then read or written without blocking.

The open file description that a caller has is usually shared: with the shell, with a child, between standard input and
output. So O_NONBLOCK is not set on it. The pipe or terminal is opened again, through /proc/self/fd, and that private
description is non-blocking. (``preadv2(RWF_NOWAIT)`` needs no flag, but FIFOs and terminals refuse it with EOPNOTSUPP,
Linux 6.18.) What cannot be opened again (sockets, and the master of a pty, which would open another pty) has the flag
set on the caller's description until the stream is closed.
"""

from __future__ import annotations

import io
import os
import select
import stat
from typing import final

from .._errors import ClosedResourceError
from .._kernel.fd import OwnedDescriptors
from .._kernel.signal_handlers import is_from_handler
from .._loops import Loop, Readiness
from .descriptor import OpenFile
from .sources import Source
from .worker import Worker

# The most that is read or written in the event loop at a time: /dev/random makes 400 MB/s.
_AT_ONCE = 256 << 10


@final
class PolledDescriptor:
    """A non-blocking descriptor for reading or writing a pipe, a FIFO, a terminal or a socket, and the wait for it."""

    __slots__ = (
        "_again",
        "_file",
        "_is_blocking_again",
        "_is_writable",
        "_poll",
        "_readiness",
        "_watched",
        "fd",
        "is_closed",
    )

    def __init__(self, file: OpenFile, *, writable: bool) -> None:
        self._file = file
        self._is_writable = writable
        self._is_blocking_again = False
        self._readiness: Readiness | None = None
        # Owned by objects, since a signal's handler may raise behind any call.
        self._again: OwnedDescriptors | None = None
        self._watched: OwnedDescriptors | None = None
        self.is_closed = False
        self.fd = file.fd
        try:
            if not file.nonblocking:
                self._again = _open_again(file.fd, os.O_WRONLY if writable else os.O_RDONLY)
                if self._again is None:
                    self._is_blocking_again = True
                    os.set_blocking(file.fd, False)
                else:
                    self.fd = self._again[0]
            self._poll = select.poll()
            self._poll.register(self.fd, select.POLLOUT if writable else select.POLLIN)
        except BaseException:
            self.release()
            raise

    def is_ready(self) -> bool:
        """Whether a read or write would not wait.

        Call it before each read: a FIFO that no writer has opened yet reads as at its end, but polls as not ready.
        """
        return bool(self._poll.poll(0))

    async def wait(self, loop: Loop) -> None:
        """Wait until the file may be ready.

        :raises ClosedResourceError: the stream was closed meanwhile
        """
        if self.is_closed:
            raise ClosedResourceError
        if self._readiness is None:
            try:
                self._readiness = loop.readiness(self.fd)
            except FileExistsError as error:
                if is_from_handler(error):
                    raise
                # The loop's epoll has this number already, for the other direction.
                self._watched = OwnedDescriptors(map(os.dup, (self.fd,)))
                self._readiness = loop.readiness(self._watched[0])
        if self._is_writable:
            await self._readiness.wait_writable()
        else:
            await self._readiness.wait_readable()
        if self.is_closed:
            raise ClosedResourceError

    def wake(self) -> None:
        self.is_closed = True
        if self._readiness is not None:
            self._readiness.close()

    def release(self) -> None:
        try:
            self.wake()
            if self._is_blocking_again:
                self._is_blocking_again = False
                if not getattr(self._file.owner, "closed", False):
                    os.set_blocking(self._file.fd, True)
        finally:
            self.leave()

    def leave(self) -> None:
        """Close what was opened here, and nothing else.

        In a forked child this is all: the descriptor's flag and the loop's epoll are the parent's.
        """
        self.is_closed = True
        self.fd = -1
        for descriptors in (self._watched, self._again):
            if descriptors is not None:
                descriptors.close()


def _open_again(fd: int, access: int) -> OwnedDescriptors | None:
    """A private non-blocking description of the same pipe or terminal, if there can be one."""
    status = os.fstat(fd)
    is_ptmx = (os.major(status.st_rdev), os.minor(status.st_rdev)) == (5, 2)
    is_terminal = stat.S_ISCHR(status.st_mode) and os.isatty(fd) and not is_ptmx
    if not stat.S_ISFIFO(status.st_mode) and not is_terminal:
        return None
    try:
        flags = access | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return OwnedDescriptors(map(os.open, (f"/proc/self/fd/{fd}",), (flags,)))
    except OSError as error:
        if is_from_handler(error):
            raise
        return None  # no /proc; no permission; a pipe whose readers are gone


def _count_buffered(file: OpenFile) -> int:
    """How many bytes a buffered reader has already read from the pipe. They are read from it first."""
    reader = file.owner
    if not isinstance(reader, io.BufferedReader):
        return 0
    # Only peek() says how many, and it must not wait when there is nothing, so the flag is set for these microseconds.
    try:
        if not file.nonblocking:
            os.set_blocking(file.fd, False)
        return len(reader.peek(1))
    finally:
        if not file.nonblocking:
            os.set_blocking(file.fd, True)


@final
class PolledSource(Source):
    """Reads from a :class:`PolledDescriptor`. A wait that is cancelled has read nothing."""

    __slots__ = ("_buffered", "_descriptor", "_file")

    def __init__(self, file: OpenFile) -> None:
        super().__init__()
        self._file = file
        self._buffered = _count_buffered(file)
        self._descriptor = PolledDescriptor(file, writable=False)

    def read_now(self, max_bytes: int, slice_end: float) -> bytes | None:
        if self._buffered:
            data: bytes = self._file.owner.read(min(max_bytes, self._buffered))
            self._buffered -= len(data)
            return data
        descriptor = self._descriptor
        if not descriptor.is_ready():
            return None
        try:
            return os.read(descriptor.fd, min(max_bytes, _AT_ONCE))
        except BlockingIOError as error:  # another reader was faster
            if is_from_handler(error):
                raise
            return None

    async def read(self, max_bytes: int, worker: Worker) -> bytes:
        while True:
            await self._descriptor.wait(worker.loop)
            data = self.read_now(max_bytes, 0.0)
            if data is not None:
                return data

    def readinto_now(self, buffer: memoryview) -> int | None:
        if self._buffered:
            count: int = self._file.owner.readinto(buffer[: self._buffered])
            self._buffered -= count
            return count
        descriptor = self._descriptor
        if not descriptor.is_ready():
            return None
        try:
            return os.readv(descriptor.fd, (buffer[:_AT_ONCE],))
        except BlockingIOError as error:
            if is_from_handler(error):
                raise
            return None

    async def readinto(self, buffer: memoryview, worker: Worker) -> int:
        while True:
            await self._descriptor.wait(worker.loop)
            count = self.readinto_now(buffer)
            if count is not None:
                return count

    def tell(self) -> int:
        return os.lseek(self._file.fd, 0, os.SEEK_CUR)

    def seek(self, position: int, whence: int) -> int:
        return os.lseek(self._file.fd, position, whence)

    def wake(self) -> None:
        self._descriptor.wake()

    def release(self) -> None:
        self._descriptor.release()

    def leave(self) -> None:
        self._descriptor.leave()
