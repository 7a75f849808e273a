"""Socket → file: splice through a pipe, in a worker thread while data flows, in the event loop while it does not.

A write into the page cache waits when there are too many dirty pages (``balance_dirty_pages``), so it never runs in the
event loop. The thread takes what has arrived and writes it until nothing has come for a millisecond, then gives its
place up; the loop waits. Measured (128 MiB, against a blocking splice loop): 1.07 so, 1.31 with a hop for each pipe's
fill, 1.37 with ``recv_into`` and a hop for each MiB.

The thread never returns while the pipe holds something, and holds nothing back while the next bytes are waited for: a
cancellation loses nothing that had arrived.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
from time import monotonic
from typing import Any, final

from .._connection.connection import Connection
from .._connection.ended_by_close import ended_by_close
from .._errors import BrokenResourceError, TruncatedError
from .._files import sink_for
from .._files.descriptor import OpenFile
from .._files.objects import check_object
from .._files.sinks import ObjectSink, PolledSink
from .._files.worker import Worker
from .._kernel import splice
from .._kernel.fd import REFUSALS, FileKind
from .._kernel.poll import is_readable
from .base import Route, checked_count, checked_offset
from .rate_limit import RateLimiter

# The buffer of the plain route, and what is peeked at a time for a pipe (pipe(7): it holds 64 KiB).
BUFFER = 256 << 10
PIPE_BUFFER = 64 << 10

# How long the thread waits for more before it gives its place up (milliseconds), and after how much time it does in any
# case (seconds), so that a cancellation and the other transfers wait no longer than that.
_IDLE_MS = 1
_TURN_SECONDS = 0.02


@final
class SocketToFile(Route):
    """The transfer from a connection into a file. ``bytes_moved`` counts what the file has."""

    __slots__ = (
        "_connection",
        "_count",
        "_ended",
        "_file",
        "_is_stopped",
        "_name",
        "_object",
        "_offset",
        "_room",
        "_taking",
        "_unwritten",
    )

    def __init__(
        self, connection: Connection, file: OpenFile | Any, offset: int | None, count: int | None, limiter: RateLimiter
    ) -> None:
        """Receive ``count`` bytes (``None``: up to EOF) into ``file`` at ``offset`` (``None``: where it stands).

        :raises ValueError: a negative number, or an offset into what has none
        """
        super().__init__("splice", limiter)
        offset, count = None if offset is None else checked_offset(offset), checked_count(count)
        self._file = file if isinstance(file, OpenFile) else None
        self._object: Any = None if isinstance(file, OpenFile) else file
        self._name = file.name if isinstance(file, OpenFile) else type(file).__name__
        self._connection = connection
        self._count = count
        self._offset: int | None = None
        if self._file is None:
            check_object(file, "write")
        elif self._file.kind is FileKind.REGULAR and not self._file.append:
            self._offset = self._file.settle() if offset is None else offset
        if offset is not None and self._offset is None:
            raise ValueError(f"{self._name} is written where it stands only; it takes no offset")
        # What the thread finds, for the loop to see when it is back.
        self._ended = False
        # What was received, and not yet written when it was interrupted.
        self._unwritten = b""
        self._room = 0
        self._is_stopped = False
        # Held for the moment in which the thread takes something: a close that drops what lies in the queue must not
        # drop a part of it and leave the thread what comes behind.
        self._taking = threading.Lock()
        if not splice.AVAILABLE or self._file is None or self._offset is None or self._file.direct:
            self.name = "read-send"

    @property
    def position(self) -> int | None:
        """Where the next byte will stand in the file; ``None`` if it has no positions."""
        return None if self._offset is None else self._offset + self.bytes_moved

    async def run(self) -> None:
        """Receive what is left to be received.

        :raises TruncatedError: EOF came before ``count`` bytes
        :raises BrokenResourceError: the connection or the file failed; the message says which and how far it was
        """
        connection = self._connection
        with connection.receiving():
            try:
                with ended_by_close(connection):
                    await self._run()
            finally:
                if self.bytes_moved:
                    connection.routed(self.name)
        if self._ended:
            connection.life.received_nothing()
            if self._count is not None and self.bytes_moved < self._count:
                raise self._truncated()

    async def _run(self) -> None:
        connection = self._connection
        await connection.loop.step()
        connection.life.check_receiving()
        if self._unwritten:
            await self._write_unwritten()
        if self.name == "splice" and not await self._splice():
            connection.refused("splice")
            self.fall_back("read-send")
        if self.name == "splice" or not self._left() or self._ended:
            return
        if self._file is not None and self._file.kind is FileKind.STREAM:
            await self._receive_into_pipe(self._file)
        else:
            await self._receive_and_write()

    async def _write_unwritten(self) -> None:
        """What the last run had received and could not write."""
        unwritten, self._unwritten = self._unwritten, b""
        worker = Worker(self._connection.loop)
        try:
            await self._write_out(unwritten, worker)
        finally:
            worker.end()

    def _left(self) -> int:
        """How much may still come; a large number when nobody knows."""
        return 1 << 62 if self._count is None else self._count - self.bytes_moved

    # --- splice ------------------------------------------------------------------------------------------------------

    async def _splice(self) -> bool:
        """Take turns with a worker thread until all is done, or return False where the kernel refuses."""
        connection = self._connection
        try:
            pipe = splice.Pipe()
        except OSError:  # no descriptor is left; the plain route needs none
            return False
        worker = Worker(connection.loop)
        try:
            while self._left() and not self._ended:
                await self.limiter.wait()
                connection.life.check_open()
                moved = self.bytes_moved
                self._room = self.limiter.step(self._left())
                # Otherwise asyncio's loop wakes for all that arrives, 500 times in 128 MiB: 1.3 times the CPU time.
                connection.readiness.pause_reading()
                try:
                    with connection.descriptor_users.using(self._stop):
                        outcome = await worker.run(self._pump, pipe)
                finally:
                    connection.readiness.resume_reading()
                self.limiter.moved(self.bytes_moved - moved)
                if outcome == "refused":
                    await self._write_out(pipe.take_out(), worker)
                    return False
                connection.life.check_open()
                # Asked again, here: what came since the thread looked may have been told to the loop already.
                if outcome == "idle" and not is_readable(connection.sock):
                    await connection.readiness.wait_readable()
                else:
                    await connection.loop.step()
            return True
        finally:
            worker.end()
            pipe.close()

    def _stop(self) -> None:
        """The connection is being closed: from now on nothing more is taken off the socket."""
        with self._taking:
            self._is_stopped = True

    def _pump(self, pipe: splice.Pipe) -> str:
        """In a worker thread: socket → pipe → file, for one turn. Returns why it ended."""
        sock = self._connection.sock.fileno()
        until = monotonic() + _TURN_SECONDS
        poll: select.poll | None = None
        while self._room:
            try:
                with self._taking:
                    if self._is_stopped:
                        break
                    taken = pipe.fill(sock, self._room)
            except BlockingIOError:
                if poll is None:
                    poll = select.poll()
                    poll.register(sock, select.POLLIN)
                if not poll.poll(_IDLE_MS):
                    return "idle"
                continue
            except OSError as error:
                if error.errno in REFUSALS and not self._is_stopped:
                    return "refused"
                raise self._source_failed(error) from error
            if not taken:
                self._ended = True
                break
            self._connection.received(taken)
            self._room -= taken
            if not self._empty(pipe):
                return "refused"
            if monotonic() >= until:
                break
        return "turn over"

    def _empty(self, pipe: splice.Pipe) -> bool:
        """In a worker thread: write what the pipe holds. False where the kernel refuses."""
        assert self._file is not None
        assert self._offset is not None
        while pipe.held:
            try:
                given = pipe.empty_into_file(self._file.fd, self._offset + self.bytes_moved)
                if not given:  # splice(2) does not say that it may; to ask again could go on for ever
                    raise OSError(errno.EIO, "the file takes no more bytes")
                self.bytes_moved += given
            except OSError as error:
                if error.errno in REFUSALS:
                    return False
                raise self._write_failed(error, pipe.take_out()) from error
        return True

    # --- the plain route ---------------------------------------------------------------------------------------------

    async def _receive_and_write(self) -> None:
        connection = self._connection
        buffer = memoryview(bytearray(max(1, min(BUFFER, self._left()))))
        worker = Worker(connection.loop)
        try:
            while self._left():
                await self.limiter.wait()
                await connection.loop.step()
                connection.life.check_open()
                try:
                    count = connection.sock.recv_into(buffer[: self.limiter.step(min(len(buffer), self._left()))])
                except BlockingIOError:
                    await connection.readiness.wait_readable()
                    continue
                except OSError as error:
                    raise self._source_failed(error) from error
                if not count:
                    self._ended = True
                    return
                connection.received(count)
                await self._write_out(buffer[:count], worker)
                self.limiter.moved(count)
        finally:
            worker.end()

    async def _receive_into_pipe(self, file: OpenFile) -> None:
        """Give a pipe what it takes, and only then take that off the socket: a cancellation loses nothing."""
        connection = self._connection
        buffer = memoryview(bytearray(min(PIPE_BUFFER, self._left())))
        sink = PolledSink(file)
        try:
            while self._left():
                await self.limiter.wait()
                await connection.loop.step()
                connection.life.check_open()
                room = self.limiter.step(min(len(buffer), self._left()))
                try:
                    count = connection.sock.recv_into(buffer[:room], 0, socket.MSG_PEEK)
                except BlockingIOError:
                    await connection.readiness.wait_readable()
                    continue
                except OSError as error:
                    raise self._source_failed(error) from error
                if not count:
                    self._ended = True
                    return
                try:
                    written = sink.write_now(buffer[:count])
                except BlockingIOError:
                    await sink.wait_writable(connection.loop)
                    continue
                except OSError as error:
                    raise self._write_failed(error, b"") from error
                connection.sock.recv_into(buffer[:written])
                connection.received(written)
                self.bytes_moved += written
                self.limiter.moved(written)
        finally:
            sink.release()

    async def _write_out(self, data: memoryview | bytes, worker: Worker) -> None:
        """Write it all where the file was left; what cannot be written is kept, and counted as lost."""
        view = memoryview(data)
        if not view:
            return
        if self._offset is not None:
            await worker.run(self._write_at, view)
            return
        sink = sink_for(self._file) if self._file is not None else ObjectSink(self._object)
        try:
            await sink.write(view, worker)
        except OSError as error:
            self.bytes_moved += sink.progress
            if self._file is None and not ObjectSink.is_exact(self._object):
                self.unknown = f"what {self._name} took of the last piece"
            raise self._write_failed(error, view[sink.progress :]) from error
        except BaseException:  # only an object that takes its time is interrupted here
            self.bytes_moved += sink.progress
            self._unwritten = bytes(view[sink.progress :])
            raise
        finally:
            sink.release()
        self.bytes_moved += len(view)

    def _write_at(self, view: memoryview) -> None:
        """In a worker thread."""
        assert self._file is not None
        assert self._offset is not None
        done = 0
        while done < len(view):
            try:
                count = os.pwrite(self._file.fd, view[done:], self._offset + self.bytes_moved)
                if not count:  # pwrite(2) does not say that it may; to ask again could go on for ever
                    raise OSError(errno.EIO, "the file takes no more bytes")
            except OSError as error:
                raise self._write_failed(error, view[done:]) from error
            done += count
            self.bytes_moved += count

    def _source_failed(self, error: OSError) -> Exception:
        failure = self._connection.receive_failed(error)
        if isinstance(failure, BrokenResourceError):
            failure.side = "source"
            failure.bytes_moved = self.bytes_moved
        failure.add_note(f"{self.bytes_moved} bytes had been received into {self._name}")
        return failure

    def _write_failed(self, error: OSError, held: bytes | memoryview) -> BrokenResourceError:
        self._unwritten = bytes(held)
        failure = self.failed("sink", self._name, error)
        failure.bytes_lost = lost = len(held)
        failure.add_note(f"the file has {self.bytes_moved} bytes; {lost} that had been received are lost")
        return failure

    def _truncated(self) -> BrokenResourceError:
        return TruncatedError(
            f"the peer finished after {self.bytes_moved} of {self._count} bytes",
            bytes_moved=self.bytes_moved,
            position=self.position,
            path=None if self._file is None else self._file.path,
        )
