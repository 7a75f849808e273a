"""Regular files and devices whose cached pages are not known. A worker thread reads them, many chunks at a time."""

from __future__ import annotations

import mmap
import os
from collections import deque
from typing import final

from .descriptor import OpenFile
from .sources import AT_ONCE, FIRST_WINDOW, RegularSource, Source
from .worker import Worker

# What is read ahead is kept in memory here, of which a transfer may use half a MiB.
_LAST_PRIVATE_WINDOW = 512 << 10
_PIECE = 64 << 10


@final
class ReadAheadSource(RegularSource):
    """A regular file whose file system cannot say what is cached (tmpfs, NFS, overlays, O_DIRECT; no RWF_NOWAIT).

    A worker thread reads several chunks in a hop, each into the object that will be returned. (tmpfs is not read in the
    event loop either: its pages may be in swap.) 128 MiB on tmpfs in chunks of 64 KiB take 2.3-2.8 times as long as the
    blocking loop. With a hop for each chunk, as AnyIO reads, they take 11-20 times as long.
    """

    __slots__ = ("_chunks", "_next_window", "_taken")

    def __init__(self, file: OpenFile, offset: int | None = None) -> None:
        super().__init__(file, offset)
        self._chunks: deque[bytes] = deque()
        self._taken = 0  # of the first chunk
        self._next_window = FIRST_WINDOW

    def position_changed(self) -> None:
        self._chunks.clear()
        self._taken = 0
        self._next_window = 0

    def read_now(self, max_bytes: int, slice_end: float) -> bytes | None:
        if self.is_shared:
            self.settle()
        return self._take(max_bytes) if self._chunks else None

    async def read(self, max_bytes: int, worker: Worker) -> bytes:
        if not await self._fill(max_bytes, worker):
            return b""
        return self._take(max_bytes)

    def readinto_now(self, buffer: memoryview) -> int | None:
        data = self.read_now(buffer.nbytes, 0.0)
        if data is None:
            return None
        buffer[: len(data)] = data
        return len(data)

    async def readinto(self, buffer: memoryview, worker: Worker) -> int:
        if buffer.nbytes < FIRST_WINDOW or self.file.direct:
            return await super().readinto(buffer, worker)
        self._count_hop()
        count = await worker.run(os.preadv, self.file.fd, (buffer,), self.position)
        self._advance(count)
        return count

    def _take(self, max_bytes: int) -> bytes:
        chunk = self._chunks[0]
        whole = not self._taken and len(chunk) <= max_bytes
        data = chunk if whole else chunk[self._taken : self._taken + max_bytes]
        self._taken += len(data)
        if self._taken == len(chunk):
            self._chunks.popleft()
            self._taken = 0
        self._advance(len(data))
        return data

    def _advance(self, count: int) -> None:
        self.position += count
        if self.moves:
            os.lseek(self.file.fd, self.position, os.SEEK_SET)

    def _count_hop(self) -> None:
        self.counts.thread_hops += 1
        self.counts.fallbacks += 1

    async def _fill(self, max_bytes: int, worker: Worker) -> bool:
        window = self._next_window
        self._next_window = min(max(2 * window, FIRST_WINDOW), _LAST_PRIVATE_WINDOW)
        self._count_hop()
        read = self._read_direct if self.file.direct else self._read_ahead
        chunks = await worker.run(read, max_bytes, window)
        self._chunks.extend(chunks)
        return bool(chunks)

    def _read_ahead(self, max_bytes: int, window: int) -> list[bytes]:
        """In a worker thread: read chunks of ``max_bytes``, as many as fit into ``window``, but at least one."""
        chunks: list[bytes] = []
        position = self.position
        size = self.clipped(max_bytes) if not window else max(self.clipped(max_bytes), _PIECE)
        while not chunks or position - self.position + size <= window:
            try:
                data = os.pread(self.file.fd, size, position)
            except OSError:
                if chunks:  # these bytes were not requested yet; reading them will raise it
                    break
                raise
            if not data:
                break
            chunks.append(data)
            position += len(data)
        return chunks

    def _read_direct(self, max_bytes: int, window: int) -> list[bytes]:
        """In a worker thread: read whole blocks into an aligned buffer (open(2), O_DIRECT), and copy what is wanted."""
        fd = self.file.fd
        block = max(mmap.PAGESIZE, os.fstat(fd).st_blksize)
        before = self.position % block
        wanted = before + max(self.clipped(max_bytes), window)
        with mmap.mmap(-1, -(-wanted // block) * block) as area, memoryview(area) as view:
            count = os.preadv(fd, (view,), self.position - before)
            return [bytes(view[before:count])] if count > before else []


@final
class GeneratedSource(RegularSource):
    """A file of size 0 by ``fstat`` that may have content nevertheless: the kernel generates it as it is read (/proc).

    A worker thread reads until the chunk is full, since each read gives about a page. It reads sequentially and never
    seeks: for a seek the kernel generates everything up to there again (28 s instead of 0.3 s for the 10 MB of
    /proc/kallsyms).
    """

    __slots__ = ()

    async def read(self, max_bytes: int, worker: Worker) -> bytes:
        self.counts.thread_hops += 1
        return await worker.run(self._gather, max_bytes)

    def _gather(self, max_bytes: int) -> bytes:
        """In a worker thread: read until ``max_bytes`` are there, or the file ends."""
        got = bytearray()
        max_bytes = min(max_bytes, AT_ONCE)
        while len(got) < max_bytes:
            wanted = max_bytes - len(got)
            try:
                data = os.read(self.file.fd, wanted) if self.moves else os.pread(self.file.fd, wanted, self.position)
            except OSError:
                if got:  # the next read will raise it
                    break
                raise
            if not data:
                break
            self.position += len(data)
            got += data
        return bytes(got)

    def tell(self) -> int:
        return os.lseek(self.file.fd, 0, os.SEEK_CUR)


@final
class BlockingSource(Source):
    """A device that cannot be polled (/dev/zero, a disk): read in a worker thread, at its descriptor's position."""

    __slots__ = ("_file",)

    def __init__(self, file: OpenFile) -> None:
        super().__init__()
        self._file = file

    async def read(self, max_bytes: int, worker: Worker) -> bytes:
        self.counts.thread_hops += 1
        return await worker.run(os.read, self._file.fd, min(max_bytes, AT_ONCE))

    async def readinto(self, buffer: memoryview, worker: Worker) -> int:
        self.counts.thread_hops += 1
        return await worker.run(os.readv, self._file.fd, (buffer[:AT_ONCE],))

    def tell(self) -> int:
        return os.lseek(self._file.fd, 0, os.SEEK_CUR)

    def seek(self, position: int, whence: int) -> int:
        return os.lseek(self._file.fd, position, whence)
