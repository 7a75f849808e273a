"""What both ends of ``--digest`` need to move pieces: one buffer, streams over descriptors, the digest of a prefix."""

from __future__ import annotations

import os
from typing import Protocol

from anyio import to_thread

from ... import FileReadStream, FileWriteStream, SocketStream, TLSStream

# How much is read, hashed and written at a time (bytes). A write is a hop to a worker thread, of 40-190 µs.
PIECE = 1 << 20


class Digest(Protocol):
    """A digest of hashlib."""

    def update(self, data: memoryview | bytes, /) -> None: ...
    def digest(self) -> bytes: ...
    def hexdigest(self) -> str: ...


async def receive_into(stream: SocketStream | TLSStream, buffer: memoryview) -> int:
    """Receive at least one byte into ``buffer``; returns the count. What TLS has decrypted is copied there.

    :raises EndOfStream: the peer has finished
    """
    if isinstance(stream, SocketStream):
        return await stream.receive_into(buffer)
    data = await stream.receive(min(len(buffer), 1 << 16))
    buffer[: len(data)] = data
    return len(data)


def reader_of(fd: int) -> FileReadStream:
    """A stream that reads a descriptor and leaves it open."""
    return FileReadStream(open(fd, "rb", buffering=0, closefd=False))


def writer_of(fd: int) -> FileWriteStream:
    """A stream that writes to a descriptor and leaves it open."""
    return FileWriteStream(open(fd, "wb", buffering=0, closefd=False))


async def digest_prefix(fd: int, start: int, count: int, digest: Digest) -> bool:
    """Add ``count`` bytes of a regular file, from offset ``start``, to the digest. The file's position stays.

    :returns: False: the file is shorter
    """
    done = 0
    while done < count:
        took = await to_thread.run_sync(_read_and_digest, fd, start + done, min(count - done, 8 * PIECE), digest)
        if not took:
            return False
        done += took
    return True


def _read_and_digest(fd: int, offset: int, count: int, digest: Digest) -> int:
    """Blocks."""
    data = os.pread(fd, count, offset)
    digest.update(data)
    return len(data)
