"""File → file: copy_file_range in a worker thread."""

from __future__ import annotations

from typing import final

from .._files.worker import Worker
from .._kernel import copy_file_range
from .._kernel.fd import REFUSALS
from .._kernel.signal_handlers import is_from_handler
from .._loops import current_loop
from .file_ends import FileReader, FileWriter
from .kernel_route import KernelRoute
from .progress import Progress

# How much a worker thread copies in one turn, and so how long a cancellation waits at most: 4 ms in the page cache.
_TURN = 16 << 20


@final
class FileToFile(KernelRoute):
    """A part of a regular file of known size into another one, by copy_file_range."""

    __slots__ = ("_offset", "_sink", "_sink_offset", "_source")

    name = "copy_file_range"

    def __init__(self, source: int, offset: int, sink: int, sink_offset: int) -> None:
        self._source = source
        self._offset = offset
        self._sink = sink
        self._sink_offset = sink_offset

    @classmethod
    def between(cls, reader: FileReader, writer: FileWriter) -> FileToFile | None:
        """The route between the two, if they have one."""
        source, sink = reader.file, writer.file
        if not copy_file_range.AVAILABLE or source is None or sink is None or reader.total is None:
            return None
        if reader.offset is None or writer.offset is None or source.direct or sink.direct:
            return None
        return cls(source.fd, reader.offset, sink.fd, writer.offset)

    async def run(self, progress: Progress) -> bool:
        loop = current_loop()
        worker = Worker(loop)
        try:
            while progress.left and not progress.ended:
                await progress.limiter.wait()
                await loop.step()
                try:
                    count = await worker.run(self._copy, progress, progress.limiter.step(min(progress.left, _TURN)))
                except OSError as error:
                    if error.errno in REFUSALS and not is_from_handler(error):
                        return False
                    # The kernel does not say which file has failed; a full disk can only be the sink's.
                    progress.fail("sink", error)
                progress.limiter.moved(count)
                progress.ended = not count
        finally:
            worker.end()
        return True

    def _copy(self, progress: Progress, count: int) -> int:
        """In a worker thread: copy up to ``count`` bytes, and count them."""
        moved = progress.bytes_moved
        copied = copy_file_range.copy_file_range(
            self._source, self._sink, count, self._offset + moved, self._sink_offset + moved
        )
        progress.bytes_moved += copied
        return copied
