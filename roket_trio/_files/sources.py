"""Sources: one class for each way to read a file without ever blocking the event loop.

A source has a plain call for what can be read at once (:meth:`Source.read_now`), and an ``await`` for the rest
(:meth:`Source.read`): the fast path costs no coroutine. This module reads through the page cache; ``uncached`` reads
files whose cached pages are not known, ``polled`` pipes and terminals, ``objects`` objects without a descriptor.

Ways to return a cached chunk of 64 KiB as ``bytes``, compared with a blocking ``readinto`` of it (Python 3.13, 128
MiB): ``os.read`` after a check that the last page is cached takes 1.26-1.30 times as long, ``preadv2(RWF_NOWAIT)`` into
a ``BytesIO`` whose value is taken 1.39, into one scratch buffer that is copied 1.52-1.56, into a new ``bytearray`` that
is copied 1.78. So the cache is checked by reading one byte, and then the chunk is read. Into the caller's buffer
``RWF_NOWAIT``, which checks every page, costs nothing (1.03).

Once a reader has met pages that are not cached, it uses the scratch buffer nevertheless. While read-ahead is under way
the page that was checked may be cached and one before it not yet, and ``os.read`` would wait for that. The copy does
not show there (interleaved on a cold file of 128 MiB: 84 and 77-84 ms, a plain blocking loop 52-54).
"""

from __future__ import annotations

import contextlib
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

from .._kernel import page_cache
from .descriptor import OpenFile
from .worker import Worker

# The most that is copied in the event loop at a time (70 µs). A larger read is made by a worker thread, in one piece.
AT_ONCE = 1 << 20

# How far ahead a sequential reader checks (1 µs) whether the pages are cached. The answer is used until the task is
# next suspended, a millisecond at most. With a check for each chunk of 64 KiB reading takes 1.52 times the blocking
# loop, for each 128 KiB 1.49, and like this 1.42. Pages come and go in whole requests, so that is often enough.
_ASK_AHEAD = 512 << 10

# What a worker thread fetches beyond the chunk that was requested: doubled each time while the reader is sequential,
# nothing after a seek. At 4 MiB the hop (100 µs) is 2 % of what a disk of 1 GB/s takes.
FIRST_WINDOW = 256 << 10
_LAST_WINDOW = 4 << 20

_SCRATCH = 128 << 10


@final
class ReadCounts:
    """The counters of a source."""

    __slots__ = ("cached_reads", "fallbacks", "received_bytes", "thread_hops")

    def __init__(self) -> None:
        self.received_bytes: int = 0
        self.cached_reads: int = 0
        self.thread_hops: int = 0
        self.fallbacks: int = 0


class Source(ABC):
    """Reads bytes, for one task at a time. It raises plain ``OSError``."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts = ReadCounts()

    def read_now(self, max_bytes: int, slice_end: float) -> bytes | None:
        """Read without waiting.

        :param slice_end: a number that stays the same as long as the calling task is not suspended
        :returns: up to ``max_bytes``; ``b""`` at the end; ``None`` when :meth:`read` has to wait for them
        """
        return None

    @abstractmethod
    async def read(self, max_bytes: int, worker: Worker) -> bytes:
        """Read up to ``max_bytes``, in a worker thread or after waiting for readiness; ``b""`` at the end."""

    def readinto_now(self, buffer: memoryview) -> int | None:
        """Read into ``buffer`` without waiting; 0 at the end; ``None`` when :meth:`readinto` has to wait."""
        return None

    async def readinto(self, buffer: memoryview, worker: Worker) -> int:
        """Read into ``buffer``, in a worker thread or after waiting for readiness; 0 at the end."""
        data = await self.read(buffer.nbytes, worker)
        buffer[: len(data)] = data
        return len(data)

    @abstractmethod
    def tell(self) -> int:
        """The position of the next read. May block unless :attr:`seeks_inline`."""

    @abstractmethod
    def seek(self, position: int, whence: int) -> int:
        """Change the position; returns the new absolute one. May block unless :attr:`seeks_inline`."""

    @property
    def seeks_inline(self) -> bool:
        """Whether :meth:`seek` and :meth:`tell` never block."""
        return True

    def wake(self) -> None:  # noqa: B027 - most never wait
        """The stream is being closed: a waiting :meth:`read` must raise :class:`ClosedResourceError`."""

    def release(self) -> None:  # noqa: B027 - most open nothing
        """Close what the source has opened itself. Called when no task uses it any more. Idempotent."""

    def leave(self) -> None:  # noqa: B027
        """In a forked child: close its copies of what the source has opened itself. Idempotent."""


class RegularSource(Source):
    """A file with positions. Its position is the descriptor's, so the owner of the file object sees where it stands."""

    __slots__ = ("_flush", "file", "is_shared", "moves", "position")

    def __init__(self, file: OpenFile, offset: int | None = None) -> None:
        """Read from the owner's position, which moves along, or, with ``offset``, from there, leaving it alone."""
        super().__init__()
        self.file = file
        self.moves = offset is None
        # Whether others may move the descriptor's position: it is asked for before each read (0.25 µs).
        self.is_shared = self.moves
        self._flush: Callable[[], None] | None = file.owner.flush if type(file.owner) is io.BufferedRandom else None
        self.position = file.settle() if offset is None else offset

    def settle(self) -> None:
        """Go where the owner has moved since the last read, and flush what it has written."""
        if self._flush is not None:
            self._flush()
        if os.lseek(self.file.fd, 0, os.SEEK_CUR) != self.position:
            self.position = self.file.settle()
            self.position_changed()

    def position_changed(self) -> None:
        """The next read does not begin where the last one ended."""

    def tell(self) -> int:
        if self.is_shared:
            self.settle()
        return self.position

    def seek(self, position: int, whence: int) -> int:
        if self.is_shared:
            self.settle()
        self.position = os.lseek(self.file.fd, position, whence)
        self.position_changed()
        return self.position

    @property
    def seeks_inline(self) -> bool:
        return False

    def clipped(self, count: int) -> int:
        """In a worker thread: ``count``, but no more than the file still has, so that no memory is wasted."""
        if count <= AT_ONCE:
            return count
        return max(AT_ONCE, min(count, os.fstat(self.file.fd).st_size - self.position))


@final
class PagedSource(RegularSource):
    """A regular file whose file system says which pages are cached (ext4, XFS, Btrfs...)."""

    __slots__ = ("_known_in", "_known_to", "_next_window", "_probe", "_scratch", "_size")

    def __init__(self, file: OpenFile, offset: int | None = None) -> None:
        super().__init__(file, offset)
        self._probe = bytearray(1)
        # The pages before this position were seen to be cached, in the time slice with this end.
        self._known_to = -1
        self._known_in = 0.0
        self._size = file.size
        self._scratch: memoryview | None = None  # once the reader has met pages that are not cached
        self._next_window = FIRST_WINDOW

    def position_changed(self) -> None:
        self._known_to = -1
        self._scratch = None
        self._next_window = 0

    def read_now(self, max_bytes: int, slice_end: float) -> bytes | None:
        if max_bytes > AT_ONCE:
            return None
        if self.is_shared:
            self.settle()
        if self._scratch is not None:
            buffer = self._scratch[:max_bytes]
            count = self.readinto_now(buffer)
            return None if count is None else bytes(buffer[:count])
        fd = self.file.fd
        position = self.position
        end = position + max_bytes
        if end > self._size:
            # These file systems know a file's size without asking a server. It says where the end is, while a read with
            # RWF_NOWAIT may return a false 0 (kernels 5.9, 5.10). A file of size 0 may be generated, so it is read.
            self._size = os.fstat(fd).st_size
            if position >= self._size > 0:
                return b""
            end = min(end, self._size)
            if end <= position:
                return None
        if slice_end != self._known_in:
            self._known_to = -1  # the task was suspended for an unknown time: pages may have been dropped
        if end > self._known_to:
            if not self._is_cached(position, end):
                return None
            self._known_in = slice_end
        data = os.read(fd, max_bytes) if self.moves else os.pread(fd, max_bytes, position)
        self.position = position + len(data)
        self.counts.cached_reads += 1
        return data

    def _is_cached(self, start: int, end: int) -> bool:
        """Whether a read from ``start`` to ``end`` will very likely not wait. Notes up to where that holds."""
        # After a page that was cached the next one most likely is, too; at a new position the first one is checked.
        is_followed = self._known_to == start
        ahead = min(start + _ASK_AHEAD, self._size)
        if is_followed and ahead > end and self._has(ahead - 1):
            self._known_to = ahead
            return True
        for page in range(start + _ASK_AHEAD if is_followed else start, end, _ASK_AHEAD):
            if not self._has(page):
                return False
        if not self._has(end - 1):
            return False
        self._known_to = end
        return True

    def _has(self, offset: int) -> bool:
        return bool(page_cache.read_cached(self.file.fd, self._probe, offset))

    async def read(self, max_bytes: int, worker: Worker) -> bytes:
        self.counts.thread_hops += 1
        if self._scratch is None:
            self._scratch = memoryview(bytearray(_SCRATCH))
        data = await worker.run(self._read_and_fetch, max_bytes, self._open_window())
        self._advance(len(data))
        return data

    def _read_and_fetch(self, max_bytes: int, window: int) -> bytes:
        """In a worker thread: read the chunk, and then fetch the next ones into the page cache."""
        fd, count = self.file.fd, self.clipped(max_bytes)
        data = os.read(fd, count) if self.moves else os.pread(fd, count, self.position)
        self._fetch(len(data), window)
        return data

    def readinto_now(self, buffer: memoryview) -> int | None:
        if buffer.nbytes > AT_ONCE:
            return None
        if self.is_shared:
            self.settle()
        # At offset -1 preadv2 reads at the descriptor's own position, and moves it.
        count = page_cache.read_cached(self.file.fd, buffer, -1 if self.moves else self.position)
        if not count:
            return 0 if count == 0 and self.position >= os.fstat(self.file.fd).st_size > 0 else None
        self.position += count
        self.counts.cached_reads += 1
        return count

    async def readinto(self, buffer: memoryview, worker: Worker) -> int:
        self.counts.thread_hops += 1
        count = await worker.run(self._readinto_and_fetch, buffer, self._open_window())
        self._advance(count)
        return count

    def _readinto_and_fetch(self, buffer: memoryview, window: int) -> int:
        """In a worker thread: read into ``buffer``, and then fetch the next chunks into the page cache."""
        fd = self.file.fd
        count = os.readv(fd, (buffer,)) if self.moves else os.preadv(fd, (buffer,), self.position)
        self._fetch(count, window)
        return count

    def _fetch(self, done: int, window: int) -> None:
        if 0 < done < window:
            with contextlib.suppress(OSError):  # these bytes were not requested yet; reading them will raise it
                page_cache.fetch(self.file.fd, self.position + done, window - done)

    def _open_window(self) -> int:
        window = self._next_window
        self._next_window = min(max(2 * window, FIRST_WINDOW), _LAST_WINDOW)
        return window

    def _advance(self, count: int) -> None:
        self._known_to = self.position = self.position + count
