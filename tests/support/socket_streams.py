"""What the tests of ``SocketStream`` share."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Awaitable, Callable

from roket_trio import (
    SocketStream,
)
from support.waiting import BOUND, has_no_window


def has_arrived(sock: socket.socket) -> bool:
    """Wait until ``sock`` has something to read."""
    return bool(select.select([sock], [], [], BOUND)[0])


def fill(sock: socket.socket) -> int:
    """Send on a non-blocking socket until nothing moves any more, as the peer reads nothing; returns the count."""
    deadline = time.monotonic() + BOUND
    filled = 0
    while True:
        is_shut = has_no_window(sock)
        before = filled
        for size in (65536, 1):
            try:
                filled += sock.send(b"f" * size)
            except BlockingIOError:
                pass
        if is_shut and filled == before:
            return filled
        assert time.monotonic() < deadline, "the kernel takes more and more"
        if filled == before:
            time.sleep(0.001)


async def receive_exactly(stream: SocketStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += await stream.receive(count - len(data))
    return data


Receive = Callable[[SocketStream, int], Awaitable[bytes]]


async def by_receive(stream: SocketStream, count: int) -> bytes:
    return await stream.receive(count)


async def by_receive_into(stream: SocketStream, count: int) -> bytes:
    buffer = bytearray(count)
    return bytes(buffer[: await stream.receive_into(buffer)])


async def by_receive_some(stream: SocketStream, count: int) -> bytes:
    return await stream.receive_some(count)


RECEIVES = [by_receive, by_receive_into, by_receive_some]
