"""What the tests of ``SocketStream`` share."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Awaitable, Callable

from roket_trio import (
    SocketStream,
)
from support.waiting import BOUND


def has_arrived(sock: socket.socket) -> bool:
    """Wait until ``sock`` has something to read."""
    return bool(select.select([sock], [], [], BOUND)[0])


def fill(sock: socket.socket) -> int:
    """Send on a non-blocking socket until the kernel has not taken one byte more for 50 ms; returns the count."""
    filled = 0
    refused_at = 0.0
    while not refused_at or time.monotonic() < refused_at + 0.05:
        for size in (65536, 1):
            try:
                filled += sock.send(b"f" * size)
                refused_at = 0.0
            except BlockingIOError:
                refused_at = refused_at or time.monotonic()
        if refused_at:
            time.sleep(0.005)
    return filled


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
