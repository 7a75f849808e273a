"""What both ends of ``--digest`` need: pieces through one buffer, and the digest of what was there before."""

from __future__ import annotations

import os
from typing import Any, final

from anyio import to_thread

from ..._files import FileReadStream, FileWriteStream

# What is read, hashed and passed on at a time: a hop to a worker thread, for the write, costs 40-190 µs.
PIECE = 1 << 20


@final
class Inflow:
    """A stream, received into a buffer that is used again: our sockets do that themselves, TLS is copied."""

    def __init__(self, stream: Any) -> None:
        self._receive_into = getattr(stream, "receive_into", None)
        self._stream = stream

    async def into(self, buffer: memoryview) -> int:
        """At least one byte.

        :raises EndOfStream: the peer has finished
        """
        if self._receive_into is not None:
            count: int = await self._receive_into(buffer)
            return count
        data = await self._stream.receive(min(len(buffer), 1 << 16))
        buffer[: len(data)] = data
        return len(data)


def reader_of(fd: int) -> FileReadStream:
    """A descriptor as a stream; the descriptor stays open."""
    return FileReadStream(open(fd, "rb", buffering=0, closefd=False))


def writer_of(fd: int) -> FileWriteStream:
    """Likewise."""
    return FileWriteStream(open(fd, "wb", buffering=0, closefd=False))


async def digest_prefix(fd: int, start: int, count: int, into: Any) -> bool:
    """Hash ``count`` bytes of a regular file from ``start``, in worker threads, without moving its position.

    :returns: False: there are fewer
    """
    done = 0
    while done < count:
        took = await to_thread.run_sync(_digest_some, fd, start + done, min(count - done, 8 * PIECE), into)
        if not took:
            return False
        done += took
    return True


def _digest_some(fd: int, offset: int, count: int, into: Any) -> int:
    data = os.pread(fd, count, offset)
    into.update(data)
    return len(data)
