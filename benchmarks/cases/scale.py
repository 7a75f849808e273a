"""A thousand files go over a thousand connections at once. Timed until the receiver has counted the last byte."""

from __future__ import annotations

import os
import select
import socket
from statistics import median
from time import perf_counter

import anyio

from roket_trio import SocketStream, copy

from ..loops import LOOPS
from ..measure import Ask, Case, Done, Limits, Watch, Way
from ..processes import COUNT
from ..workshop import Workshop

AT_ONCE = 1000
PIECE = 1 << 20


def each(shop: Workshop) -> int:
    """The bytes of one transfer: 8 MiB in a run of full size."""
    return max(1, shop.size >> 4)


def _connect(shop: Workshop) -> list[socket.socket]:
    return [socket.create_connection(shop.sink_of_many) for _ in range(AT_ONCE)]


def _done(counts: int, route: str, times: list[float]) -> Done:
    return Done(counts, route, {"slowest / median": max(times) / median(times)})


def bare_epoll(shop: Workshop, watch: Watch) -> Done:
    """The ceiling: nothing but an epoll loop, sendfile, and a table of offsets."""
    sockets = {sock.fileno(): sock for sock in _connect(shop)}
    offsets = dict.fromkeys(sockets, 0)
    size, counted, times = each(shop), 0, []
    with open(shop.source, "rb", buffering=0) as file, select.epoll() as epoll:
        for sock in sockets.values():
            sock.setblocking(False)
            epoll.register(sock, select.EPOLLOUT)
        with watch:
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


async def roket_at_once(shop: Workshop, watch: Watch) -> Done:
    streams = [await SocketStream.from_socket(sock) for sock in _connect(shop)]
    size, counted, times, routes = each(shop), 0, [], set()

    async def transfer(stream: SocketStream) -> None:
        nonlocal counted
        async with stream:
            with open(shop.source, "rb", buffering=0) as file:
                routes.add((await copy(file, stream, count=size)).route)
            await stream.send_eof()
            arrived = await stream.receive(COUNT.size)
            counted += COUNT.unpack(arrived)[0]
            times.append(perf_counter() - began)

    with watch:
        began = perf_counter()
        async with anyio.create_task_group() as tasks:
            for stream in streams:
                tasks.start_soon(transfer, stream)
    return _done(counted, "+".join(sorted(routes)), times)


async def roket_one(shop: Workshop, watch: Watch) -> Done:
    """The same bytes over one connection."""
    size = each(shop)
    async with await SocketStream.from_socket(socket.create_connection(shop.sink_of_many)) as stream:
        with watch, open(shop.source, "rb", buffering=0) as file:
            for _ in range(AT_ONCE):
                await stream.send_file(file, count=size)
            await stream.send_eof()
            counted = COUNT.unpack(await stream.receive(COUNT.size))[0]
    return Done(counted, "+".join(stream.statistics().routes))


CASES = [
    Case(
        "scale",
        f"{AT_ONCE} files of a sixteenth each over as many connections at once",
        (
            Way("a bare epoll loop", "ceiling", "none", bare_epoll),
            *(Way(f"one connection on {loop}", "idiom", loop, roket_one) for loop in LOOPS),
            *(Way(f"roket_trio on {loop}", "roket", loop, roket_at_once) for loop in LOOPS),
        ),
        Limits(times_ceiling=1 / 0.8, times_faster=0.5),
        size=lambda shop: AT_ONCE * each(shop),
        asks=(Ask("slowest / median", at_most=2),),
    ),
]
