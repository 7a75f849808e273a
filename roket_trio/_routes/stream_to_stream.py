"""Any source of bytes → any sink: read and send with one reused buffer.

For everything that has no route of its own: TLS, buffered and other wrappers, memory, process pipes, other libraries'
sockets. A wrapped stream is read and written through its own methods only, so what it has buffered goes first.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn, final

import anyio
import anyio.abc
import trio

from .._connection.connection import Connection
from .._connection.ended_by_close import ended_by_close
from .._errors import BrokenResourceError, TruncatedError
from .._files import sink_for, source_for
from .._files.descriptor import OpenFile
from .._files.objects import ObjectSource, check_object
from .._files.sinks import ObjectSink, Sink
from .._files.sources import Source
from .._files.worker import Worker
from .._kernel.fd import FileKind
from .._loops import current_loop
from .base import Route
from .rate_limit import RateLimiter
from .send import send_fairly

_BUFFER = 64 << 10
# A file's chunk in a worker thread: a hop costs 40-190 µs.
_FILE_BUFFER = 256 << 10


class Reader(ABC):
    """A source, read as far as a transfer needs it."""

    name: str
    is_ours = False
    connection: Connection | None = None
    may_be_short = False
    """A file: it gives what it has, if that is less than was asked for."""

    def total(self) -> int | None:
        """How many bytes there will be, if that is known: a regular file is read to the size it has now."""
        return None

    def has_no_more(self) -> bool:
        """Whether an end that comes before the :meth:`total` is the true one nevertheless."""
        return False

    def has_again(self, count: int) -> bool:
        """Whether the last ``count`` bytes that were read can be had again: the source stands before them now, or will
        when the transfer is left."""
        return False

    @abstractmethod
    async def read(self, room: int) -> bytes | memoryview:
        """At most ``room`` bytes (if the source can be asked for so few); nothing at EOF."""

    def close(self) -> None:  # noqa: B027 - most ends need nothing
        """The transfer is over, or interrupted."""


class Writer(ABC):
    """A sink, written as far as a transfer needs it."""

    name: str
    is_ours = False
    is_exact = True
    """Whether :attr:`written` is right after a failure too."""
    connection: Connection | None = None

    @abstractmethod
    async def write(self, data: memoryview) -> None:
        """Write it all; :attr:`written` tells how far it came."""

    def __init__(self) -> None:
        self.written = 0

    def sending(self, total: int | None, moved: int) -> AbstractContextManager[None]:
        """Enter it for the length of a run; ``moved`` of ``total`` bytes were moved by earlier ones."""
        return nullcontext()

    def close(self) -> None:  # noqa: B027 - most ends need nothing
        """The transfer is over, or interrupted."""


@final
class StreamToStream(Route):
    """The transfer between two ends of whatever kind."""

    __slots__ = ("_count", "_reader", "_unsent", "_writer")

    def __init__(self, reader: Reader, writer: Writer, count: int | None, limiter: RateLimiter, name: str) -> None:
        """Move ``count`` bytes (``None``: up to EOF)."""
        super().__init__(name, limiter)
        self._reader = reader
        self._writer = writer
        self._count = count
        self._unsent = b""

    async def run(self) -> None:
        """Move what is left to be moved.

        :raises TruncatedError: EOF came before ``count`` bytes
        :raises BrokenResourceError: one side failed; ``side`` says which
        """
        with self._writer.sending(self._count, self.bytes_moved):
            try:
                with ended_by_close(
                    *(end.connection for end in (self._reader, self._writer) if end.connection is not None)
                ):
                    await current_loop().step()
                    if not (self._reader.is_ours and self._writer.is_ours):
                        self.unknown = "what a foreign stream took or gave"  # should it be interrupted
                    await self._run()
                self.unknown = None
            finally:
                self._writer.close()
                self._reader.close()

    async def _run(self) -> None:
        await self._write(memoryview(self._unsent))
        total = self._reader.total()
        until = None if total is None else self.bytes_moved + total
        if self._count is not None:
            until = self._count if until is None else min(until, self._count)
        while until is None or self.bytes_moved < until:
            await self.limiter.wait()
            room = _FILE_BUFFER if until is None else min(_FILE_BUFFER, until - self.bytes_moved)
            try:
                data = await self._reader.read(self.limiter.step(room))
            except OSError as error:
                raise self.failed("source", self._reader.name, error) from error
            except _BROKEN as error:
                self._blame("source", self._reader.name, error, 0)
            if not data:
                if until is None or (total is None and self._reader.may_be_short) or self._reader.has_no_more():
                    return
                raise TruncatedError(
                    f"{self._reader.name} ended after {self.bytes_moved} of {until} bytes", bytes_moved=self.bytes_moved
                )
            self.limiter.moved(len(data))
            await self._write(memoryview(data))

    async def _write(self, data: memoryview) -> None:
        writer = self._writer
        writer.written = 0
        try:
            await writer.write(data)
        except OSError as error:
            self._took(data)
            if not writer.is_exact:
                self.unknown = f"what {writer.name} took of the last piece"
            failure = self.failed("sink", writer.name, error)
            failure.bytes_lost = len(self._unsent)
            raise failure from error
        except _BROKEN as error:
            self._took(data)
            self._blame("sink", writer.name, error, len(self._unsent))
        except BaseException:
            self._took(data)
            raise
        self._took(data)

    def _took(self, data: memoryview) -> None:
        """Count what the sink has of ``data``, and keep the rest unless the source has it still."""
        self.bytes_moved += self._writer.written
        rest = data[self._writer.written :]
        self._unsent = b"" if not rest or self._reader.has_again(len(rest)) else bytes(rest)

    def _blame(self, side: str, name: str, error: Exception, lost: int) -> NoReturn:
        """Raise what says that a stream is broken, which may be another library's word for it."""
        if isinstance(error, BrokenResourceError):
            failure = error
        else:
            cause = error.__cause__
            verb = "reading" if side == "source" else "writing"
            failure = BrokenResourceError(f"{verb} {name} failed: {cause or type(error).__name__}")
            failure.errno = cause.errno if isinstance(cause, OSError) else None
            failure.__cause__ = error
        failure.side = side
        failure.bytes_moved = self.bytes_moved
        failure.bytes_lost = lost
        failure.add_note(f"the {side} failed after {self.bytes_moved} bytes were moved")
        raise failure


_BROKEN = (anyio.BrokenResourceError, trio.BrokenResourceError)


# --- the ends that are ours ------------------------------------------------------------------------------------------


@final
class FileReader(Reader):
    """A file, pipe or device, or an object that reads like one."""

    is_ours = True

    def __init__(self, file: OpenFile | Any) -> None:
        """:raises TypeError: it cannot be read"""
        if not isinstance(file, OpenFile):
            check_object(file, "read")
        self.name = file.name if isinstance(file, OpenFile) else type(file).__name__
        self._file = file
        self._source: Source | None = None
        self._worker: Worker | None = None
        self._buffer = memoryview(b"")
        self._has_positions = isinstance(file, OpenFile) and file.kind is FileKind.REGULAR
        self.may_be_short = self._has_positions or not isinstance(file, OpenFile)

    def total(self) -> int | None:
        if not self._has_positions or not self._file.size:  # one of size 0 may be generated: only reading tells
            return None
        return max(0, self._file.size - self._file.settle())

    def has_no_more(self) -> bool:
        return self._has_positions and bool(self._file.ends_at(self._file.settle()))

    def has_again(self, count: int) -> bool:
        if type(self._file) is io.BytesIO:  # to seek back in others may take long
            self._file.seek(-count, io.SEEK_CUR)
            return True
        return self._has_positions

    async def read(self, room: int) -> memoryview:
        loop = current_loop()
        if self._source is None:
            self._source = source_for(self._file) if isinstance(self._file, OpenFile) else ObjectSource(self._file)
            self._worker = Worker(loop)
            self._buffer = memoryview(bytearray(_FILE_BUFFER))
        assert self._worker is not None
        await loop.step()
        count = self._source.readinto_now(self._buffer[:room])
        if count is None:
            count = await self._source.readinto(self._buffer[:room], self._worker)
        return self._buffer[:count]

    def close(self) -> None:
        if self._source is not None and self._worker is not None:
            self._source.release()
            self._worker.end()
            self._source = None


@final
class FileWriter(Writer):
    """A file, pipe or device, or an object that writes like one."""

    is_ours = True

    def __init__(self, file: OpenFile | Any) -> None:
        """:raises TypeError: it cannot be written"""
        super().__init__()
        if not isinstance(file, OpenFile):
            check_object(file, "write")
        self.name = file.name if isinstance(file, OpenFile) else type(file).__name__
        self._file = file
        self.is_exact = isinstance(file, OpenFile) or ObjectSink.is_exact(file)
        self._sink: Sink | None = None
        self._worker: Worker | None = None

    async def write(self, data: memoryview) -> None:
        if not data:
            return
        if self._sink is None:
            self._sink = sink_for(self._file) if isinstance(self._file, OpenFile) else ObjectSink(self._file)
            self._worker = Worker(current_loop())
        assert self._worker is not None
        self._sink.progress = 0
        try:
            await self._sink.write(data, self._worker)
        finally:
            self.written = self._sink.progress

    def close(self) -> None:
        if self._sink is not None and self._worker is not None:
            self._sink.release()
            self._worker.end()
            self._sink = None


@final
class ConnectionReader(Reader):
    """One of our sockets."""

    is_ours = True

    connection: Connection

    def __init__(self, connection: Connection) -> None:
        self.name = "the connection"
        self.connection = connection
        self._buffer = memoryview(bytearray(_BUFFER))

    async def read(self, room: int) -> memoryview:
        connection = self.connection
        count = await connection.receive(connection.sock.recv_into, self._buffer[:room])
        return self._buffer[:count]


@final
class ConnectionWriter(Writer):
    """One of our sockets: all of the transfer is one item, so that an interruption cuts it."""

    is_ours = True

    connection: Connection

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.name = "the connection"
        self.connection = connection

    def sending(self, total: int | None, moved: int) -> AbstractContextManager[None]:
        return self.connection.sending(total, sent=moved, by=self)

    async def write(self, data: memoryview) -> None:
        try:
            await send_fairly(self.connection, data, self._accepted)
        except OSError as error:
            raise self.connection.send_failed(error) from error

    def _accepted(self, count: int) -> None:
        self.written += count

    def close(self) -> None:
        self.connection.routed("read-send")


# --- the ends that are not ours --------------------------------------------------------------------------------------


@final
class ForeignReader(Reader):
    """Another library's stream, or a wrapper: AnyIO's verbs if it has them, else Trio's."""

    def __init__(self, stream: Any) -> None:
        """:raises TypeError: it is nothing that can be read"""
        self.name = type(stream).__name__
        self._takes_size = not isinstance(stream, anyio.abc.ObjectReceiveStream)
        self._receive = getattr(stream, "receive", None)
        self._receive_some = getattr(stream, "receive_some", None)
        if self._receive is None and self._receive_some is None:
            raise TypeError(f"expected a file or a byte stream to read from, not {type(stream).__name__}")

    @property
    def takes_size(self) -> bool:
        """Whether it can be asked for no more than so many bytes; a stream of objects gives what it has."""
        return self._takes_size

    async def read(self, room: int) -> bytes:
        if self._receive is None:
            assert self._receive_some is not None
            received: bytes = await self._receive_some(min(room, _BUFFER))
            return received
        try:
            while True:
                received = await (self._receive(min(room, _BUFFER)) if self._takes_size else self._receive())
                if received:  # an object may be empty; the end is an exception
                    return received
        except anyio.EndOfStream:
            return b""


@final
class ForeignWriter(Writer):
    """Another library's stream, or a wrapper."""

    def __init__(self, stream: Any) -> None:
        """:raises TypeError: it is nothing that can be written"""
        super().__init__()
        self.name = type(stream).__name__
        send = getattr(stream, "send", None) or getattr(stream, "send_all", None)
        # A socket's own send, Trio's too, may take a part and say so, which nobody would see; it has no aclose.
        if send is None or not hasattr(stream, "aclose"):
            raise TypeError(f"expected a file or a byte stream to write to, not {type(stream).__name__}")
        self._send = send

    async def write(self, data: memoryview) -> None:
        if data:
            # A stream may keep what it is given (a memory stream does); the buffer is reused.
            await self._send(bytes(data))
            self.written = len(data)
