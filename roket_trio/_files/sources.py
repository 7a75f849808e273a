"""Where the bytes of a file come from: one class for each way to read without ever blocking the event loop.

A source first offers what can be had at once, by a plain call (:meth:`Source.read_now`), and only then an ``await``
(:meth:`Source.read`): the fast path costs no coroutine. The page cache is here, files without it are in ``_uncached``,
pipes and terminals in ``_polled``, objects without a descriptor of their own in ``_objects``.

Ways to give out a cached chunk of 64 KiB as ``bytes``, against a blocking ``readinto`` of it (Python 3.13, 128 MiB):
``os.read`` after asking whether the last page is cached 1.26-1.30, ``preadv2(RWF_NOWAIT)`` into a ``BytesIO`` whose
value is taken 1.39, into one scratch buffer that is copied 1.52-1.56, into a fresh ``bytearray`` that is copied 1.78.
So it is asked for one byte, then read. Into the caller's buffer the kernel's own word on every page is free (1.03).

Once a reader has come to cold pages it uses the scratch buffer all the same: while read-ahead is under way the page
that was asked for may be there and one before it not yet, and ``os.read`` would wait for that. The copy does not show
there (interleaved on a cold file of 128 MiB: 84 and 77-84 ms, a plain blocking loop 52-54).
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

# The most that is copied in the event loop at a time (70 µs). Who asks for more gets it from a worker thread, in one
# piece.
AT_ONCE = 1 << 20

# How far ahead a reader that goes straight on asks (1 µs) whether the pages are cached. The answer holds until the task
# is next suspended, a millisecond at most. Asking for each chunk of 64 KiB: 1.52 x the blocking loop; each 128 KiB:
# 1.49; so: 1.42. Pages come and go in whole requests: who sends a file asks as seldom.
_ASK_AHEAD = 512 << 10

# What a worker thread fetches beyond the chunk that was asked for: doubled each time while the reader goes straight on,
# nothing after a seek. At 4 MiB the hop (100 µs) is 2 % of what a disk of 1 GB/s takes.
FIRST_WINDOW = 256 << 10
_LAST_WINDOW = 4 << 20

_SCRATCH = 128 << 10


@final
class ReadCounts:
    """What a source has done so far."""

    __slots__ = ("cached_reads", "fallbacks", "received_bytes", "thread_hops")

    def __init__(self) -> None:
        self.received_bytes: int = 0
        self.cached_reads: int = 0
        self.thread_hops: int = 0
        self.fallbacks: int = 0


class Source(ABC):
    """Bytes to be read, by one task at a time. ``OSError`` is raised as it comes."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts = ReadCounts()

    @abstractmethod
    def read_now(self, max_bytes: int, turn: float) -> bytes | None:
        """Up to ``max_bytes`` that can be had without waiting; ``b""`` at the end; ``None``: use :meth:`read`.

        :param turn: a number that stays the same as long as the calling task is not suspended
        """

    @abstractmethod
    async def read(self, max_bytes: int, worker: Worker) -> bytes:
        """Up to ``max_bytes``; ``b""`` at the end. Waits in a worker thread, or for readiness."""

    @abstractmethod
    def readinto_now(self, buffer: memoryview) -> int | None:
        """As :meth:`read_now`, into ``buffer``."""

    @abstractmethod
    async def readinto(self, buffer: memoryview, worker: Worker) -> int:
        """As :meth:`read`, into ``buffer``."""

    @abstractmethod
    def tell(self) -> int:
        """Where the next read begins. May block unless :attr:`seeks_inline`."""

    @abstractmethod
    def seek(self, position: int, whence: int) -> int:
        """Go elsewhere; returns the new absolute position. May block unless :attr:`seeks_inline`."""

    @property
    def seeks_inline(self) -> bool:
        """Whether :meth:`seek` and :meth:`tell` never block."""
        return True

    def wake(self) -> None:  # noqa: B027 - most have nobody to wake
        """The stream is being closed: whoever waits must come back with :class:`ClosedResourceError`."""

    def release(self) -> None:  # noqa: B027 - most have nothing of their own
        """Close what the source has opened for itself. Nobody uses it any more. Idempotent."""


class RegularSource(Source):
    """A file with positions. They are the descriptor's own: whoever has the file object stands where we stand."""

    __slots__ = ("_flush", "file", "is_shared", "moves", "position")

    def __init__(self, file: OpenFile, offset: int | None = None) -> None:
        """Read ``file`` from where its owner stands, and move that; with ``offset``, from there, and leave it alone."""
        super().__init__()
        self.file = file
        self.moves = offset is None
        # Whether others may move the descriptor: it is looked at before each read (0.25 µs).
        self.is_shared = self.moves
        self._flush: Callable[[], None] | None = file.owner.flush if type(file.owner) is io.BufferedRandom else None
        self.position = file.settle() if offset is None else offset

    def settle(self) -> None:
        """Follow the owner if it has moved since, and see what it has written."""
        if self._flush is not None:
            self._flush()
        if os.lseek(self.file.fd, 0, os.SEEK_CUR) != self.position:
            self.position = self.file.settle()
            self.moved_elsewhere()

    def moved_elsewhere(self) -> None:
        """The next read is not where the last one ended."""

    def tell(self) -> int:
        if self.is_shared:
            self.settle()
        return self.position

    def seek(self, position: int, whence: int) -> int:
        if self.is_shared:
            self.settle()
        self.position = os.lseek(self.file.fd, position, whence)
        self.moved_elsewhere()
        return self.position

    @property
    def seeks_inline(self) -> bool:
        return False

    def clip(self, count: int) -> int:
        """In a worker thread: ``count``, or what the file still has if that is less, so that no memory is wasted."""
        if count <= AT_ONCE:
            return count
        return max(AT_ONCE, min(count, os.fstat(self.file.fd).st_size - self.position))


@final
class PagedSource(RegularSource):
    """A regular file whose file system tells what is cached (ext4, XFS, Btrfs...)."""

    __slots__ = ("_known_in", "_known_to", "_next_window", "_probe", "_scratch", "_size")

    def __init__(self, file: OpenFile, offset: int | None = None) -> None:
        super().__init__(file, offset)
        self._probe = bytearray(1)
        # The pages before this position were seen to be cached, in this turn of the task.
        self._known_to = -1
        self._known_in = 0.0
        self._size = file.size
        self._scratch: memoryview | None = None  # since the reader has come to cold pages
        self._next_window = FIRST_WINDOW

    def moved_elsewhere(self) -> None:
        self._known_to = -1
        self._scratch = None
        self._next_window = 0

    def read_now(self, max_bytes: int, turn: float) -> bytes | None:
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
            # These file systems know a file's size without asking anybody, and it is the truth about the end: a read
            # with RWF_NOWAIT may return a false 0 (kernels 5.9, 5.10). A file of size 0 may be generated: read it.
            self._size = os.fstat(fd).st_size
            if position >= self._size > 0:
                return b""
            end = min(end, self._size)
            if end <= position:
                return None
        if turn != self._known_in:
            self._known_to = -1  # the task was suspended, who knows how long: pages may have gone
        if end > self._known_to:
            if not self._is_cached(position, end):
                return None
            self._known_in = turn
        data = os.read(fd, max_bytes) if self.moves else os.pread(fd, max_bytes, position)
        self.position = position + len(data)
        self.counts.cached_reads += 1
        return data

    def _is_cached(self, start: int, end: int) -> bool:
        """Whether a read from ``start`` to ``end`` will very likely not wait; notes up to where that holds."""
        # After a page that was cached the next one most likely is; at a new place it is asked for.
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
        """In a worker thread: the chunk, and then the next ones into the page cache."""
        fd, count = self.file.fd, self.clip(max_bytes)
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
        """In a worker thread, as :meth:`_read_and_fetch`."""
        fd = self.file.fd
        count = os.readv(fd, (buffer,)) if self.moves else os.preadv(fd, (buffer,), self.position)
        self._fetch(count, window)
        return count

    def _fetch(self, done: int, window: int) -> None:
        if 0 < done < window:
            with contextlib.suppress(OSError):  # nobody has asked for these bytes yet; who does will be told
                page_cache.fetch(self.file.fd, self.position + done, window - done)

    def _open_window(self) -> int:
        window = self._next_window
        self._next_window = min(max(2 * window, FIRST_WINDOW), _LAST_WINDOW)
        return window

    def _advance(self, count: int) -> None:
        self._known_to = self.position = self.position + count
