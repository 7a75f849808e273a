"""A file goes over a TCP connection to another process, until that has counted every byte. Timed as in socket_write."""

from __future__ import annotations

import socket

import anyio
import trio

from roket_trio import connect_tcp

from ..endpoints.processes import COUNT, bound
from ..job import Case, Done, Limits, Stopwatch, Way
from ..loops import LOOPS
from ..peers import ASYNCIO, GO, JAVA, UVLOOP, C
from ..testbed import Testbed
from .peer_ways import ways

PIECE = 64 << 10


def blocking_sendfile(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    with socket.create_connection(testbed.sink) as sock:
        sock.settimeout(None)
        bound(sock)
        with stopwatch:
            with open(testbed.source, "rb") as file:
                sock.sendfile(file)
            sock.shutdown(socket.SHUT_WR)
            counted = sock.recv(COUNT.size)
    return Done(COUNT.unpack(counted)[0], "sendfile")


async def trio_loop(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    async with await trio.open_tcp_stream(*testbed.sink) as stream:
        with stopwatch:
            async with await trio.open_file(testbed.source, "rb") as file:
                while piece := await file.read(PIECE):
                    await stream.send_all(piece)
            await stream.send_eof()
            counted = await stream.receive_some(COUNT.size)
    return Done(COUNT.unpack(counted)[0])


async def anyio_loop(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    async with await anyio.connect_tcp(*testbed.sink) as stream:
        with stopwatch:
            async with await anyio.open_file(testbed.source, "rb") as file:
                while piece := await file.read(PIECE):
                    await stream.send(piece)
            await stream.send_eof()
            counted = await stream.receive(COUNT.size)
    return Done(COUNT.unpack(counted)[0])


async def roket_send_file(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    async with await connect_tcp(*testbed.sink) as stream:
        with stopwatch:
            with open(testbed.source, "rb") as file:
                await stream.send_file(file)
            await stream.send_eof()
            counted = await stream.receive(COUNT.size)
    return Done(COUNT.unpack(counted)[0], "+".join(stream.statistics().routes))


PROFILE = """\
64 calls of sendfile, each for 2 MiB, which a receiver that keeps up takes whole, where the blocking loop has one for
all; 320 questions whether pages are cached (0.4 ms). CPU time 11 ms, blocking 7.

Did not pay: sendfile in a worker thread (28 ms where the loop took 28 to 34, and a close would have to wait for it);
a question each 128 KiB (5 % of the time); a limit of what is unsent (a thousand at once: 1.21, without 1.03); slices
that are not shared out (others wait 82 to 175 ms beside a hundred transfers)."""

CASES = [
    Case(
        "file-to-socket",
        "file → socket",
        (
            Way("blocking socket.sendfile", "ceiling", "none", blocking_sendfile),
            Way("trio.open_file + send_all, 64 KiB", "idiom", "trio", trio_loop),
            *(Way(f"AnyIO's file + send, 64 KiB, on {loop}", "idiom", loop, anyio_loop) for loop in LOOPS),
            *ways(
                PIECE,
                (C, "sendfile", "sendfile"),
                (GO, "sendfile", "io.Copy"),
                (JAVA, "send-stream", "streams, 64 KiB"),
                (JAVA, "transfer-to", "transferTo"),
                (ASYNCIO, "send-stream", "StreamWriter, 64 KiB"),
                (ASYNCIO, "sendfile", "loop.sendfile"),
                (UVLOOP, "send-stream", "StreamWriter, 64 KiB"),
            ),
            *(Way(f"roket_trio on {loop}", "roket", loop, roket_send_file) for loop in LOOPS),
        ),
        Limits(times_ceiling=1.3, times_faster=12),
        profile=PROFILE,
    ),
]
