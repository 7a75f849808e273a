"""File → socket by sendfile. Pages that are not cached are fetched by a worker thread first.

No thread ever holds the socket: the thread only fetches pages into the cache, and the event loop sends them. So a
cancelled or closed connection never has to wait for a thread, and one slow disk stops no other task.
"""

from __future__ import annotations

import errno
from typing import final

from .._connection.connection import Connection
from .._connection.ended_by_close import ended_by_close
from .._kernel import page_cache, sendfile, tcp
from .._kernel.fd import REFUSALS
from .._kernel.signal_handlers import is_from_kernel
from .connection_ends import ConnectionWriter
from .fair_share import QUANTUM, scheduler_of
from .file_ends import FileReader
from .kernel_route import KernelRoute
from .progress import Progress

# Of how many bytes at a time it is asked whether they are cached. That costs 3 µs a MiB.
ASK = 2 << 20

# How much a worker thread fetches in one hop (40-190 µs). The kernel's read-ahead runs on while the loop sends.
FETCH_WINDOW = 4 << 20

# What only the socket's side of a sendfile can have caused; any other error is the file's.
_SOCKET_ERRORS = frozenset(
    {
        errno.EPIPE,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.EHOSTDOWN,
        errno.ENOBUFS,
    }
)


@final
class FileToSocket(KernelRoute):
    """A regular file of known size, by sendfile."""

    __slots__ = ("_connection", "_fd", "_offset")

    name = "sendfile"

    def __init__(self, fd: int, offset: int, connection: Connection) -> None:
        self._fd = fd
        self._offset = offset
        self._connection = connection

    @classmethod
    def between(cls, reader: FileReader, writer: ConnectionWriter) -> FileToSocket | None:
        """The route between the two, if they have one.

        With O_DIRECT nothing can be fetched into the page cache, and the kernel may refuse in the middle.
        """
        file, offset = reader.file, reader.offset
        if not sendfile.AVAILABLE or file is None or offset is None or reader.total is None or file.direct:
            return None
        return cls(file.fd, offset, writer.connection)

    async def run(self, progress: Progress) -> bool:
        # The limit of plain sends is lifted, since what the kernel holds are the page cache's own pages: a thousand
        # transfers at once take 1.03 times as long as a bare epoll loop, with a limit of 2 MiB 1.21. What fits under
        # the limit does without these two calls (15 µs).
        left = progress.left
        is_large = left > tcp.NOTSENT_LOWAT
        connection, limiter = self._connection, progress.limiter
        scheduler = scheduler_of(connection.loop)
        sink = connection.sock.fileno()
        cached_to = 0
        try:
            if is_large:
                tcp.limit_unsent(connection.sock, tcp.NO_LIMIT)
            while left and not progress.ended:
                offset = self._offset + progress.bytes_moved
                if offset >= cached_to:
                    cached_to = await self._make_cached(progress, offset, offset + left)
                if limiter.is_limited:
                    with ended_by_close(connection):
                        await limiter.wait()
                await scheduler.acquire()
                try:
                    connection.life.check_open()  # another task may have closed it while this one waited
                    is_full = self._fill(progress, sink, limiter.step(min(cached_to - offset, QUANTUM)))
                except OSError as error:
                    if not is_from_kernel(error):
                        raise
                    if error.errno in REFUSALS:
                        return False
                    progress.fail("sink" if error.errno in _SOCKET_ERRORS else "source", error)
                finally:
                    scheduler.release()
                if is_full:
                    await connection.readiness.wait_writable()
                left = progress.left
        finally:
            if is_large:
                tcp.limit_unsent(connection.sock, tcp.NOTSENT_LOWAT)
        return True

    def _fill(self, progress: Progress, sink: int, count: int) -> bool:
        """Send a slice of ``count`` bytes, or as much of it as the socket takes; returns whether that is full now.

        After a part of it the call is repeated at once, up to EAGAIN: later that would cost another slot.
        """
        while count:
            offset = self._offset + progress.bytes_moved
            sent = self._connection.accounting.send_part(sendfile.sendfile, sink, self._fd, offset, count)
            if sent is None:
                return True
            if not sent:
                progress.ended = True
                return False
            progress.bytes_moved += sent
            progress.limiter.moved(sent)
            count -= sent
        return False

    async def _make_cached(self, progress: Progress, offset: int, end: int) -> int:
        """Fetch a piece from ``offset`` on into the page cache unless it is there; returns where the piece ends."""
        piece_end = min(end, offset + ASK)
        if page_cache.is_cached(self._fd, offset, piece_end - offset):
            return piece_end
        window = min(end - offset, FETCH_WINDOW)
        try:
            fetched = await self._connection.loop.run_in_thread(page_cache.fetch, self._fd, offset, window)
        except OSError as error:
            progress.fail("source", error)
        # If there was nothing to fetch, sendfile finds the end of the file too.
        return offset + fetched if fetched else piece_end
