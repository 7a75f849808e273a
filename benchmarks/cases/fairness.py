"""How long another task has to wait while a hundred files are sent, and one more that is not in the page cache.

A task asks to be woken each millisecond, and notes how late it is.
"""

from __future__ import annotations

import math
import os
import socket
from time import perf_counter

import anyio

from roket_trio import SocketStream, copy

from ..endpoints.processes import COUNT
from ..job import Case, Done, FigureLimit, Limits, Stopwatch, Way
from ..loops import LOOPS
from ..testbed import Testbed, cold_copy

AT_ONCE = 100
TICK = 0.001


def each(testbed: Testbed) -> int:
    """The bytes of one transfer: 16 MiB in a run of full size."""
    return max(1, testbed.size >> 3)


async def _lags(into: list[float]) -> None:
    while True:
        due = perf_counter() + TICK
        await anyio.sleep(TICK)
        into.append(perf_counter() - due)


async def roket_together(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    counted, routes = 0, set()
    lags: list[float] = []

    async def transfer(stream: SocketStream, path: str, size: int) -> None:
        nonlocal counted
        async with stream:
            with open(path, "rb", buffering=0) as file:
                routes.add((await copy(file, stream, count=size)).route)
            await stream.send_eof()
            arrived = await stream.receive(COUNT.size)
            counted += COUNT.unpack(arrived)[0]

    sockets = [socket.create_connection(testbed.sink_of_many) for _ in range(AT_ONCE + 1)]
    first, *others = [await SocketStream.from_socket(sock) for sock in sockets]
    with cold_copy(testbed) as (cold, cached):
        async with anyio.create_task_group() as watching:
            watching.start_soon(_lags, lags)
            with stopwatch:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(transfer, first, cold, testbed.size)
                    for stream in others:
                        tasks.start_soon(transfer, stream, testbed.source, each(testbed))
            watching.cancel_scope.cancel()
        assert os.path.getsize(cold) == testbed.size
    lags.sort()
    return Done(
        counted,
        "+".join(sorted(routes)),
        {
            "lag p99, ms": lags[math.ceil(len(lags) * 0.99) - 1] * 1e3,
            "worst lag, ms": lags[-1] * 1e3,
            "of the cold file cached before, %": cached * 100,
        },
    )


PROFILE = """\
By the loop's own CPU time, so whatever else runs: beside 100 transfers 99 of 100 turns are shorter than 0.1 to 1.7
ms, and the longest, 7 to 8 ms, is the one in which all of them begin (70 to 90 µs each). The cold file is fetched by
a worker thread.

Did not pay: a look at the clock in each transfer alone (turns of 82 to 175 ms); 16 places a turn (6 to 9 ms, p99)."""

CASES = [
    Case(
        "fairness",
        f"a cold file and {AT_ONCE} cached ones of an eighth each at once, while a task ticks",
        tuple(Way(f"roket_trio on {loop}", "roket", loop, roket_together) for loop in LOOPS),
        Limits(times_trio=None),
        size=lambda testbed: testbed.size + AT_ONCE * each(testbed),
        figure_limits=(
            FigureLimit("lag p99, ms", at_most=5),
            FigureLimit("worst lag, ms", at_most=25),
            FigureLimit("of the cold file cached before, %", at_most=1),
        ),
        rounds_at_most=5,
        counted=False,
        profile=PROFILE,
    ),
]
