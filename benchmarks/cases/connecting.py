"""A connection is made, carries one byte, and is closed by both sides; then the next one. No name is looked up.

What the peer does for each costs about as much as a blocking client: a thread that accepts, receives and answers.
"""

from __future__ import annotations

import socket

import anyio
import trio

from roket_trio import connect_tcp

from ..endpoints.processes import COUNT
from ..job import Case, Done, Limits, Stopwatch, Way
from ..loops import LOOPS
from ..testbed import Testbed


def times(testbed: Testbed) -> int:
    """How many connections there are: 200 in a run of full size, since each leaves a TIME_WAIT."""
    return max(10, 200 * testbed.size >> 27)


def blocking_connect(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    counted = 0
    with stopwatch:
        for _ in range(times(testbed)):
            with socket.create_connection(testbed.sink) as sock:
                sock.sendall(b"!")
                sock.shutdown(socket.SHUT_WR)
                counted += COUNT.unpack(sock.recv(COUNT.size))[0]
    return Done(counted)


async def trio_connect(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    counted = 0
    with stopwatch:
        for _ in range(times(testbed)):
            async with await trio.open_tcp_stream(*testbed.sink) as stream:
                await stream.send_all(b"!")
                await stream.send_eof()
                counted += COUNT.unpack(await stream.receive_some(COUNT.size))[0]
    return Done(counted)


async def anyio_connect(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    counted = 0
    with stopwatch:
        for _ in range(times(testbed)):
            async with await anyio.connect_tcp(*testbed.sink) as stream:
                await stream.send(b"!")
                await stream.send_eof()
                counted += COUNT.unpack(await stream.receive(COUNT.size))[0]
    return Done(counted)


async def roket_connect(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    counted = 0
    with stopwatch:
        for _ in range(times(testbed)):
            async with await connect_tcp(*testbed.sink) as stream:
                await stream.send(b"!")
                await stream.send_eof()
                counted += COUNT.unpack(await stream.receive(COUNT.size))[0]
    return Done(counted)


PROFILE = """\
490 µs of CPU time a connection on Trio, by AnyIO's stream 390: the rest is the close. The FIN's acknowledgement is
waited for, the queue is emptied, TCP_INFO is asked: 8 getsockopt, 3 ioctl, an epoll for the wait. asyncio also makes
and closes the shared epoll when it has no other connection.

An address in figures goes to no worker thread: 70 of 610 µs on asyncio."""

CASES = [
    Case(
        "connecting",
        "connect, one byte there, eight back, close",
        (
            Way("blocking", "ceiling", "none", blocking_connect),
            Way("trio.open_tcp_stream", "idiom", "trio", trio_connect),
            *(Way(f"anyio.connect_tcp on {loop}", "idiom", loop, anyio_connect) for loop in LOOPS),
            *(Way(f"roket_trio on {loop}", "roket", loop, roket_connect) for loop in LOOPS),
        ),
        Limits(times_trio=None),
        size=times,
        unit="connection",
        divisor=times,
        profile=PROFILE,
    ),
]
