"""The one loop that reads and writes: for ends that have no kernel's route, and where the kernel has refused it."""

from __future__ import annotations

from typing import NoReturn, final

import anyio
import trio

from .._connection.ended_by_close import ended_by_close
from .._loops import current_loop
from .fair_share import FairScheduler, scheduler_of
from .progress import Progress

# What the plain loop moves at a time: a worker thread's hop costs 40-190 µs. Between two files (128 MiB, a loaded
# machine, against one hop for each 16 MiB) the wall time was 1.34 to 1.65 with 256 KiB, 0.86 to 1.29 with 512 KiB; the
# CPU time was the same.
BUFFER = 256 << 10
FILE_BUFFER = 512 << 10

_NOTHING = memoryview(b"")

# What an end raises that has failed; another library's stream has its own class for it.
_FAILURES = (OSError, anyio.BrokenResourceError, trio.BrokenResourceError)


@final
class PlainLoop:
    """Reads and writes what no kernel's route moves: one run of it.

    What is read is written before anything else is waited for. A sink that has a thread of its own writes one piece
    while the next one is read, if the source has it already.
    """

    __slots__ = ("_is_writing", "_next", "_progress", "_reader", "_writer", "_writing")

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._reader = progress.reader
        self._writer = progress.writer
        # The piece that is being written, the piece after it, and whether the sink's thread writes.
        self._writing = self._next = _NOTHING
        self._is_writing = False

    async def run(self, *, read: bool) -> None:
        """Write what has left the source already; then, with ``read``, read and write the rest."""
        progress, reader, writer = self._progress, self._reader, self._writer
        if not (reader.is_ours and writer.is_ours):
            progress.unknown = "what a foreign stream took or gave"  # should it be interrupted
        reader.go_to(progress.bytes_moved)
        writer.go_to(progress.bytes_moved)
        try:
            with ended_by_close(*progress.connections()):
                try:
                    unsent, progress.unsent = progress.unsent, b""
                    await self._write(memoryview(unsent))
                    if read:
                        await self._read_and_write(scheduler_of(current_loop()))
                finally:
                    await self._finish_writing()  # noqa: ASYNC102 - as long as a worker thread needs
        finally:
            try:
                self._keep_unsent()
            finally:  # each, though a signal's handler raises in the one before
                try:
                    writer.release()
                finally:
                    await reader.release()  # noqa: ASYNC102 - a worker thread's time, and seldom
        progress.unknown = None

    async def _read_and_write(self, scheduler: FairScheduler) -> None:
        progress, reader, limiter = self._progress, self._reader, self._progress.limiter
        left = progress.left
        size = min(left, FILE_BUFFER if reader.is_file and self._writer.is_file else BUFFER)
        if left and not progress.ended:
            reader.allocate(size, twice=self._writer.writes_behind)
        while left > 0 and not progress.ended:
            await limiter.wait()
            try:
                data = await self._read(scheduler, limiter.step(min(size, left)))
            except _FAILURES as error:
                await self._finish_writing()
                self._fail("source", error)
            except EOFError as error:  # a compressed file that was cut short
                await self._finish_writing()  # noqa: ASYNC120 - a cancelled task need not know why the source ended
                raise progress.truncated(f"{reader.name} ended early: {error}") from error
            if data is None:
                await self._finish_writing()
            elif data:
                left -= len(data)
                limiter.moved(len(data))
                await self._write(data)
            else:
                progress.ended = True

    async def _read(self, scheduler: FairScheduler, size: int) -> memoryview | None:
        """Read what the source has. ``None``: it has nothing now. The next call waits if nothing is being written."""
        await scheduler.acquire()
        try:
            data = self._reader.read_now(size)
        finally:
            scheduler.release()
        if data is None and not self._is_writing:
            data = await self._reader.read(size)
        return data

    async def _write(self, data: memoryview) -> None:
        """Write all of ``data`` after what is being written, or let the sink's own thread write it."""
        self._next = data
        await self._finish_writing()
        self._writing, self._next = data, _NOTHING
        if data and self._writer.begin_writing(data, self._accepted):
            self._is_writing = True
            return
        try:
            while self._writing:
                self._reader.confirm()
                await self._writer.write(self._writing, self._accepted)
        except _FAILURES as error:
            self._fail("sink", error)

    async def _finish_writing(self) -> None:
        """Wait until the sink's thread has written its piece, even if this task is cancelled."""
        if self._is_writing:
            self._is_writing = False
            try:
                await self._writer.finish_writing()
            except _FAILURES as error:
                self._fail("sink", error)

    def _accepted(self, count: int) -> None:
        """Count what the sink has taken of the piece. A worker thread may call this."""
        self._progress.bytes_moved += count
        self._writing = self._writing[count:]
        self._reader.accepted(count)

    def _keep_unsent(self) -> None:
        """Keep what has left the source and not reached the sink, unless the source has it still."""
        rest = bytes(self._writing) + bytes(self._next)
        self._writing = self._next = _NOTHING
        if rest and not self._reader.has_again(len(rest)):
            self._progress.unsent = rest

    def _fail(self, side: str, error: Exception) -> NoReturn:
        self._keep_unsent()
        self._progress.fail(side, error)
