"""Socket → file: received into one reused buffer, written in a worker thread.

A write into the page cache waits when there are too many dirty pages (``balance_dirty_pages``), so it never runs in the
event loop; and nothing received is held back while the next bytes are waited for, so a cancellation loses none.
"""

from __future__ import annotations

import os
from typing import final

from ._connection import Connection
from ._errors import BrokenResourceError, TruncatedError, broken
from ._kernel.fd import FileKind
from ._opened import OpenFile

# One hop to a worker thread (110-190 µs) a MiB: a quarter of what the write itself takes.
BUFFER = 1 << 20


@final
class SocketToFile:
    """One transfer from a connection into a file. ``bytes_moved`` counts what the file has; read it at any time."""

    __slots__ = ("_connection", "_count", "_file", "_offset", "bytes_moved", "route")

    def __init__(self, connection: Connection, file: OpenFile, offset: int | None, count: int | None) -> None:
        """Receive ``count`` bytes (``None``: up to EOF) into ``file`` at ``offset`` (``None``: where it stands).

        :raises ValueError: a negative number, or an offset into what has none
        """
        if (offset or 0) < 0 or (count is not None and count < 0):
            raise ValueError(f"offset and count must not be negative: {offset}, {count}")
        if offset is not None and (file.kind is not FileKind.REGULAR or file.append):
            raise ValueError(f"{file.name} is written at its end only; it takes no offset")
        self._connection = connection
        self._file = file
        self._offset = offset
        self._count = count
        self.bytes_moved = 0
        self.route = "read-send"

    async def run(self) -> None:
        """Receive it all.

        :raises TruncatedError: EOF came before ``count`` bytes
        :raises BrokenResourceError: the connection or the file failed; the message says which and how far it was
        """
        connection = self._connection
        connection.begin_receiving()
        try:
            await self._run()
        finally:
            connection.is_receiving = False
            if self.bytes_moved:
                connection.routes[self.route] += 1

    async def _run(self) -> None:
        left = self._count
        buffer = memoryview(bytearray(BUFFER if left is None else max(1, min(BUFFER, left))))
        while left is None or left > 0:
            room = len(buffer) if left is None else min(len(buffer), left)
            received = await self._receive(buffer[:room])
            if not received:
                if left is None:
                    break
                raise self._truncated()
            await self._write(buffer[:received])
            if left is not None:
                left -= received

    async def _receive(self, buffer: memoryview) -> int:
        """What has arrived, as soon as something has; 0 at EOF."""
        connection = self._connection
        await connection.loop.step()
        while True:
            connection.life.check_receiving()  # it may have been closed while the file was written
            try:
                count = connection.sock.recv_into(buffer)
                break
            except BlockingIOError:
                await connection.readiness.wait_readable()
            except OSError as error:
                raise connection.receive_failed(error) from error
        connection.receive_calls += 1
        connection.received_bytes += count
        if not count:
            connection.life.received_nothing()
        return count

    async def _write(self, data: memoryview) -> None:
        progress = [0]
        try:
            await self._connection.loop.run_in_thread(self._write_all, data, progress)
        except OSError as error:
            lost = len(data) - progress[0]
            raise broken(
                f"writing {self._file.name} failed; it has {self.bytes_moved + progress[0]} bytes, "
                f"and {lost} that had been received are lost",
                error,
            ) from error
        finally:
            self.bytes_moved += progress[0]

    def _write_all(self, data: memoryview, progress: list[int]) -> None:
        """In a worker thread: write it all, however short the writes are."""
        absolute = self._offset is not None and self._file.kind is FileKind.REGULAR and not self._file.append
        while progress[0] < len(data):
            rest = data[progress[0] :]
            if absolute:
                assert self._offset is not None
                progress[0] += os.pwrite(self._file.fd, rest, self._offset + self.bytes_moved + progress[0])
            else:
                progress[0] += os.write(self._file.fd, rest)

    def _truncated(self) -> BrokenResourceError:
        position = None if self._offset is None else self._offset + self.bytes_moved
        return TruncatedError(
            f"the peer finished after {self.bytes_moved} of {self._count} bytes",
            bytes_moved=self.bytes_moved,
            position=position,
            path=self._file.name,
        )
