"""Where the bytes of a file go: one class for each way to write without ever blocking the event loop.

A write into the page cache waits when there are too many dirty pages (``balance_dirty_pages``), so a worker thread does
it. (``pwritev2(RWF_NOWAIT)`` would tell beforehand on XFS and Btrfs; ext4 and tmpfs refuse it with EOPNOTSUPP, Linux
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
from .._loops import Loop
from .descriptor import OpenFile
from .objects import ASK_AGAIN
from .polled import Channel
from .worker import Worker

# The most that goes into a pipe between two looks at the clock.
_PIPE_SLICE = 256 << 10


@final
class WriteCounts:
    """What a sink has done so far."""

    __slots__ = ("sent_bytes", "short_writes", "thread_hops")

    def __init__(self) -> None:
        self.sent_bytes: int = 0
        self.thread_hops: int = 0
        self.short_writes: int = 0


class Sink(ABC):
    """Takes bytes, from one task at a time. ``OSError`` is raised as it comes; :attr:`progress` says how far it was."""

    __slots__ = ("counts", "progress")

    def __init__(self) -> None:
        self.counts = WriteCounts()
        self.progress = 0
        """How much of the last item was taken."""

    @abstractmethod
    async def write(self, item: memoryview, worker: Worker) -> None:
        """Take the whole item."""

    async def wait_ready(self, worker: Worker) -> None:
        """Wait until a write might not wait."""
        await worker.loop.checkpoint()

    def took(self, count: int, of: int) -> None:
        """The file has taken ``count`` bytes of the ``of`` that it was given."""
        if count < of:
            self.counts.short_writes += 1
        self.progress += count
        self.counts.sent_bytes += count

    def wake(self) -> None:  # noqa: B027 - most have nobody to wake
        """The stream is being closed: whoever waits must come back with :class:`ClosedResourceError`."""

    def release(self) -> None:  # noqa: B027 - most have nothing of their own
        """Close what the sink has opened for itself. Nobody uses it any more. Idempotent."""


@final
class ThreadSink(Sink):
    """A regular file or a device: written where its descriptor stands (or at its end, O_APPEND), in a worker thread."""

    __slots__ = ("_fd", "_flush")

    def __init__(self, file: OpenFile) -> None:
        super().__init__()
        self._fd = file.fd
        # What the owner has written meanwhile lies before what is sent now.
        self._flush = None if isinstance(file.owner, int | io.FileIO) else file.owner.flush

    async def write(self, item: memoryview, worker: Worker) -> None:
        self.counts.thread_hops += 1
        await worker.run(self._write_all, item)

    def _write_all(self, item: memoryview) -> None:
        if self._flush is not None:
            self._flush()
        total = item.nbytes
        while self.progress < total:
            rest = item[self.progress :] if self.progress else item
            count = os.write(self._fd, rest)
            if not count:  # write(2) does not say that it may; to ask again could go on for ever
                raise OSError(errno.EIO, "the file takes no more bytes")
            self.took(count, rest.nbytes)


@final
class PolledSink(Sink):
    """A pipe or its like, written without blocking."""

    __slots__ = ("_channel", "_flush")

    def __init__(self, file: OpenFile) -> None:
        super().__init__()
        self._channel = Channel(file, writable=True)

    async def write(self, item: memoryview, worker: Worker) -> None:
        channel = self._channel
        while self.progress < item.nbytes:
            rest = item[self.progress : self.progress + _PIPE_SLICE]
            try:
                self.took(os.write(channel.fd, rest), rest.nbytes)
            except BlockingIOError:
                await channel.wait(worker.loop, writable=True)
                continue
            if self.progress < item.nbytes and worker.loop.yield_is_due():
                await worker.loop.checkpoint()
                if channel.is_closed:
                    raise ClosedResourceError

    def write_now(self, item: memoryview) -> int:
        """Write what there is room for.

        :raises BlockingIOError: there is none; :meth:`wait_writable`
        """
        return os.write(self._channel.fd, item[:_PIPE_SLICE])

    async def wait_writable(self, loop: Loop) -> None:
        """Wait until there may be room."""
        await self._channel.wait(loop, writable=True)

    async def wait_ready(self, worker: Worker) -> None:
        while not self._channel.is_ready():
            await self._channel.wait(worker.loop, writable=True)

    def wake(self) -> None:
        self._channel.wake()

    def release(self) -> None:
        self._channel.release()


@final
class ObjectSink(Sink):
    """Writes through the object's own method: in a worker thread, except into memory."""

    __slots__ = ("_file", "_is_closed", "_is_memory")

    @staticmethod
    def is_exact(file: Any) -> bool:
        """Whether a write of it that fails has taken nothing: one that buffers or compresses may have."""
        return isinstance(file, io.RawIOBase | io.BytesIO)

    def __init__(self, file: Any) -> None:
        super().__init__()
        self._file = file
        self._is_closed = False
        self._is_memory = type(file) is io.BytesIO

    async def write(self, item: memoryview, worker: Worker) -> None:
        if self._is_memory:
            self.took(self._file.write(item), item.nbytes)
            return
        while self.progress < item.nbytes:
            rest = item[self.progress :]
            self.counts.thread_hops += 1
            count = await worker.loop.run_in_thread(self._file.write, rest)
            if count is None and isinstance(self._file, io.RawIOBase):  # non-blocking, and full
                await anyio.sleep(ASK_AGAIN)
                if self._is_closed:
                    raise ClosedResourceError
                continue
            # An object that is no file by the book may return nothing: then it has taken everything.
            self.took(count if isinstance(count, int) else rest.nbytes, rest.nbytes)

    def wake(self) -> None:
        self._is_closed = True
