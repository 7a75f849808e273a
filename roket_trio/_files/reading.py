"""``FileReadStream``: reading a file, by AnyIO's methods and Trio's."""

from __future__ import annotations

import io
import operator
import os
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple, final

import anyio.abc
import trio

from .._errors import EndOfStream
from .._kernel import page_cache
from .._kernel.fd import FileKind
from .._loops import current_loop
from .._public import public
from .._unclosed import is_inherited, opened_at
from .base import FileStream, open_nonblocking
from .descriptor import OpenFile
from .objects import ObjectSource, check_object
from .polled import PolledSource
from .protocols import BinaryReader, WrappedReader
from .sources import PagedSource, RegularSource, Source
from .uncached import BlockingSource, GeneratedSource, ReadAheadSource

DEFAULT_MAX_BYTES = 65536


@public
@final
class FileReadStatistics(NamedTuple):
    """The counters of a :class:`FileReadStream`."""

    received_bytes: int
    """The bytes that were returned to the caller."""
    cached_reads: int
    """Reads that the page cache answered, without a worker thread."""
    thread_hops: int
    """Calls of a worker thread; each may have served several reads."""
    fallbacks: int
    """How many of those calls were needed only because the file system cannot say what is cached."""


@public
@final
class FileReadStream(FileStream, anyio.abc.ByteReceiveStream, trio.abc.ReceiveStream):
    """Reads a file: an :class:`anyio.abc.ByteReceiveStream` and a :class:`trio.abc.ReceiveStream`.

    What is in the page cache is read at once, the rest by a worker thread with read-ahead, so the event loop never
    waits for a disk. Pipes, FIFOs and terminals are waited for without a thread; objects whose bytes are not their
    descriptor's (``GzipFile``, ``BytesIO``...) are read through their own methods. One task at a time may read.

    The position is the file's own. A program that has wrapped a file object finds the object where the stream stands,
    and may move it between two reads. It must not read a pipe through the object meanwhile.
    """

    def __init__(self, file: BinaryReader | WrappedReader) -> None:
        """Wrap a file.

        :param file: a file object that is open for reading in binary mode, or AnyIO's or Trio's wrapper of one. The
            stream owns it, and closes it.
        :raises TypeError: it is no binary file, or it is a path
        :raises ValueError: it is closed, or not open for reading
        """
        super().__init__(file, writable=False)
        self._source: Source
        if self._opened is None:
            check_object(self._file, "read")
            self._source = ObjectSource(self._file)
        else:
            self._source = source_for(self._opened)
        self._begin()

    @classmethod
    async def from_path(cls, path: str | os.PathLike[str]) -> FileReadStream:
        """Open a file for reading.

        A FIFO is opened without waiting for its writer; reading waits.

        :raises OSError: the file does not exist, is a directory...: whatever :func:`open` raises
        """
        place = opened_at()
        loop = current_loop()
        file = await loop.run_in_thread(open_to_read, os.fspath(path))
        try:
            stream = cls(file)
            stream._opened_from_path(place, stream._name)
            if isinstance(stream._source, RegularSource):
                stream._source.is_shared = False
        except BaseException:  # of a signal's handler, whose traceback would keep the file
            file.close()
            raise
        return stream

    async def receive(self, max_bytes: int = DEFAULT_MAX_BYTES) -> bytes:
        """Read from the stream's position.

        :param max_bytes: the most to return
        :returns: at least one byte
        :raises EndOfStream: at the end of the file; again when called again, unless it has grown
        :raises ClosedResourceError: the stream is closed, or was closed while this waited for a pipe
        :raises BusyResourceError: another task is reading
        :raises BrokenResourceError: reading failed; the position has not moved

        Cancellation: checked before anything is read; nothing is ever lost. A worker thread is waited for.
        """
        if type(max_bytes) is not int or max_bytes < 1:
            max_bytes = _positive(max_bytes)
        loop = self._loop or self._running_loop()
        # Loop.step(), without a coroutine for it: 4 % of a chunk.
        if monotonic() >= loop.yield_at:
            await loop.checkpoint()
        else:
            await loop.checkpoint_if_cancelled()
        if self._guard.is_taken or self._is_closing or self._has_closed.closed:
            self._check_usable()
        source = self._source
        try:
            data = source.read_now(max_bytes, loop.yield_at)
            if data is None:
                guard = self._guard
                try:
                    guard.is_taken = True
                    data = await source.read(max_bytes, self._worker_of(loop))
                finally:
                    guard.is_taken = False
                    guard.release()
        except OSError as error:
            self._raise("reading", error)
        if not data:
            raise EndOfStream("the file ends here")
        source.counts.received_bytes += len(data)
        return data

    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        """Read into the caller's buffer, from the stream's position.

        :param buffer: a writable, contiguous buffer of at least one byte
        :returns: the number of bytes, at least 1; it may be fewer than fit even before the end of the file

        It raises the errors of :meth:`receive`, and is cancelled like it. When it has failed or was cancelled, the
        content of the buffer is undefined.
        """
        with memoryview(buffer) as view:
            if view.format == "B" and view.ndim == 1 and view.contiguous:
                count = await self._receive_into(view)
            else:
                with view.cast("B") as flat:
                    count = await self._receive_into(flat)
        if not count:
            raise EndOfStream("the file ends here")
        self._source.counts.received_bytes += count
        return count

    async def _receive_into(self, buffer: memoryview) -> int:
        if buffer.readonly:
            raise TypeError("the buffer is read-only")
        if not buffer.nbytes:
            raise ValueError("the buffer is empty")
        loop = self._loop or self._running_loop()
        if monotonic() >= loop.yield_at:
            await loop.checkpoint()
        else:
            await loop.checkpoint_if_cancelled()
        if self._guard.is_taken or self._is_closing or self._has_closed.closed:
            self._check_usable()
        try:
            count = self._source.readinto_now(buffer)
            if count is None:
                guard = self._guard
                try:
                    guard.is_taken = True
                    count = await self._source.readinto(buffer, self._worker_of(loop))
                finally:
                    guard.is_taken = False
                    guard.release()
        except OSError as error:
            self._raise("reading", error)
        return count

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Read as Trio's streams do: ``b""`` at the end, on every call; each call is a full checkpoint."""
        max_bytes = DEFAULT_MAX_BYTES if max_bytes is None else _positive(max_bytes)
        loop = self._loop or self._running_loop()
        loop.yield_at = 0.0  # a schedule point is due: the next step makes a full checkpoint
        try:
            return await self.receive(max_bytes)
        except EndOfStream:
            return b""

    def __aiter__(self) -> FileReadStream:  # whose type AnyIO and Trio declare differently
        """Iterates over chunks, to the end."""
        return self

    async def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        """Change the position.

        :param position: in bytes, relative to what ``whence`` says (see :meth:`io.IOBase.seek`)
        :returns: the new absolute position
        :raises OSError: the file cannot seek; the position would be negative
        :raises ClosedResourceError: the stream is closed
        :raises BusyResourceError: another task is reading
        """
        return await self._call_source(self._source.seek, position, whence)

    async def tell(self) -> int:
        """The position of the next byte, from the start of the file.

        :raises OSError: the file cannot seek
        :raises ClosedResourceError: the stream is closed
        :raises BusyResourceError: another task is reading
        """
        return await self._call_source(self._source.tell)

    async def _call_source(self, method: Callable[..., int], *args: int) -> int:
        loop = self._loop or self._running_loop()
        await loop.step()
        self._check_usable()
        if self._source.seeks_inline:
            return method(*args)
        guard = self._guard
        try:
            guard.is_taken = True
            return await loop.run_in_thread(method, *args)
        finally:
            guard.is_taken = False
            guard.release()

    async def aclose(self) -> None:
        """Close the file, even if it was opened by the caller and wrapped. Idempotent.

        A task that waits for a pipe gets :class:`ClosedResourceError`. A worker thread that reads is waited for.

        :raises BrokenResourceError: closing failed; the descriptor is gone nevertheless

        Cancellation: the descriptor is gone before ``Cancelled`` is raised.
        """
        if is_inherited(self):
            self._leave()
            return
        loop = self._running_loop()
        await self._end(loop, self._close_file)
        await loop.checkpoint()

    def statistics(self) -> FileReadStatistics:
        """The stream's counters."""
        counts = self._source.counts
        return FileReadStatistics(counts.received_bytes, counts.cached_reads, counts.thread_hops, counts.fallbacks)

    def _check_usable(self) -> None:
        self._check_open()
        self._guard.check()

    def _hand_out_file(self) -> Any:
        if isinstance(self._source, RegularSource):
            self._source.is_shared = True
        return self._file

    def _wake(self) -> None:
        self._source.wake()

    def _release(self) -> None:
        self._source.release()

    def _leave_copies(self) -> None:
        self._source.leave()

    def _close_may_block(self) -> bool:
        # Closing what was only read does not wait on a local file system (2 µs; 160 in a thread), unless it frees the
        # blocks of a file that has no name any more. NFS and FUSE, which ask a server, cannot say what is cached, so
        # they have another source.
        if not isinstance(self._source, PagedSource) or self._file.writable():
            return super()._close_may_block()
        try:
            return os.fstat(self._file.fileno()).st_nlink == 0
        except ValueError:  # its owner has closed it
            return False


def source_for(file: OpenFile, offset: int | None = None) -> Source:
    """Choose how to read ``file``: from its owner's position, which moves along, or from ``offset``, leaving it alone.

    ``offset`` is for regular files; the others have no position.
    """
    if file.kind is FileKind.REGULAR:
        if not file.direct and page_cache.can_tell(file.fd):
            return PagedSource(file, offset)
        # Pages of O_DIRECT files are not cached. A file of size 0 is generated, or will have content only later.
        return ReadAheadSource(file, offset) if file.direct or file.size else GeneratedSource(file, offset)
    return PolledSource(file) if file.kind is FileKind.STREAM else BlockingSource(file)


def open_to_read(path: str) -> io.FileIO:
    """In a worker thread: open without waiting for the other end of a FIFO, or for a terminal's carrier."""
    return open(path, "rb", buffering=0, opener=open_nonblocking)


def _positive(max_bytes: int) -> int:
    max_bytes = operator.index(max_bytes)
    if max_bytes < 1:
        raise ValueError(f"max_bytes must be a positive integer, not {max_bytes}")
    return max_bytes
