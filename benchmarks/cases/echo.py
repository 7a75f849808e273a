"""64 bytes go to the other end of a connection and back. Both ends are tasks of one loop: the loop is what costs."""

from __future__ import annotations

import socket
from typing import Protocol

import anyio
import trio
from anyio.abc import SocketStream as AnyIOSocketStream

from roket_trio import SocketStream

from ..job import Case, Done, Limits, Stopwatch, Way
from ..loops import LOOPS
from ..testbed import Testbed

MESSAGE = bytes(64)


def round_trips(testbed: Testbed) -> int:
    """How many messages there are: 2,000 in a run of full size."""
    return max(10, testbed.size >> 16)


def pair() -> tuple[socket.socket, socket.socket]:
    """A TCP connection over loopback, both ends of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    for sock in (client, server):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client, server


class Stream(Protocol):
    """A stream with AnyIO's verbs."""

    async def send(self, item: bytes, /) -> None: ...
    async def receive(self, max_bytes: int = ..., /) -> bytes: ...


async def _ping(client: Stream, server: Stream, times: int, stopwatch: Stopwatch) -> Done:
    async def echo() -> None:
        for _ in range(times):
            await server.send(await server.receive(65536))

    moved = 0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(echo)
        with stopwatch:
            for _ in range(times):
                await client.send(MESSAGE)
                moved += len(await client.receive(65536))
    return Done(moved)


async def trio_echo(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    times = round_trips(testbed)
    client, server = (trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in pair())

    async def echo() -> None:
        for _ in range(times):
            await server.send_all(await server.receive_some(65536))

    moved = 0
    async with client, server, trio.open_nursery() as nursery:
        nursery.start_soon(echo)
        with stopwatch:
            for _ in range(times):
                await client.send_all(MESSAGE)
                moved += len(await client.receive_some(65536))
    return Done(moved)


async def anyio_echo(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    one, other = pair()
    async with await AnyIOSocketStream.from_socket(one) as client, await AnyIOSocketStream.from_socket(other) as server:
        return await _ping(client, server, round_trips(testbed), stopwatch)


async def roket_echo(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    one, other = pair()
    async with await SocketStream.from_socket(one) as client, await SocketStream.from_socket(other) as server:
        return await _ping(client, server, round_trips(testbed), stopwatch)


PROFILE = """\
59 µs of CPU time a round trip with both ends on one loop, three quarters of it in user space. Trio: 4 recv, two of
which find nothing yet, 2 send, 2 epoll_wait, and 2 epoll_ctl, since Trio registers each wait anew. asyncio: no
epoll_ctl, but 6 epoll_wait: the loop's, our own, and the loop's again before the task that it woke.

Did not pay: add_reader for each wait (83 µs on asyncio and 75 on uvloop where the shared epoll takes 55 and 45),
AnyIO's wait_readable (94 and 86)."""

CASES = [
    Case(
        "echo",
        "64-byte echo round trip, both ends on one loop",
        (
            Way("trio.SocketStream", "idiom", "trio", trio_echo),
            *(Way(f"AnyIO's SocketStream on {loop}", "idiom", loop, anyio_echo) for loop in LOOPS),
            *(Way(f"roket_trio on {loop}", "roket", loop, roket_echo) for loop in LOOPS),
        ),
        Limits(times_faster=1, times_trio=None),
        size=lambda testbed: round_trips(testbed) * len(MESSAGE),
        unit="round trip",
        divisor=round_trips,
        profile=PROFILE,
    ),
]
