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

from .._connection.connection import NOTSENT_LOWAT, Connection
from .._connection.ended_by_close import ended_by_close
from .._errors import BrokenResourceError, TruncatedError
from .._files import source_for
from .._files.descriptor import OpenFile
from .._files.objects import ObjectSource, check_object
from .._files.sources import Source
from .._files.worker import Worker
from .._kernel import page_cache, sendfile, tcp
from .._kernel.fd import REFUSALS, FileKind
from .base import Route, checked_count, checked_offset
from .fair_share import QUANTUM, scheduler_of
from .rate_limit import RateLimiter
from .send import send_fairly

# How much is asked for at once whether it is cached: the question costs 3 µs a MiB.
ASK = 2 << 20

# How much a worker thread fetches in one hop (40-190 µs). The kernel's read-ahead runs on while the loop sends.
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
class FileToSocket(Route):
    """The transfer of a part of a file to a connection."""

    __slots__ = ("_connection", "_count", "_file", "_name", "_object", "_offset", "_total", "_unsent")

    def __init__(
        self, connection: Connection, file: OpenFile | Any, offset: int, count: int | None, limiter: RateLimiter
    ) -> None:
        """Send ``count`` bytes (``None``: all there are) of ``file`` from ``offset``.

        :param file: as :func:`~roket_trio._files.opened.opened_to_read` opens it
        :raises ValueError: a negative number, an offset beyond the end, or an offset into what has none
        """
        super().__init__("sendfile", limiter)
        offset, count = checked_offset(offset), checked_count(count)
        self._file = file if isinstance(file, OpenFile) else None
        self._object: Any = None if isinstance(file, OpenFile) else file
        self._name = file.name if isinstance(file, OpenFile) else type(file).__name__
        self._connection = connection
        self._offset = offset
        self._count = count
        # How many bytes there will be, if that is known. A regular file is sent to the size it has now; one of size 0
        # may be generated (/proc), and only reading tells.
        self._total: int | None = None
        # What was read from a source that cannot be read again, and not yet sent when it was interrupted.
        self._unsent = b""
        if self._file is None:
            check_object(file, "read")
        elif self._file.kind is not FileKind.REGULAR:
            if offset:
                raise ValueError(f"{self._name} is no regular file; it has no offsets")
        elif self._file.size:
            rest = self._file.size - offset
            if rest < 0:
                raise ValueError(f"offset {offset} is beyond the end of {self._name}: it has {self._file.size} bytes")
            self._total = rest if count is None else min(rest, count)
        # With O_DIRECT nothing can be fetched into the page cache, and the kernel may refuse in the middle.
        is_direct = self._file is not None and self._file.direct
        if self._total is None or is_direct or not sendfile.AVAILABLE:
            self.name = "read-send"

    async def run(self) -> None:
        """Send what is left to be sent.

        :raises TruncatedError: the file has become shorter meanwhile
        :raises BrokenResourceError: the socket or the file failed; the message says which, and how far it was
        """
        connection = self._connection
        # What fits under the limit of plain sends need not lift it: two calls, 15 µs.
        is_large = self._total is None or self._total - self.bytes_moved > NOTSENT_LOWAT
        with connection.sending(self._count if self._total is None else self._total, sent=self.bytes_moved, by=self):
            try:
                # These are the page cache's own pages, so the kernel may hold what the send buffer takes. A thousand
                # transfers at once take 1.03 times what a bare epoll loop does so, 1.21 with a limit of 2 MiB.
                if is_large:
                    tcp.limit_unsent(connection.sock, tcp.NO_LIMIT)
                await self._run()
            finally:
                if is_large:
                    tcp.limit_unsent(connection.sock, NOTSENT_LOWAT)
                if self.bytes_moved:
                    connection.routed(self.name)

    async def _run(self) -> None:
        connection = self._connection
        if self.bytes_moved < (self._total or 0):  # then a place is taken: a schedule point where one is due
            await connection.loop.checkpoint_if_cancelled()
        else:
            await connection.loop.step()
        connection.life.check_open()
        if self.name == "sendfile":
            assert self._file is not None
            if await self._sendfile(self._file.fd):
                return
            connection.refused("sendfile")
            if self.bytes_moved:
                connection.routed("sendfile")
            self.fall_back("read-send")
        with ended_by_close(connection):
            await self._read_and_send()

    async def _sendfile(self, source: int) -> bool:
        """Send all by sendfile, or return False where the kernel refuses; ``bytes_moved`` says how far it came."""
        connection = self._connection
        scheduler = scheduler_of(connection.loop)
        sink = connection.sock.fileno()
        cached_to = 0
        while self._total is not None and self.bytes_moved < self._total:
            offset = self._offset + self.bytes_moved
            if offset >= cached_to:
                cached_to = await self._make_cached(source, offset, self._offset + self._total)
            if self.limiter.is_limited:
                with ended_by_close(connection):
                    await self.limiter.wait()
            await scheduler.acquire()
            try:
                connection.life.check_open()  # another task may have closed it while this one waited
                is_full = self._fill(sink, source, self.limiter.step(min(cached_to - offset, QUANTUM)))
            except OSError as error:
                if error.errno in REFUSALS:
                    return False
                raise self._failed(error) from error
            finally:
                scheduler.release()
            if is_full:
                await connection.readiness.wait_writable()
        return True

    def _fill(self, sink: int, source: int, count: int) -> bool:
        """Send a slice of ``count`` bytes, or as much of it as the socket takes; returns whether that is full now.

        A part is followed by another call at once: to come again for its EAGAIN would cost a place in a later turn.
        """
        while count:
            try:
                sent = sendfile.sendfile(sink, source, self._offset + self.bytes_moved, count)
            except BlockingIOError:
                return True
            if not sent:
                self._end_early()
                return False
            self.bytes_moved += sent
            self._connection.sent(sent)
            self.limiter.moved(sent)
            count -= sent
        return False

    async def _make_cached(self, source: int, offset: int, end: int) -> int:
        """See to it that a piece from ``offset`` on is in the page cache; returns where it ends."""
        piece_end = min(end, offset + ASK)
        if page_cache.is_cached(source, offset, piece_end - offset):
            return piece_end
        window = min(end - offset, FETCH_WINDOW)
        try:
            fetched = await self._connection.loop.run_in_thread(page_cache.fetch, source, offset, window)
        except OSError as error:
            raise self._source_failed(error) from error
        # Nothing there: sendfile will say so too.
        return offset + fetched if fetched else piece_end

    async def _read_and_send(self) -> None:
        """The plain route, from the byte that the fast one reached."""
        total = self._count if self._total is None else self._total
        buffer = memoryview(bytearray(BUFFER if total is None else max(1, min(BUFFER, total))))
        async with self._plain_source() as source:
            worker = Worker(self._connection.loop)
            try:
                await self._send(memoryview(self._unsent))
                self._unsent = b""
                while total is None or self.bytes_moved < total:
                    room = len(buffer) if total is None else min(len(buffer), total - self.bytes_moved)
                    await self.limiter.wait()
                    count = await self._read(source, buffer[: self.limiter.step(room)], worker)
                    if not count:
                        if self._total is not None:
                            self._end_early()
                        elif total is not None and self._file is not None and self._file.kind is FileKind.STREAM:
                            raise self._truncated(total)
                        return
                    await self._send(buffer[:count])
                    self.limiter.moved(count)
            finally:
                worker.end()

    @asynccontextmanager
    async def _plain_source(self) -> AsyncIterator[Source]:
        """The file from the byte that was reached, however it has to be read; its own position is left alone."""
        start = self._offset + self.bytes_moved if self._can_be_read_again else self._offset
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
        try:
            count = source.readinto_now(buffer)
            if count is None:
                count = await source.readinto(buffer, worker)
        except OSError as error:
            raise self._source_failed(error) from error
        except EOFError as error:  # a compressed file that was cut short
            raise TruncatedError(f"{self._name} ended early: {error}", bytes_moved=self.bytes_moved) from error
        self._connection.life.check_open()
        return count

    async def _send(self, data: memoryview) -> None:
        before = self.bytes_moved
        try:
            await send_fairly(self._connection, data, self._accepted)
        except OSError as error:
            held = 0 if self._can_be_read_again else len(data) - (self.bytes_moved - before)
            raise self._sink_failed(error, held) from error
        finally:
            if not self._can_be_read_again:
                self._unsent = bytes(data[self.bytes_moved - before :])

    def _accepted(self, count: int) -> None:
        self.bytes_moved += count

    @property
    def _can_be_read_again(self) -> bool:
        if self._file is not None:
            return self._file.kind is FileKind.REGULAR
        return bool(self._object.seekable())

    def _failed(self, error: OSError) -> Exception:
        """An error of sendfile, or of reading."""
        return self._sink_failed(error, 0) if error.errno in _SOCKET_ERRORS else self._source_failed(error)

    def _source_failed(self, error: OSError) -> BrokenResourceError:
        return self.failed("source", self._name, error)

    def _sink_failed(self, error: OSError, held: int) -> Exception:
        failure = self._connection.send_failed(error)
        if isinstance(failure, BrokenResourceError):
            failure.side = "sink"
            failure.bytes_moved = self.bytes_moved
            failure.bytes_lost = held
        failure.add_note(f"{self.bytes_moved} bytes of {self._name} had been sent")
        return failure

    def _end_early(self) -> None:
        """The file has less than its size, which it never had, or has no more.

        :raises TruncatedError: it has become shorter
        """
        assert self._total is not None
        if self._file is None or not self._file.ends_at(self._offset + self.bytes_moved):
            raise self._truncated(self._total)
        self._total = self.bytes_moved

    def _truncated(self, total: int) -> BrokenResourceError:
        return TruncatedError(
            f"{self._name} ended early: {self.bytes_moved} of {total} bytes were there",
            bytes_moved=self.bytes_moved,
            position=self._offset + self.bytes_moved,
            path=None if self._file is None else self._file.path,
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
