"""File → file: copy_file_range in a worker thread, or read and write there."""

from __future__ import annotations

import os
from typing import final

from .._errors import TruncatedError
from .._files.descriptor import OpenFile
from .._files.worker import Worker
from .._kernel import copy_file_range
from .._kernel.fd import REFUSALS
from .._loops import current_loop
from .base import Route
from .rate_limit import RateLimiter

# How much a worker thread copies in one turn, and so how long a cancellation waits at most: 4 ms in the page cache.
_TURN = 16 << 20
_BUFFER = 1 << 20


@final
class FileToFile(Route):
    """The transfer of a part of one regular file into another."""

    __slots__ = ("_offset", "_sink", "_sink_offset", "_source", "_total")

    def __init__(self, source: OpenFile, offset: int, sink: OpenFile, count: int | None, limiter: RateLimiter) -> None:
        """Copy ``count`` bytes (``None``: all there are) from ``offset`` on to where the sink stands, or to its end."""
        super().__init__("copy_file_range", limiter)
        self._source = source
        self._sink = sink
        self._offset = offset
        self._sink_offset = None if sink.append else sink.settle()
        # A file of size 0 may be generated (/proc): only reading tells.
        self._total = max(0, source.size - offset) if source.size else None
        if count is not None:
            self._total = count if self._total is None else min(count, self._total)
        if not copy_file_range.AVAILABLE or not source.size or sink.append or source.direct or sink.direct:
            self.name = "read-write"

    async def run(self) -> None:
        """Copy what is left to be copied.

        :raises TruncatedError: the source has become shorter meanwhile
        :raises BrokenResourceError: one of the files failed; ``side`` says which
        """
        loop = current_loop()
        worker = Worker(loop)
        try:
            while self._total is None or self.bytes_moved < self._total:
                await self.limiter.wait()
                await loop.step()
                left = _TURN if self._total is None else self._total - self.bytes_moved
                room = self.limiter.step(min(left, _TURN))
                copy = self._copy_range if self.name == "copy_file_range" else self._read_and_write
                count = await worker.run(copy, room)
                if count is None:
                    self.fall_back("read-write")
                    continue
                self.limiter.moved(count)
                if not count:
                    if self._total is None or not self._source.size:
                        return
                    if self._source.ends_at(self._offset + self.bytes_moved):
                        return
                    raise TruncatedError(
                        f"{self._source.name} became shorter while it was copied: "
                        f"{self.bytes_moved} of {self._total} bytes were there",
                        bytes_moved=self.bytes_moved,
                        position=self.position,
                        path=self._sink.path,
                    )
        finally:
            worker.end()

    @property
    def position(self) -> int | None:
        """Where the next byte will stand in the sink; ``None`` at its end."""
        return None if self._sink_offset is None else self._sink_offset + self.bytes_moved

    def _copy_range(self, room: int) -> int | None:
        """In a worker thread. ``None`` where the kernel refuses."""
        assert self._sink_offset is not None
        try:
            count = copy_file_range.copy_file_range(
                self._source.fd,
                self._sink.fd,
                room,
                self._offset + self.bytes_moved,
                self._sink_offset + self.bytes_moved,
            )
        except OSError as error:
            if error.errno in REFUSALS:
                return None
            # The kernel does not say which one; a full disk can only be the sink's.
            raise self.failed("sink", f"{self._sink.name} (from {self._source.name})", error) from error
        self.bytes_moved += count
        return count

    def _read_and_write(self, room: int) -> int:
        """In a worker thread."""
        buffer = memoryview(bytearray(min(room, _BUFFER)))
        done = 0
        while done < room:
            try:
                count = os.preadv(self._source.fd, (buffer[: room - done],), self._offset + self.bytes_moved)
            except OSError as error:
                raise self.failed("source", self._source.name, error) from error
            if not count:
                break
            piece = buffer[:count]
            while piece:
                try:
                    written = self._write(piece)
                except OSError as error:
                    raise self.failed("sink", self._sink.name, error) from error
                self.bytes_moved += written
                done += written
                piece = piece[written:]
        return done

    def _write(self, piece: memoryview) -> int:
        if self._sink_offset is None:
            return os.write(self._sink.fd, piece)
        return os.pwrite(self._sink.fd, piece, self._sink_offset + self.bytes_moved)
