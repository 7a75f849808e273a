"""What one process sends goes through us to another one that counts it: within a program, and as one that forwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import trio

from roket_trio import connect_tcp, copy
from roket_trio.testing._bench.ceilings import splice_all

from ..endpoints.processes import COUNT, Address, bound, free_port, program
from ..endpoints.relays import relaying
from ..job import Case, Done, Limits, Stopwatch, Way
from ..loops import LOOPS
from ..peers import ASYNCIO, GO, UVLOOP, C
from ..testbed import Testbed
from .peer_ways import ways

PIECE = 64 << 10


def blocking_splice(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    with socket.create_connection(testbed.sender) as left, socket.create_connection(testbed.sink) as right:
        for sock in (left, right):
            sock.settimeout(None)
            bound(sock)
        with stopwatch:
            left.sendall(COUNT.pack(testbed.size))
            splice_all(left.fileno(), right.fileno())
            right.shutdown(socket.SHUT_WR)
            counted = right.recv(COUNT.size)
    return Done(COUNT.unpack(counted)[0], "splice")


async def trio_loop(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    async with await trio.open_tcp_stream(*testbed.sender) as left, await trio.open_tcp_stream(*testbed.sink) as right:
        with stopwatch:
            await left.send_all(COUNT.pack(testbed.size))
            while piece := await left.receive_some(PIECE):
                await right.send_all(piece)
            await right.send_eof()
            counted = await right.receive_some(COUNT.size)
    return Done(COUNT.unpack(counted)[0])


async def anyio_loop(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    async with await anyio.connect_tcp(*testbed.sender) as left, await anyio.connect_tcp(*testbed.sink) as right:
        with stopwatch:
            await left.send(COUNT.pack(testbed.size))
            async for piece in left:
                await right.send(piece)
            await right.send_eof()
            counted = await right.receive(COUNT.size)
    return Done(COUNT.unpack(counted)[0])


async def roket_copy(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    async with await connect_tcp(*testbed.sender) as left, await connect_tcp(*testbed.sink) as right:
        with stopwatch:
            await left.send(COUNT.pack(testbed.size))
            report = await copy(left, right)
            await right.send_eof()
            counted = await right.receive(COUNT.size)
    return Done(COUNT.unpack(counted)[0], report.route)


@contextlib.contextmanager
def _socat(target: Address) -> Iterator[Address]:
    port = free_port()
    where = f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork"
    with program(["socat", where, f"TCP:{target[0]}:{target[1]}"], ("127.0.0.1", port)):
        yield "127.0.0.1", port


_HAPROXY = """
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen relay
  bind 127.0.0.1:{port}
  server target {host}:{to}
"""


@contextlib.contextmanager
def _haproxy(target: Address) -> Iterator[Address]:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="roket-benchmarks-") as place:
        settings = Path(place, "haproxy.cfg")
        settings.write_text(_HAPROXY.format(port=port, host=target[0], to=target[1]), encoding="utf-8")
        with program(["haproxy", "-db", "-q", "-f", os.fspath(settings)], ("127.0.0.1", port)):
            yield "127.0.0.1", port


def through(forwarder: Callable[[Address], contextlib.AbstractContextManager[Address]]) -> Callable[..., Done]:
    """The job: a process sends to the forwarder, which sends to us."""

    def job(testbed: Testbed, stopwatch: Stopwatch) -> Done:
        with forwarder(testbed.sender) as address:
            _fetch(address, 1, Stopwatch())  # what a program does at its first connection belongs to its start
            return Done(_fetch(address, testbed.size, stopwatch))

    return job


def _fetch(address: Address, count: int, stopwatch: Stopwatch) -> int:
    moved = 0
    with socket.create_connection(address) as sock:
        sock.settimeout(None)
        bound(sock)
        buffer = bytearray(1 << 20)
        with stopwatch:
            sock.sendall(COUNT.pack(count))
            while got := sock.recv_into(buffer, 0, getattr(socket, "MSG_TRUNC", 0)):
                moved += got
    return moved


def _programs() -> Iterator[Way]:
    for name, forwarder in {"socat": _socat, "HAProxy, mode tcp": _haproxy}.items():
        if shutil.which(name.split(",")[0].lower()):
            yield Way(name, "idiom", "none", through(forwarder))
    for loop in LOOPS:
        yield Way(
            f"roket_trio's relay on {loop}",
            "roket",
            loop,
            through(lambda target, loop=loop: relaying(loop, target)),  # type: ignore[misc]
            blocking=True,
        )


PROFILES = {
    "relay": """\
137 fills and as many drains of a pipe of 1 MiB, the ceiling has 129; 105 turns of the loop on Trio, 205 on asyncio,
which asks its own epoll and then ours. A quarter is the copy at the end, a fifth loopback's receive path, which the
kernel charges to the sender; Python is 9 %. CPU time 1.4 times the blocking loop's, which sleeps within its calls.

Since the sink may hold a whole fill unsent, 1 MiB for 128 KiB: 16.3 ms of CPU time for 18.5, 80 to 100 context switches
for 120 to 135 (ceiling 65). With no limit 15.4, and 4 MB lie before a peer that does not read.

Did not pay: a pipe of 256 KiB (0.84 where 1 MiB took 0.54 of a blocking loop's time), SPLICE_F_MORE (the last bytes
wait 200 ms).""",
    "relay-program": """\
Sender, relay and receiver are three busy processes on two cores, so the figures have two modes, 22 to 26 and 37 to
48 ms for 128 MiB, on every loop (30 interleaved rounds). The relay's CPU time is the same on all: 17, 16, 17 ms.""",
}

CASES = [
    Case(
        "relay",
        "socket → socket",
        (
            Way("blocking splice", "ceiling", "none", blocking_splice),
            Way("trio's receive_some + send_all, 64 KiB", "idiom", "trio", trio_loop),
            *(Way(f"AnyIO's receive + send, 64 KiB, on {loop}", "idiom", loop, anyio_loop) for loop in LOOPS),
            *ways(
                PIECE,
                (C, "relay", "splice"),
                (GO, "relay", "io.Copy"),
                (ASYNCIO, "relay", "streams, 64 KiB"),
                (UVLOOP, "relay", "streams, 64 KiB"),
            ),
            *(Way(f"roket_trio on {loop}", "roket", loop, roket_copy) for loop in LOOPS),
        ),
        Limits(times_ceiling=1.3, times_faster=3, times_less_cpu=5),
        profile=PROFILES["relay"],
    ),
    Case(
        "relay-program",
        "a program that forwards connections (its start is not timed; the CPU is the receiver's)",
        tuple(_programs()),
        Limits(times_faster=1 / 0.7),
        counted=False,
        profile=PROFILES["relay-program"],
    ),
]
