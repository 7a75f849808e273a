"""Many files go over as many connections at once. Timed until the receiver has counted the last byte.

``scale`` is a thousand; ``scale-1`` to ``scale-1000`` share a GiB out among so many.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import anyio

from roket_trio import SocketStream, copy

from ..endpoints.processes import COUNT
from ..job import Case, Done, FigureLimit, Limits, Stopwatch, Way
from ..loops import LOOPS
from ..testbed import Testbed

AT_ONCE = 1000
PIECE = 1 << 20
READ = 64 << 10


@dataclass(frozen=True)
class Load:
    """How many transfers there are at once, and how large each of them is."""

    many: int
    each: Callable[[Testbed], int]

    def total(self, testbed: Testbed) -> int:
        """How many bytes have to arrive."""
        return self.many * self.each(testbed)

    def connect(self, testbed: Testbed) -> list[socket.socket]:
        """Open the connections."""
        return [socket.create_connection(testbed.sink_of_many) for _ in range(self.many)]


def _done(counts: int, route: str, times: list[float]) -> Done:
    return Done(counts, route, {"slowest / median": max(times) / median(times)})


def bare_epoll(load: Load) -> Callable[..., Done]:
    """The ceiling: nothing but an epoll loop, sendfile, and a table of offsets."""

    def job(testbed: Testbed, stopwatch: Stopwatch) -> Done:
        sockets = {sock.fileno(): sock for sock in load.connect(testbed)}
        offsets = dict.fromkeys(sockets, 0)
        size, counted, times = load.each(testbed), 0, []
        with open(testbed.source, "rb", buffering=0) as file, select.epoll() as epoll:
            for sock in sockets.values():
                sock.setblocking(False)
                epoll.register(sock, select.EPOLLOUT)
            with stopwatch:
                began = perf_counter()
                while sockets:
                    for fd, _ in epoll.poll():
                        sock, offset = sockets[fd], offsets[fd]
                        if offset < size:
                            try:
                                offsets[fd] += os.sendfile(fd, file.fileno(), offset, min(PIECE, size - offset))
                            except BlockingIOError:
                                continue
                            if offsets[fd] == size:
                                sock.shutdown(socket.SHUT_WR)
                                epoll.modify(fd, select.EPOLLIN)
                        else:
                            counted += COUNT.unpack(sock.recv(COUNT.size))[0]
                            times.append(perf_counter() - began)
                            epoll.unregister(fd)
                            sockets.pop(fd).close()
        return _done(counted, "sendfile", times)

    return job


def roket_at_once(load: Load) -> Callable[..., Any]:
    """Ours: a task for each transfer."""

    async def job(testbed: Testbed, stopwatch: Stopwatch) -> Done:
        streams = [await SocketStream.from_socket(sock) for sock in load.connect(testbed)]
        size, counted, times, routes = load.each(testbed), 0, [], set()

        async def transfer(stream: SocketStream) -> None:
            nonlocal counted
            async with stream:
                with open(testbed.source, "rb", buffering=0) as file:
                    routes.add((await copy(file, stream, count=size)).route)
                await stream.send_eof()
                arrived = await stream.receive(COUNT.size)
                counted += COUNT.unpack(arrived)[0]
                times.append(perf_counter() - began)

        with stopwatch:
            began = perf_counter()
            async with anyio.create_task_group() as tasks:
                for stream in streams:
                    tasks.start_soon(transfer, stream)
        return _done(counted, "+".join(sorted(routes)), times)

    return job


def anyio_at_once(load: Load) -> Callable[..., Any]:
    """The idiom: a task for each transfer, with a loop over pieces of 64 KiB."""

    async def job(testbed: Testbed, stopwatch: Stopwatch) -> Done:
        streams = [await anyio.abc.SocketStream.from_socket(sock) for sock in load.connect(testbed)]
        size, counted, times = load.each(testbed), 0, []

        async def transfer(stream: anyio.abc.SocketStream) -> None:
            nonlocal counted
            async with stream:
                left = size
                async with await anyio.open_file(testbed.source, "rb") as file:
                    while left:
                        piece = await file.read(min(READ, left))
                        await stream.send(piece)
                        left -= len(piece)
                await stream.send_eof()
                arrived = await stream.receive(COUNT.size)
                counted += COUNT.unpack(arrived)[0]
                times.append(perf_counter() - began)

        with stopwatch:
            began = perf_counter()
            async with anyio.create_task_group() as tasks:
                for stream in streams:
                    tasks.start_soon(transfer, stream)
        return _done(counted, "", times)

    return job


def roket_one(load: Load) -> Callable[..., Any]:
    """Send the same bytes over one connection."""

    async def job(testbed: Testbed, stopwatch: Stopwatch) -> Done:
        size = load.each(testbed)
        async with await SocketStream.from_socket(socket.create_connection(testbed.sink_of_many)) as stream:
            with stopwatch, open(testbed.source, "rb", buffering=0) as file:
                for _ in range(load.many):
                    await stream.send_file(file, count=size)
                await stream.send_eof()
                counted = COUNT.unpack(await stream.receive(COUNT.size))[0]
        return Done(counted, "+".join(stream.statistics().routes))

    return job


THOUSAND = Load(AT_ONCE, lambda testbed: max(1, testbed.size >> 4))
"""The bytes of one transfer: 8 MiB in a run of full size."""


def _shared_out(many: int) -> Case:
    # No part is larger than the source.
    load = Load(many, lambda testbed: max(1, min(testbed.size, 8 * testbed.size // many)))
    return Case(
        f"scale-{many}",
        f"{many} at once, a GiB together (but one alone: 128 MiB)" if many == 1 else f"{many} at once, a GiB together",
        (
            Way("a bare epoll loop", "ceiling", "none", bare_epoll(load)),
            *(Way(f"AnyIO's file + send, 64 KiB, on {loop}", "idiom", loop, anyio_at_once(load)) for loop in LOOPS),
            *(Way(f"roket_trio on {loop}", "roket", loop, roket_at_once(load)) for loop in LOOPS),
        ),
        Limits(times_trio=None),
        size=load.total,
        rounds_at_most=5,
        counted=False,
        long=True,
    )


PROFILE = """\
CPU time 870 ms for 8 GiB, the bare loop 430: 0.2 ms a transfer for its task, its file, its begin and its close, the
rest for turns of the loop. The receiver is busy for 960 ms; what the wall clock shows beyond the ceiling is when it
has nothing to do: while a thousand tasks begin in one turn (70 to 90 µs each), and when they all close at the end.

Since the first slices go in that very turn: 1.12, 1.20 and 1.18 where it was 1.36, 1.33 and 1.27 (Trio, asyncio,
uvloop).

Did not pay: slices of 1 MiB (1.26 where 2 MiB made 1.22); 16 places a turn (others wait 6 to 9 ms, with four 1 to 3);
a limit of what is unsent (1.21, without 1.03). Not done: more slices in a long first turn; the others would wait
longer."""


def _all() -> Iterator[Case]:
    yield Case(
        "scale",
        f"{AT_ONCE} files of a sixteenth each over as many connections at once",
        (
            Way("a bare epoll loop", "ceiling", "none", bare_epoll(THOUSAND)),
            *(Way(f"one connection on {loop}", "idiom", loop, roket_one(THOUSAND)) for loop in LOOPS),
            *(Way(f"roket_trio on {loop}", "roket", loop, roket_at_once(THOUSAND)) for loop in LOOPS),
        ),
        Limits(times_ceiling=1 / 0.8, times_faster=0.5),
        size=THOUSAND.total,
        figure_limits=(FigureLimit("slowest / median", at_most=2),),
        counted=False,
        profile=PROFILE,
    )
    for many in (1, 10, 100, 1000):
        yield _shared_out(many)


CASES = list(_all())
