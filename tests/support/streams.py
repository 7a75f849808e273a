"""Our streams, made of the sockets of a test."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from roket_trio import ClosePolicy, CloseReport, EndOfStream, SocketStream, TLSStream, UNIXSocketStream

# Longer than any test waits: a close that ends before it was ended by something else.
PATIENT = ClosePolicy(linger_seconds=30)
# More than two sockets' buffers can hold.
ENDLESS = bytes(64 << 20)


async def adopt(sock: socket.socket, policy: ClosePolicy | None = None) -> SocketStream:
    kind = UNIXSocketStream if sock.family == socket.AF_UNIX else SocketStream
    return await kind.from_socket(sock, close_policy=policy or ClosePolicy())


@asynccontextmanager
async def stream_over(sock: socket.socket, policy: ClosePolicy | None = None) -> AsyncIterator[SocketStream]:
    """Our stream over ``sock``, aborted at the end if the test did not close it."""
    stream = await adopt(sock, policy)
    try:
        yield stream
    finally:
        stream.abort()


async def receive_to_end(stream: SocketStream) -> bytes:
    data = b""
    try:
        while True:
            data += await stream.receive(1 << 20)
    except EndOfStream:
        return data


def report_of(stream: SocketStream | TLSStream) -> CloseReport:
    """The report of a stream that has been closed."""
    assert stream.close_report is not None
    return stream.close_report
