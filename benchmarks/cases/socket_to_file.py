"""Another process sends over a TCP connection, and all of it goes into a new file. Timed from the request on."""

from __future__ import annotations

import os
import socket

import anyio
import trio

from roket_trio import connect_tcp
from roket_trio.testing._bench.ceilings import splice_all

from ..endpoints.processes import COUNT, bound
from ..job import Case, Done, Limits, Stopwatch, Way
from ..loops import LOOPS
from ..peers import ASYNCIO, GO, JAVA, UVLOOP, C
from ..testbed import Testbed
from .peer_ways import ways

PIECE = 64 << 10


def _arrived(testbed: Testbed) -> int:
    size = os.stat(testbed.target).st_size
    os.unlink(testbed.target)  # also, so that the next one need not wait for this one's pages to be written
    return size


def blocking_splice(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    with socket.create_connection(testbed.sender) as sock, open(testbed.target, "wb", buffering=0) as file:
        sock.settimeout(None)
        bound(sock)
        with stopwatch:
            sock.sendall(COUNT.pack(testbed.size))
            splice_all(sock.fileno(), file.fileno())
    return Done(_arrived(testbed), "splice")


async def trio_loop(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    async with (
        await trio.open_tcp_stream(*testbed.sender) as stream,
        await trio.open_file(testbed.target, "wb") as file,
    ):
        with stopwatch:
            await stream.send_all(COUNT.pack(testbed.size))
            while piece := await stream.receive_some(PIECE):
                await file.write(piece)
            await file.flush()
    return Done(_arrived(testbed))


async def anyio_loop(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    async with await anyio.connect_tcp(*testbed.sender) as stream, await anyio.open_file(testbed.target, "wb") as file:
        with stopwatch:
            await stream.send(COUNT.pack(testbed.size))
            async for piece in stream:
                await file.write(piece)
            await file.flush()
    return Done(_arrived(testbed))


async def roket_receive_file(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    async with await connect_tcp(*testbed.sender) as stream:
        with open(testbed.target, "wb", buffering=0) as file, stopwatch:
            await stream.send(COUNT.pack(testbed.size))
            await stream.receive_file(file)
        return Done(_arrived(testbed), "+".join(stream.statistics().routes))


PROFILE = """\
130 fills and 130 drains of a pipe of 1 MiB, as in the blocking loop, by one worker thread for 20 ms at a time: 40
futex calls and 23 turns of the loop on Trio. 27 % is the copy into the page cache (splice into ext4 copies), a tenth
ext4's blocks. CPU time 1.05 times the ceiling's on every loop; what the wall clock shows beyond that is how sender
and receiver share two cores, and a disk that begins to write.

Until a socket that a thread reads was taken out of asyncio's epoll, each arrival woke the loop: 500 context switches
in 128 MiB where Trio has 30, and 1.3 times the CPU time.

Did not pay: a hop for each fill (1.31), recv_into and a hop for each MiB (1.37), two buffers and a thread that writes
(2.5), a pipe of 512 KiB (1.50) or 256 KiB (1.69)."""

CASES = [
    Case(
        "socket-to-file",
        "socket → file",
        (
            Way("blocking splice", "ceiling", "none", blocking_splice),
            Way("trio's receive_some + write, 64 KiB", "idiom", "trio", trio_loop),
            *(Way(f"AnyIO's receive + write, 64 KiB, on {loop}", "idiom", loop, anyio_loop) for loop in LOOPS),
            *ways(
                PIECE,
                (C, "splice", "splice"),
                (GO, "splice", "io.Copy"),
                (JAVA, "receive-stream", "streams, 64 KiB"),
                (ASYNCIO, "receive-stream", "StreamReader, 64 KiB"),
                (UVLOOP, "receive-stream", "StreamReader, 64 KiB"),
            ),
            *(Way(f"roket_trio on {loop}", "roket", loop, roket_receive_file) for loop in LOOPS),
        ),
        Limits(times_ceiling=1.2, times_faster=7),
        profile=PROFILE,
    ),
]
