"""A file of so many bytes goes over a connection that is there already: from a KiB to a GiB, opened each time.

Small ones are sent one after the other until the receiver has counted all of them; the figures are for one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import anyio
import trio

from roket_trio import connect_tcp

from ..endpoints.processes import COUNT, bound
from ..job import Case, Done, Limits, Stopwatch, Way
from ..loops import LOOPS
from ..testbed import FULL, Testbed

PIECE = 64 << 10
AT_MOST = 2000

SIZES = {"1k": 1 << 10, "16k": 16 << 10, "256k": 256 << 10, "4m": 4 << 20, "64m": 64 << 20, "1g": 1 << 30}


class Size:
    """A size of file, and how often a file of it is sent."""

    def __init__(self, size: int) -> None:
        self._size = size

    def each(self, testbed: Testbed) -> int:
        """The bytes of one file. Those of a large file are in proportion to the size of the run."""
        return self._size if self._size <= 1 << 20 else max(1 << 20, self._size * testbed.size // FULL)

    def times(self, testbed: Testbed) -> int:
        """How often it is sent; at least once."""
        return max(1, min(AT_MOST, testbed.size // self.each(testbed)))

    def total(self, testbed: Testbed) -> int:
        """How many bytes have to arrive."""
        return self.each(testbed) * self.times(testbed)

    def path(self, testbed: Testbed) -> str:
        """A file of that size; its bytes are zeros, which cost the same."""
        path = f"{testbed.source}-{self.each(testbed)}"
        if not os.path.exists(path):
            with open(path, "wb") as file:
                for start in range(0, self.each(testbed), 1 << 20):
                    file.write(bytes(min(1 << 20, self.each(testbed) - start)))
        return path


def blocking_sendfile(size: Size) -> Callable[..., Done]:
    """The ceiling: blocking sendfile."""

    def job(testbed: Testbed, stopwatch: Stopwatch) -> Done:
        path = size.path(testbed)
        with socket.create_connection(testbed.sink) as sock:
            sock.settimeout(None)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            bound(sock)
            with stopwatch:
                for _ in range(size.times(testbed)):
                    with open(path, "rb") as file:
                        sock.sendfile(file)
                sock.shutdown(socket.SHUT_WR)
                counted = sock.recv(COUNT.size)
        return Done(COUNT.unpack(counted)[0], "sendfile")

    return job


def trio_loop(size: Size) -> Callable[..., Any]:
    """The idiom on Trio: a loop over pieces."""

    async def job(testbed: Testbed, stopwatch: Stopwatch) -> Done:
        path = size.path(testbed)
        async with await trio.open_tcp_stream(*testbed.sink) as stream:
            with stopwatch:
                for _ in range(size.times(testbed)):
                    async with await trio.open_file(path, "rb") as file:
                        while piece := await file.read(PIECE):
                            await stream.send_all(piece)
                await stream.send_eof()
                counted = await stream.receive_some(COUNT.size)
        return Done(COUNT.unpack(counted)[0])

    return job


def anyio_loop(size: Size) -> Callable[..., Any]:
    """The idiom on AnyIO: a loop over pieces."""

    async def job(testbed: Testbed, stopwatch: Stopwatch) -> Done:
        path = size.path(testbed)
        async with await anyio.connect_tcp(*testbed.sink) as stream:
            with stopwatch:
                for _ in range(size.times(testbed)):
                    async with await anyio.open_file(path, "rb") as file:
                        while piece := await file.read(PIECE):
                            await stream.send(piece)
                await stream.send_eof()
                counted = await stream.receive(COUNT.size)
        return Done(COUNT.unpack(counted)[0])

    return job


def roket_send_file(size: Size) -> Callable[..., Any]:
    """Our ``send_file``."""

    async def job(testbed: Testbed, stopwatch: Stopwatch) -> Done:
        path = size.path(testbed)
        async with await connect_tcp(*testbed.sink) as stream:
            with stopwatch:
                for _ in range(size.times(testbed)):
                    with open(path, "rb") as file:
                        await stream.send_file(file)
                await stream.send_eof()
                counted = await stream.receive(COUNT.size)
        return Done(COUNT.unpack(counted)[0], "+".join(stream.statistics().routes))

    return job


def _case(name: str, size: Size) -> Case:
    return Case(
        f"file-to-socket-{name}",
        f"file → socket, {name} each",
        (
            Way("blocking socket.sendfile", "ceiling", "none", blocking_sendfile(size)),
            Way("trio.open_file + send_all, 64 KiB", "idiom", "trio", trio_loop(size)),
            *(Way(f"AnyIO's file + send, 64 KiB, on {loop}", "idiom", loop, anyio_loop(size)) for loop in LOOPS),
            *(Way(f"roket_trio on {loop}", "roket", loop, roket_send_file(size)) for loop in LOOPS),
        ),
        Limits(times_trio=None),
        size=size.total,
        unit="file",
        divisor=size.times,
        rounds_at_most=10,
        long=True,
    )


CASES = [_case(name, Size(size)) for name, size in SIZES.items()]
