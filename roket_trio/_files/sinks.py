"""Sinks: one class for each way to write a file without ever blocking the event loop.

A write into the page cache waits when there are too many dirty pages (``balance_dirty_pages``), so a worker thread does
it. (``pwritev2(RWF_NOWAIT)`` would say so beforehand on XFS and Btrfs; ext4 and tmpfs refuse it with EOPNOTSUPP, Linux
6.18.)
"""

from __future__ import annotations

import errno
import io
import os
from abc import ABC, abstractmethod
from typing import Any, final

import anyio

from .._errors import ClosedResourceError
from .._kernel.sent_bytes import SentBytes
from .._loops import Loop
from .descriptor import OpenFile
from .objects import ASK_AGAIN
from .polled import PolledDescriptor
from .worker import Worker

# The most that is written to a pipe before the task checks whether other tasks are to run.
_PIPE_SLICE = 256 << 10


@final
class WriteCounts(SentBytes):
    """The counters of a sink."""

    __slots__ = ("short_writes", "thread_hops")

    def __init__(self) -> None:
        super().__init__()
        self.thread_hops: int = 0
        self.short_writes: int = 0

    def add(self, count: int, of: int) -> None:
        """Count a write that took ``count`` of ``of`` bytes, where no signal's handler runs: in a worker thread."""
        self.short_writes += count < of
        self.item_sent += count
        self.sent_bytes += count


class Sink(ABC):
    """Writes bytes, for one task at a time. It raises plain ``OSError``; :attr:`counts` say how much was written."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts = WriteCounts()

    @abstractmethod
    async def write(self, item: memoryview, worker: Worker) -> None:
        """Write the whole item."""

    async def wait_ready(self, worker: Worker) -> None:
        """Wait until a write might not wait."""
        await worker.loop.checkpoint()

    def wake(self) -> None:  # noqa: B027 - most never wait
        """The stream is being closed: a waiting :meth:`write` must raise :class:`ClosedResourceError`."""

    def release(self) -> None:  # noqa: B027 - most open nothing
        """Close what the sink has opened itself. Called when no task uses it any more. Idempotent."""

    def leave(self) -> None:  # noqa: B027
        """In a forked child: close its copies of what the sink has opened itself. Idempotent."""


@final
class ThreadSink(Sink):
    """Writes a regular file or a device in a worker thread, at its descriptor's position (or its end, O_APPEND)."""

    __slots__ = ("_fd", "_flush")

    def __init__(self, file: OpenFile) -> None:
        super().__init__()
        self._fd = file.fd
        # What the owner has written meanwhile comes before what is written here.
        self._flush = None if isinstance(file.owner, int | io.FileIO) else file.owner.flush

    async def write(self, item: memoryview, worker: Worker) -> None:
        self.counts.thread_hops += 1
        await worker.run(self._write_all, item)

    def _write_all(self, item: memoryview) -> None:
        if self._flush is not None:
            self._flush()
        counts, total = self.counts, item.nbytes
        while counts.item_sent < total:
            with item[counts.item_sent :] as rest:
                count = os.write(self._fd, rest)
            if not count:  # write(2) does not say that this can happen; trying again might never end
                raise OSError(errno.EIO, "the file takes no more bytes")
            counts.add(count, total - counts.item_sent)


@final
class PolledSink(Sink):
    """Writes a pipe, a FIFO, a terminal or a socket without blocking."""

    __slots__ = ("_descriptor",)

    def __init__(self, file: OpenFile) -> None:
        super().__init__()
        self._descriptor = PolledDescriptor(file, writable=True)

    async def write(self, item: memoryview, worker: Worker) -> None:
        descriptor, counts, total = self._descriptor, self.counts, item.nbytes
        while counts.item_sent < total:
            with item[counts.item_sent : counts.item_sent + _PIPE_SLICE] as rest:
                count = counts.send_part(os.write, descriptor.fd, rest)
                counts.short_writes += count is not None and count < rest.nbytes
            if count is None:
                await descriptor.wait(worker.loop)
            elif counts.item_sent < total and worker.loop.yield_is_due():
                await worker.loop.checkpoint()
                if descriptor.is_closed:
                    raise ClosedResourceError

    def write_now(self, item: memoryview) -> int:
        """Write as much as fits.

        :raises BlockingIOError: nothing fits; :meth:`wait_writable`
        """
        return os.write(self._descriptor.fd, item[:_PIPE_SLICE])

    async def wait_writable(self, loop: Loop) -> None:
        """Wait until something may fit."""
        await self._descriptor.wait(loop)

    async def wait_ready(self, worker: Worker) -> None:
        while not self._descriptor.is_ready():
            await self._descriptor.wait(worker.loop)

    def wake(self) -> None:
        self._descriptor.wake()

    def release(self) -> None:
        self._descriptor.release()

    def leave(self) -> None:
        self._descriptor.leave()


@final
class ObjectSink(Sink):
    """Writes through an object's own method, in a worker thread unless it is in memory."""

    __slots__ = ("_file", "_is_closed", "_is_memory")

    @staticmethod
    def is_exact(file: Any) -> bool:
        """Whether a failed write has written nothing. An object that buffers or compresses cannot promise that."""
        return isinstance(file, io.RawIOBase | io.BytesIO)

    def __init__(self, file: Any) -> None:
        super().__init__()
        self._file = file
        self._is_closed = False
        self._is_memory = type(file) is io.BytesIO

    async def write(self, item: memoryview, worker: Worker) -> None:
        counts = self.counts
        if self._is_memory:
            counts.item_sent = ~0
            try:
                count = self._file.write(item)
            except (ValueError, BufferError):  # it is closed, or a view of it is held
                counts.item_sent = 0
                raise
            counts.item_sent = count
            counts.sent_bytes += count
            return
        while counts.item_sent < item.nbytes:
            counts.thread_hops += 1
            # It is counted in the thread, which no signal interrupts.
            if not await worker.loop.run_in_thread(self._write_rest, item):
                await anyio.sleep(ASK_AGAIN)
                if self._is_closed:
                    raise ClosedResourceError

    def _write_rest(self, item: memoryview) -> bool:
        """In a worker thread: write what is left, or a part of it. False: the object is non-blocking, and full."""
        with item[self.counts.item_sent :] as rest:
            left = rest.nbytes
            count = self._file.write(rest)
        if count is None and isinstance(self._file, io.RawIOBase):
            return False
        # An object that does not follow io's interface may return None: it has taken everything.
        self.counts.add(count if isinstance(count, int) else left, left)
        return True

    def wake(self) -> None:
        self._is_closed = True
