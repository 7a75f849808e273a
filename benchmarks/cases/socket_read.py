"""Another process sends over a TCP connection, and all of it is received, and dropped. Timed from the request on."""

from __future__ import annotations

import socket

import anyio
import trio

from roket_trio import EndOfStream, connect_tcp

from ..endpoints.processes import COUNT, bound
from ..job import Case, Done, Limits, Stopwatch, Way
from ..loops import LOOPS
from ..peers import ASYNCIO, UVLOOP, C
from ..testbed import Testbed
from .peer_ways import ways

PIECE = 64 << 10
BUFFER = 256 << 10


def recv_into(size: int) -> Way:
    """The ceiling: one buffer, and a plain loop."""

    def job(testbed: Testbed, stopwatch: Stopwatch) -> Done:
        buffer = bytearray(size)
        moved = 0
        with socket.create_connection(testbed.sender) as sock:
            sock.settimeout(None)
            bound(sock)
            with stopwatch:
                sock.sendall(COUNT.pack(testbed.size))
                while count := sock.recv_into(buffer):
                    moved += count
        return Done(moved)

    return Way("blocking recv_into", "ceiling", "none", job)


async def trio_receive_some(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    moved = 0
    async with await trio.open_tcp_stream(*testbed.sender) as stream:
        with stopwatch:
            await stream.send_all(COUNT.pack(testbed.size))
            while piece := await stream.receive_some(PIECE):
                moved += len(piece)
    return Done(moved)


async def anyio_receive(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    moved = 0
    async with await anyio.connect_tcp(*testbed.sender) as stream:
        with stopwatch:
            await stream.send(COUNT.pack(testbed.size))
            async for piece in stream:
                moved += len(piece)
    return Done(moved)


async def roket_receive(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    moved = 0
    async with await connect_tcp(*testbed.sender) as stream:
        with stopwatch:
            await stream.send(COUNT.pack(testbed.size))
            try:
                while True:
                    moved += len(await stream.receive(PIECE))
            except EndOfStream:
                pass
    return Done(moved, f"{stream.statistics().receive_calls} receives")


async def roket_receive_into(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    buffer = bytearray(BUFFER)
    moved = 0
    async with await connect_tcp(*testbed.sender) as stream:
        with stopwatch:
            await stream.send(COUNT.pack(testbed.size))
            try:
                while True:
                    moved += await stream.receive_into(buffer)
            except EndOfStream:
                pass
    return Done(moved, f"{stream.statistics().receive_calls} receives")


PROFILES = {
    "socket-read": """\
2,050 calls of recv, as in the blocking loop; a turn of the loop where the sender is behind (89 epoll_wait on Trio, 124
on asyncio). 42 % is the kernel's copy, a tenth waking the sender, Python 9 %. CPU time 18 to 22 ms, blocking 14: each
piece is a ``bytes`` of its own.""",
    "socket-read-into": """\
516 to 534 calls of recv into the caller's buffer, 75 to 83 turns of the loop. 55 % is the kernel's copy, Python 7 %.
CPU time 15 to 17 ms, blocking 13.""",
}

CASES = [
    Case(
        "socket-read",
        "socket read, receive(65536)",
        (
            recv_into(PIECE),
            Way("trio.SocketStream.receive_some", "idiom", "trio", trio_receive_some),
            *(Way(f"AnyIO's SocketStream on {loop}", "idiom", loop, anyio_receive) for loop in LOOPS),
            *ways(
                PIECE, (C, "receive", "recv"), (ASYNCIO, "receive", "StreamReader"), (UVLOOP, "receive", "StreamReader")
            ),
            *(Way(f"roket_trio on {loop}", "roket", loop, roket_receive) for loop in LOOPS),
        ),
        Limits(times_faster=1),
        profile=PROFILES["socket-read"],
    ),
    Case(
        "socket-read-into",
        "socket read, receive_into, 256 KiB",
        (
            recv_into(BUFFER),
            *ways(BUFFER, (C, "receive", "recv")),
            *(Way(f"roket_trio on {loop}", "roket", loop, roket_receive_into) for loop in LOOPS),
        ),
        Limits(),
        profile=PROFILES["socket-read-into"],
    ),
]
