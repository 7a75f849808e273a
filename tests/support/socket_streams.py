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
    """Send on a non-blocking socket until the kernel has not taken one byte more in ten looks; returns the count.

    Between two looks the kernel moves bytes to the peer. On a busy machine that takes turns, not only time.
    """
    filled = refused = 0
    while refused < 10:
        refused += 1
        for size in (65536, 1):
            try:
                filled += sock.send(b"f" * size)
                refused = 0
            except BlockingIOError:
                pass
        if refused:
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
