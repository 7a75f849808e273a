"""File → socket: sendfile while the pages are cached, a worker thread where a disk must be waited for.

No thread ever holds the socket: the worker only fetches pages into the cache, and the event loop sends them. So a
cancelled or closed connection never has to wait for a thread to let go of it, and one slow disk stops nobody.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, final

import anyio

from ._connection import Connection
from ._errors import BrokenResourceError, TruncatedError, broken
from ._files import source_for
from ._files._objects import ObjectSource, check_object
from ._files._sources import Source
from ._files._worker import Worker
from ._kernel import pagecache, sendfile
from ._kernel.fd import REFUSALS, FileKind
from ._opened import OpenFile

# How much is sent between two questions whether the pages are cached: the question costs 10 µs a MiB.
SLICE = 1 << 20

# How much a worker thread fetches in one hop (110-190 µs). The kernel's read-ahead runs on while the loop sends.
FETCH_WINDOW = 4 << 20

# The buffer of the plain route.
BUFFER = 256 << 10

# What only the socket's side of a sendfile can have caused; any other error is the file's.
_SOCKET_ERRORS = frozenset(
    getattr(errno, name)
    for name in (
        "EPIPE",
        "ECONNRESET",
        "ECONNABORTED",
        "ENOTCONN",
        "ETIMEDOUT",
        "EHOSTUNREACH",
        "ENETUNREACH",
        "ENETDOWN",
        "EHOSTDOWN",
        "ENOBUFS",
    )
)


@final
class FileToSocket:
    """One transfer of a part of a file to a connection. ``bytes_moved`` and ``route`` may be read at any time."""

    __slots__ = ("_connection", "_count", "_file", "_name", "_object", "_offset", "bytes_moved", "fallbacks", "route")

    def __init__(self, connection: Connection, file: OpenFile | Any, offset: int, count: int | None) -> None:
        """Send ``count`` bytes (``None``: all there are) of ``file`` from ``offset``.

        :param file: as :func:`~roket_trio._lending.lent_to_read` lends it

        :raises ValueError: a negative number, an offset beyond the end, or an offset into what has none
        """
        if offset < 0 or (count is not None and count < 0):
            raise ValueError(f"offset and count must not be negative: {offset}, {count}")
        self._file = file if isinstance(file, OpenFile) else None
        self._object: Any = None if isinstance(file, OpenFile) else file
        self._name = file.name if isinstance(file, OpenFile) else type(file).__name__
        if self._file is None:
            check_object(file, "read")
        else:
            if offset and self._file.kind is not FileKind.REGULAR:
                raise ValueError(f"{self._name} is no regular file; it has no offsets")
            if self._file.size and offset > self._file.size:
                raise ValueError(
                    f"offset {offset} is beyond the end of {self._name}, which has {self._file.size} bytes"
                )
        self._connection = connection
        self._offset = offset
        self._count = count
        self.bytes_moved = 0
        self.fallbacks = 0
        self.route = "read-send"

    async def run(self) -> None:
        """Send it all.

        :raises TruncatedError: the file has become shorter meanwhile
        :raises BrokenResourceError: the socket or the file failed; the message says which, and how far it was
        """
        connection = self._connection
        # A regular file is sent to the size it has now. One of size 0 may be generated (/proc): only reading tells.
        file = self._file
        sized = file is not None and file.kind is FileKind.REGULAR and file.size > 0
        total = self._count
        if sized:
            assert file is not None
            rest = file.size - self._offset
            total = rest if total is None else min(total, rest)
        connection.begin_sending(total)
        try:
            await connection.loop.step()
            connection.life.check_open()
            if sized and sendfile.AVAILABLE:
                self.route = "sendfile"
                assert file is not None
                assert total is not None
                if await self._sendfile(file.fd, total):
                    return
                self.fallbacks += 1
                connection.fallbacks["sendfile"] += 1
            self.route = "read-send"
            await self._read_and_send(total, sized=sized)
            connection.to_send = connection.sent_of_item
        finally:
            if self.bytes_moved:
                connection.routes[self.route] += 1
            connection.end_sending()

    async def _sendfile(self, source: int, total: int) -> bool:
        """Send all by sendfile, or return False where the kernel refuses; ``bytes_moved`` says how far it came."""
        connection = self._connection
        loop = connection.loop
        sink = connection.sock.fileno()
        offset, end = self._offset, self._offset + total
        cached_to = offset
        while offset < end:
            if offset >= cached_to:
                cached_to = await self._make_cached(source, offset, end)
                connection.life.check_open()  # another task may have closed it while the disk was waited for
            try:
                count = sendfile.sendfile(sink, source, offset, cached_to - offset)
            except BlockingIOError:
                await connection.readiness.wait_writable()
                continue
            except OSError as error:
                if error.errno in REFUSALS:
                    return False
                raise self._failed(error) from error
            if count == 0:
                raise self._truncated(total)
            offset += count
            self.bytes_moved += count
            connection.sent(count)
            if loop.yield_is_due():
                await loop.checkpoint()
                connection.life.check_open()
        return True

    async def _make_cached(self, source: int, offset: int, end: int) -> int:
        """See to it that a slice from ``offset`` on is in the page cache; returns where it ends."""
        slice_end = min(end, offset + SLICE)
        if pagecache.is_cached(source, offset, slice_end - offset):
            return slice_end
        window = min(end - offset, FETCH_WINDOW)
        try:
            fetched = await self._connection.loop.run_in_thread(pagecache.fetch, source, offset, window)
        except OSError as error:
            raise self._failed(error) from error
        # Nothing there: sendfile will say so too.
        return offset + fetched if fetched else slice_end

    async def _read_and_send(self, total: int | None, *, sized: bool) -> None:
        """The plain route, from the byte that the fast one reached."""
        buffer = memoryview(bytearray(BUFFER if total is None else max(1, min(BUFFER, total))))
        worker = Worker(self._connection.loop)
        async with self._plain_source() as source:
            while total is None or self.bytes_moved < total:
                room = len(buffer) if total is None else min(len(buffer), total - self.bytes_moved)
                count = await self._read(source, buffer[:room], worker)
                if not count:
                    if sized and total is not None:
                        raise self._truncated(total)
                    return
                await self._send(buffer[:count])

    @asynccontextmanager
    async def _plain_source(self) -> AsyncIterator[Source]:
        """The file from the byte that was reached, however it has to be read; its own position is left alone."""
        start = self._offset + self.bytes_moved
        if self._file is not None:
            source = source_for(self._file, start if self._file.kind is FileKind.REGULAR else None)
            try:
                yield source
            finally:
                source.release()
            return
        # Seeking in a compressed file may take long.
        loop = self._connection.loop
        home = await loop.run_in_thread(_seek_from_home, self._object, start)
        try:
            yield ObjectSource(self._object)
        finally:
            if home is not None:
                with anyio.CancelScope(shield=True):
                    await loop.run_in_thread(self._object.seek, home)

    async def _read(self, source: Source, buffer: memoryview, worker: Worker) -> int:
        loop = self._connection.loop
        try:
            count = source.readinto_now(buffer)
            if count is None:
                count = await source.readinto(buffer, worker)
            if loop.yield_is_due():
                await loop.checkpoint()
        except OSError as error:
            raise self._failed(error) from error
        self._connection.life.check_open()
        return count

    async def _send(self, data: memoryview) -> None:
        connection = self._connection
        while data:
            try:
                count = connection.sock.send(data)
            except BlockingIOError:
                await connection.readiness.wait_writable()
                continue
            except OSError as error:
                raise self._failed(error) from error
            self.bytes_moved += count
            connection.sent(count)
            data = data[count:]

    def _failed(self, error: OSError) -> Exception:
        if error.errno in _SOCKET_ERRORS:
            failure = self._connection.send_failed(error)
            failure.add_note(f"{self.bytes_moved} bytes of {self._name} had been sent")
            return failure
        return broken(f"reading {self._name} failed after {self.bytes_moved} bytes had been sent", error)

    def _truncated(self, total: int) -> BrokenResourceError:
        return TruncatedError(
            f"{self._name} became shorter while it was sent: {self.bytes_moved} of {total} bytes were there",
            bytes_moved=self.bytes_moved,
            position=self._offset + self.bytes_moved,
            path=self._name,
        )


def _seek_from_home(file: Any, offset: int) -> int | None:
    """In a worker thread: go to ``offset``; returns where the object stood, ``None`` if it cannot seek."""
    if not file.seekable():
        if offset:
            raise ValueError(f"{type(file).__name__} cannot seek; it takes no offset")
        return None
    home: int = file.tell()
    file.seek(offset)
    return home
