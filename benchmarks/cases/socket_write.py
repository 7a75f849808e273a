"""Bytes from memory go over a TCP connection to another process, until that has counted them all.

Connecting is not timed, the wait for the receiver's count is: what only lies in a buffer on this side has not arrived.
"""

from __future__ import annotations

import socket

import anyio
import trio

from roket_trio import connect_tcp

from ..endpoints.processes import COUNT, bound
from ..job import Case, Done, Limits, Stopwatch, Way
from ..loops import LOOPS
from ..peers import ASYNCIO, JAVA, UVLOOP, C
from ..testbed import Testbed
from .peer_ways import ways


def _item(size: int, testbed: Testbed) -> bytes:
    return bytes(min(size, testbed.size))


def blocking_sendall(size: int) -> Way:
    def job(testbed: Testbed, stopwatch: Stopwatch) -> Done:
        item = _item(size, testbed)
        with socket.create_connection(testbed.sink) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(None)
            bound(sock)
            with stopwatch:
                for _ in range(testbed.size // size):
                    sock.sendall(item)
                sock.shutdown(socket.SHUT_WR)
                counted = sock.recv(COUNT.size)
        return Done(COUNT.unpack(counted)[0])

    return Way("blocking sendall", "ceiling", "none", job)


def trio_send_all(size: int) -> Way:
    async def job(testbed: Testbed, stopwatch: Stopwatch) -> Done:
        item = _item(size, testbed)
        async with await trio.open_tcp_stream(*testbed.sink) as stream:
            with stopwatch:
                for _ in range(testbed.size // size):
                    await stream.send_all(item)
                await stream.send_eof()
                counted = await stream.receive_some(COUNT.size)
        return Done(COUNT.unpack(counted)[0])

    return Way("trio.SocketStream.send_all", "idiom", "trio", job)


def anyio_send(size: int, loop: str) -> Way:
    async def job(testbed: Testbed, stopwatch: Stopwatch) -> Done:
        item = _item(size, testbed)
        async with await anyio.connect_tcp(*testbed.sink) as stream:
            with stopwatch:
                for _ in range(testbed.size // size):
                    await stream.send(item)
                await stream.send_eof()
                counted = await stream.receive(COUNT.size)
        return Done(COUNT.unpack(counted)[0])

    return Way(f"AnyIO's SocketStream on {loop}", "idiom", loop, job)


def roket_send(size: int, loop: str) -> Way:
    async def job(testbed: Testbed, stopwatch: Stopwatch) -> Done:
        item = _item(size, testbed)
        async with await connect_tcp(*testbed.sink) as stream:
            with stopwatch:
                for _ in range(testbed.size // size):
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


PROFILES = {
    "socket-write-1m": """\
146 to 197 sends for 128 items: the socket takes 0.7 to 0.9 MiB at a time. 55 % is the kernel's copy; Python is 5 %.

Did not pay: MSG_ZEROCOPY. Loopback copies all the same (CPU time 28 ms for 22 to a sink that discards), and to one
that copies the wall time doubles (61 ms for 30).""",
    "socket-write-64k": """\
2,049 sends for 2,048 items, and a turn of the loop where the receiver is behind (90 epoll_wait). A third is the
kernel's copy, a sixth the interpreter.

Did not pay: Trio's TCP_NOTSENT_LOWAT of 16 KiB (1.3 to 2.0 times the ceiling; with 128 KiB 1.18, with none 1.16, and
then 4 MB lie before a peer that does not read).""",
}

CASES = [
    # What the design asks of 64 KiB against Trio's own stream holds against AnyIO's too.
    Case(
        "socket-write-64k",
        "socket write, send of 64 KiB",
        _ways(64 << 10),
        Limits(times_faster=1),
        profile=PROFILES["socket-write-64k"],
    ),
    Case(
        "socket-write-1m",
        "socket write, send of 1 MiB",
        _ways(1 << 20),
        Limits(times_ceiling=1.3),
        profile=PROFILES["socket-write-1m"],
    ),
]
