"""Files of which nobody can tell what is cached: read in a worker thread, so that a hop serves many chunks."""

from __future__ import annotations

import mmap
import os
from collections import deque
from typing import final

from .descriptor import OpenFile
from .sources import AT_ONCE, FIRST_WINDOW, RegularSource, Source
from .worker import Worker

# Where the file system cannot tell, what was read ahead lies in memory: a transfer may use half a MiB.
_LAST_PRIVATE_WINDOW = 512 << 10
_PIECE = 64 << 10


@final
class AheadSource(RegularSource):
    """A regular file whose system cannot tell what is cached (tmpfs, NFS, overlays, O_DIRECT; no RWF_NOWAIT).

    A worker thread reads it, several chunks in a hop, each into the very object that will be given out. (Not tmpfs in
    the event loop either: its pages may lie in swap.) 128 MiB on tmpfs in chunks of 64 KiB take 2.3-2.8 times the
    blocking loop; AnyIO's hop a chunk takes 11-20 times.
    """

    __slots__ = ("_chunks", "_next_window", "_taken")

    def __init__(self, file: OpenFile, offset: int | None = None) -> None:
        super().__init__(file, offset)
        self._chunks: deque[bytes] = deque()
        self._taken = 0  # of the first chunk
        self._next_window = FIRST_WINDOW

    def moved_elsewhere(self) -> None:
        self._chunks.clear()
        self._taken = 0
        self._next_window = 0

    def read_now(self, max_bytes: int, turn: float) -> bytes | None:
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
            data = await self.read(buffer.nbytes, worker)
            buffer[: len(data)] = data
            return len(data)
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
        """In a worker thread: chunks of ``max_bytes``, as many as fit into ``window``, but at least one."""
        chunks: list[bytes] = []
        position = self.position
        size = self.clip(max_bytes) if not window else max(self.clip(max_bytes), _PIECE)
        while not chunks or position - self.position + size <= window:
            try:
                data = os.pread(self.file.fd, size, position)
            except OSError:
                if chunks:  # nobody has asked for these bytes yet; who does will be told
                    break
                raise
            if not data:
                break
            chunks.append(data)
            position += len(data)
        return chunks

    def _read_direct(self, max_bytes: int, window: int) -> list[bytes]:
        """In a worker thread: whole blocks into an aligned buffer (open(2), O_DIRECT), of which the bytes are cut."""
        fd = self.file.fd
        block = max(mmap.PAGESIZE, os.fstat(fd).st_blksize)
        before = self.position % block
        wanted = before + max(self.clip(max_bytes), window)
        with mmap.mmap(-1, -(-wanted // block) * block) as area, memoryview(area) as view:
            count = os.preadv(fd, (view,), self.position - before)
            return [bytes(view[before:count])] if count > before else []


@final
class GeneratedSource(RegularSource):
    """A file of size 0 by ``fstat`` that may have content nevertheless (/proc): written anew as it is read.

    A worker thread reads until the chunk is full, since each read gives about a page. It reads straight on and never
    seeks: the kernel makes everything up to there once more for that (28 s for the 10 MB of /proc/kallsyms, not 0.3).
    """

    __slots__ = ()

    def read_now(self, max_bytes: int, turn: float) -> bytes | None:
        return None

    async def read(self, max_bytes: int, worker: Worker) -> bytes:
        self.counts.thread_hops += 1
        return await worker.run(self._gather, max_bytes)

    def _gather(self, max_bytes: int) -> bytes:
        """In a worker thread."""
        got = bytearray()
        max_bytes = min(max_bytes, AT_ONCE)
        while len(got) < max_bytes:
            wanted = max_bytes - len(got)
            try:
                data = os.read(self.file.fd, wanted) if self.moves else os.pread(self.file.fd, wanted, self.position)
            except OSError:
                if got:  # it will come again
                    break
                raise
            if not data:
                break
            self.position += len(data)
            got += data
        return bytes(got)

    def readinto_now(self, buffer: memoryview) -> int | None:
        return None

    async def readinto(self, buffer: memoryview, worker: Worker) -> int:
        data = await self.read(buffer.nbytes, worker)
        buffer[: len(data)] = data
        return len(data)

    def tell(self) -> int:
        return os.lseek(self.file.fd, 0, os.SEEK_CUR)


@final
class BlockingSource(Source):
    """A device that is always ready, or as good as (/dev/zero, a disk): read in a worker thread, where it stands."""

    __slots__ = ("_file",)

    def __init__(self, file: OpenFile) -> None:
        super().__init__()
        self._file = file

    def read_now(self, max_bytes: int, turn: float) -> bytes | None:
        return None

    async def read(self, max_bytes: int, worker: Worker) -> bytes:
        self.counts.thread_hops += 1
        return await worker.run(os.read, self._file.fd, min(max_bytes, AT_ONCE))

    def readinto_now(self, buffer: memoryview) -> int | None:
        return None

    async def readinto(self, buffer: memoryview, worker: Worker) -> int:
        self.counts.thread_hops += 1
        return await worker.run(os.readv, self._file.fd, (buffer[:AT_ONCE],))

    def tell(self) -> int:
        return os.lseek(self._file.fd, 0, os.SEEK_CUR)

    def seek(self, position: int, whence: int) -> int:
        return os.lseek(self._file.fd, position, whence)
