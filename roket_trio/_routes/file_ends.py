"""A file, pipe or device, or an object that reads or writes like one, as the source or the sink of the plain loop."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from typing import Any, final

from .._files.descriptor import OpenFile
from .._files.objects import ObjectSource, check_object
from .._files.reading import source_for
from .._files.sinks import ObjectSink, PolledSink, Sink
from .._files.sources import Source
from .._files.worker import Worker
from .._files.writing import sink_for
from .._kernel.fd import FileKind
from .._kernel.signal_handlers import is_from_kernel
from .._loops import current_loop
from .counts import checked_offset
from .ends import Reader, Writer


@final
class FileReader(Reader):
    """A file that is read. The position of a regular one is left alone."""

    __slots__ = ("_moved", "_object", "_old_position", "_source", "_start", "_worker", "file")

    is_file = True

    def __init__(self, file: OpenFile | Any, offset: int | None = None) -> None:
        """Read ``file`` as :func:`~roket_trio._files.opened.opened_to_read` opens it.

        :param offset: where to begin, leaving the position alone; ``None``: where it stands
        :raises TypeError: it cannot be read
        :raises ValueError: a negative offset, one beyond the end, or one into what has none
        """
        offset = None if offset is None else checked_offset(offset)
        self.connection = self.offset = self.path = self.total = None
        self.file: OpenFile | None = None
        self._object: Any = file
        if isinstance(file, OpenFile):
            self.file = file
            self.name, self.path = file.name, file.path
            self._find_total(file, offset)
        else:
            self.name = type(file).__name__
            check_object(file, "read")
        # Where an object is to be read from; None: where it stands.
        self._start = None if self.file is not None else offset

    def _find_total(self, file: OpenFile, offset: int | None) -> None:
        if file.kind is not FileKind.REGULAR:
            if offset:
                raise ValueError(f"{self.name} is no regular file; it has no offsets")
            return
        self.offset = file.settle() if offset is None else offset
        if file.size:  # a file of size 0 may be generated (/proc) and have content
            self.total = max(0, file.size - self.offset)
            if offset is not None and offset > file.size:
                raise ValueError(f"offset {offset} is beyond the end of {self.name}: it has {file.size} bytes")

    def seek(self, position: int) -> None:
        if self.file is not None:
            self.file.seek(position)

    def go_to(self, moved: int) -> None:
        self._moved = moved
        self._source: Source | None = None
        self._worker: Worker | None = None
        self._old_position: int | None = None  # where the object stood

    def read_now(self, size: int) -> memoryview | None:
        if self._source is None:
            if self._start is not None:
                return None
            self._open_source()
        assert self._source is not None
        count = self._source.readinto_now(self._buffer[:size])
        return None if count is None else self.filled(count)

    async def read(self, size: int) -> memoryview | None:
        if self._source is None:
            # In a thread: to seek in a compressed file may take long.
            self._old_position = await current_loop().run_in_thread(self._seek_to_start)
            self._open_source()
            return None
        assert self._worker is not None
        return self.filled(await self._source.readinto(self._buffer[:size], self._worker))

    def _open_source(self) -> None:
        self._worker = Worker(current_loop())
        if self.file is None:
            self._source = ObjectSource(self._object)
        else:
            self._source = source_for(self.file, None if self.offset is None else self.offset + self._moved)

    def _seek_to_start(self) -> int | None:
        """In a worker thread: go to the start; returns where the object stood, ``None`` if it cannot seek."""
        file = self._object
        if not file.seekable():
            if self._start:
                raise ValueError(f"{self.name} cannot seek; it takes no offset")
            return None
        position: int = file.tell()
        file.seek(self._start)
        return position

    def has_again(self, count: int) -> bool:
        if self.file is not None:
            return self.offset is not None
        if self._start is not None:
            return self._old_position is not None
        if type(self._object) is io.BytesIO and not self._object.closed:  # to seek back in others may take long
            self._object.seek(-count, io.SEEK_CUR)
            return True
        return False

    def may_end_at(self, moved: int) -> bool:
        if self.file is None:
            return True
        if self.total is None or self.offset is None:
            return self.file.kind is not FileKind.STREAM
        return bool(self.file.ends_at(self.offset + moved))

    async def release(self) -> None:
        if self._source is not None and self._worker is not None:
            self._source.release()
            self._worker.end()
        if self._old_position is not None:
            position, self._old_position = self._old_position, None
            await current_loop().run_in_thread(self._object.seek, position)


@final
class FileWriter(Writer):
    """A file that is written. The position of a regular one is left alone, unless it is opened for appending."""

    __slots__ = ("_object", "_position", "_sink", "_worker", "file")

    is_file = True
    writes_behind = True

    def __init__(self, file: OpenFile | Any, offset: int | None = None) -> None:
        """Write ``file`` as :func:`~roket_trio._files.opened.opened_to_write` opens it.

        :param offset: where to begin; ``None``: where it stands
        :raises TypeError: it cannot be written
        :raises ValueError: a negative offset, or one into what has none
        """
        offset = None if offset is None else checked_offset(offset)
        self.connection = self.offset = self.path = None
        self.file: OpenFile | None = None
        self._object: Any = file
        self.is_exact = True
        if isinstance(file, OpenFile):
            self.file = file
            self.name, self.path = file.name, file.path
            if file.kind is FileKind.REGULAR and not file.append:
                self.offset = file.settle() if offset is None else offset
        else:
            self.name = type(file).__name__
            check_object(file, "write")
            self.is_exact = ObjectSink.is_exact(file)
        if offset is not None and self.offset is None:
            raise ValueError(f"{self.name} is written where it stands only; it takes no offset")
        self._sink: Sink | None = None
        self._worker: Worker | None = None
        self._position = 0

    @property
    def is_pipe(self) -> bool:
        """Whether a write may have to wait for another program."""
        return self.file is not None and self.file.kind is FileKind.STREAM

    def seek(self, position: int) -> None:
        if self.file is not None:
            self.file.seek(position)

    def go_to(self, moved: int) -> None:
        if self.offset is not None:
            self._position = self.offset + moved

    async def write(self, data: memoryview, accepted: Callable[[int], None]) -> None:
        if self._worker is None:
            self._worker = Worker(current_loop())
        if self.offset is not None:
            await self._worker.run(self._write_at, data, accepted)
            return
        if self._sink is None:
            self._sink = sink_for(self.file) if self.file is not None else ObjectSink(self._object)
        if isinstance(self._sink, PolledSink):
            try:
                count = self._sink.write_now(data)
            except BlockingIOError as error:
                if not is_from_kernel(error):
                    raise
                await self._sink.wait_writable(self._worker.loop)
                return
            accepted(count)
            return
        counts = self._sink.counts
        counts.item_sent = 0
        try:
            await self._sink.write(data, self._worker)
        finally:
            accepted(max(counts.item_sent, ~counts.item_sent))  # the complement, where a handler has raised

    def begin_writing(self, data: memoryview, accepted: Callable[[int], None]) -> bool:
        return (
            self.offset is not None and self._worker is not None and self._worker.begin(self._write_at, data, accepted)
        )

    async def finish_writing(self) -> None:
        assert self._worker is not None
        await self._worker.finish()

    def _write_at(self, data: memoryview, accepted: Callable[[int], None]) -> None:
        """In a worker thread: write all of ``data``."""
        assert self.file is not None
        while data:
            count = os.pwrite(self.file.fd, data, self._position)
            if not count:  # pwrite(2) does not say that it may; to ask again could go on for ever
                raise OSError(errno.EIO, "the file takes no more bytes")
            self._position += count
            accepted(count)
            data = data[count:]

    def release(self) -> None:
        if self._sink is not None:
            self._sink.release()
            self._sink = None
        if self._worker is not None:
            self._worker.end()
            self._worker = None
