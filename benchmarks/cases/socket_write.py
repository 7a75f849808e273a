"""Bytes from memory go over a TCP connection to another process, until that has counted them all.

Connecting is not timed, the wait for the receiver's count is: what only lies in a buffer on this side has not arrived.
"""

from __future__ import annotations

import socket

import anyio
import trio

from roket_trio import connect_tcp

from ..loops import LOOPS
from ..measure import Case, Done, Limits, Watch, Way
from ..peers import ASYNCIO, JAVA, UVLOOP, C, ways
from ..processes import COUNT, bound
from ..workshop import Workshop


def _item(size: int, shop: Workshop) -> bytes:
    return bytes(min(size, shop.size))


def blocking_sendall(size: int) -> Way:
    def job(shop: Workshop, watch: Watch) -> Done:
        item = _item(size, shop)
        with socket.create_connection(shop.sink) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(None)
            bound(sock)
            with watch:
                for _ in range(shop.size // size):
                    sock.sendall(item)
                sock.shutdown(socket.SHUT_WR)
                counted = sock.recv(COUNT.size)
        return Done(COUNT.unpack(counted)[0])

    return Way("blocking sendall", "ceiling", "none", job)


def trio_send_all(size: int) -> Way:
    async def job(shop: Workshop, watch: Watch) -> Done:
        item = _item(size, shop)
        async with await trio.open_tcp_stream(*shop.sink) as stream:
            with watch:
                for _ in range(shop.size // size):
                    await stream.send_all(item)
                await stream.send_eof()
                counted = await stream.receive_some(COUNT.size)
        return Done(COUNT.unpack(counted)[0])

    return Way("trio.SocketStream.send_all", "idiom", "trio", job)


def anyio_send(size: int, loop: str) -> Way:
    async def job(shop: Workshop, watch: Watch) -> Done:
        item = _item(size, shop)
        async with await anyio.connect_tcp(*shop.sink) as stream:
            with watch:
                for _ in range(shop.size // size):
                    await stream.send(item)
                await stream.send_eof()
                counted = await stream.receive(COUNT.size)
        return Done(COUNT.unpack(counted)[0])

    return Way(f"AnyIO's SocketStream on {loop}", "idiom", loop, job)


def roket_send(size: int, loop: str) -> Way:
    async def job(shop: Workshop, watch: Watch) -> Done:
        item = _item(size, shop)
        async with await connect_tcp(*shop.sink) as stream:
            with watch:
                for _ in range(shop.size // size):
                    await stream.send(item)
                await stream.send_eof()
                counted = await stream.receive(COUNT.size)
        return Done(COUNT.unpack(counted)[0], f"{stream.statistics().send_calls} sends")

    return Way(f"roket_trio on {loop}", "roket", loop, job)


def _ways(size: int) -> tuple[Way, ...]:
    return (
        blocking_sendall(size),
        trio_send_all(size),
        *(anyio_send(size, loop) for loop in LOOPS),
        *ways(
            size,
            (C, "send", "send"),
            (JAVA, "send", "socket stream"),
            (ASYNCIO, "send", "StreamWriter"),
            (UVLOOP, "send", "StreamWriter"),
        ),
        *(roket_send(size, loop) for loop in LOOPS),
    )


CASES = [
    # What the design asks of 64 KiB against Trio's own stream holds against AnyIO's too.
    Case("socket-write-64k", "socket write, send of 64 KiB", _ways(64 << 10), Limits(times_faster=1)),
    Case("socket-write-1m", "socket write, send of 1 MiB", _ways(1 << 20), Limits(times_ceiling=1.3)),
]
