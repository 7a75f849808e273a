"""Files that are on the disk only: read, and sent. The disk is what takes the time, and the loop must not wait for it.

A task that asks to be woken each millisecond says whether it does.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

import anyio
import trio
from anyio.streams.file import FileReadStream as AnyIOFileReadStream

from roket_trio import EndOfStream, FileReadStream, connect_tcp

from ..endpoints.processes import COUNT, bound
from ..job import Case, Done, FigureLimit, Limits, Stopwatch, Way
from ..loops import LOOPS
from ..testbed import Testbed, cold_copy

PIECE = 64 << 10
TICK = 0.001
CACHED = "cached before, %"
LAG = "worst lag, ms"


@asynccontextmanager
async def _worst_lag() -> AsyncIterator[list[float]]:
    """How late a task is that asks to be woken each millisecond: the worst, in milliseconds."""
    worst = [0.0]

    async def tick() -> None:
        while True:
            due = perf_counter() + TICK
            await anyio.sleep(TICK)
            worst[0] = max(worst[0], (perf_counter() - due) * 1e3)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        yield worst
        tasks.cancel_scope.cancel()


def blocking_read(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    buffer, moved = bytearray(PIECE), 0
    with cold_copy(testbed) as (path, cached), stopwatch, open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            moved += count
    return Done(moved, figures={CACHED: cached * 100})


def blocking_sendfile(testbed: Testbed, stopwatch: Stopwatch) -> Done:
    with cold_copy(testbed) as (path, cached), socket.create_connection(testbed.sink) as sock:
        sock.settimeout(None)
        bound(sock)
        with stopwatch:
            with open(path, "rb") as file:
                sock.sendfile(file)
            sock.shutdown(socket.SHUT_WR)
            counted = sock.recv(COUNT.size)
    return Done(COUNT.unpack(counted)[0], "sendfile", {CACHED: cached * 100})


def _timed(move: Callable[[str, Testbed, Stopwatch], Awaitable[tuple[int, str]]]) -> Callable[..., Any]:
    """The job: a cold file, and a task that ticks."""

    async def job(testbed: Testbed, stopwatch: Stopwatch) -> Done:
        with cold_copy(testbed) as (path, cached):
            async with _worst_lag() as worst:
                moved, route = await move(path, testbed, stopwatch)
        return Done(moved, route, {CACHED: cached * 100, LAG: worst[0]})

    return job


async def _trio_read(path: str, testbed: Testbed, stopwatch: Stopwatch) -> tuple[int, str]:
    moved = 0
    with stopwatch:
        async with await trio.open_file(path, "rb") as file:
            while piece := await file.read(PIECE):
                moved += len(piece)
    return moved, ""


async def _anyio_read(path: str, testbed: Testbed, stopwatch: Stopwatch) -> tuple[int, str]:
    moved = 0
    with stopwatch:
        async with await AnyIOFileReadStream.from_path(path) as file:
            async for piece in file:
                moved += len(piece)
    return moved, ""


async def _roket_read(path: str, testbed: Testbed, stopwatch: Stopwatch) -> tuple[int, str]:
    moved = 0
    with stopwatch:
        async with await FileReadStream.from_path(path) as file:
            try:
                while True:
                    moved += len(await file.receive(PIECE))
            except EndOfStream:
                pass
    counts = file.statistics()
    return moved, f"{counts.cached_reads} cached, {counts.thread_hops} hops"


async def _anyio_send(path: str, testbed: Testbed, stopwatch: Stopwatch) -> tuple[int, str]:
    async with await anyio.connect_tcp(*testbed.sink) as stream:
        with stopwatch:
            async with await anyio.open_file(path, "rb") as file:
                while piece := await file.read(PIECE):
                    await stream.send(piece)
            await stream.send_eof()
            counted = await stream.receive(COUNT.size)
    return COUNT.unpack(counted)[0], ""


async def _roket_send(path: str, testbed: Testbed, stopwatch: Stopwatch) -> tuple[int, str]:
    async with await connect_tcp(*testbed.sink) as stream:
        with stopwatch:
            with open(path, "rb") as file:
                await stream.send_file(file)
            await stream.send_eof()
            counted = await stream.receive(COUNT.size)
    return COUNT.unpack(counted)[0], "+".join(stream.statistics().routes)


def _case(name: str, title: str, ways: tuple[Way, ...]) -> Case:
    return Case(
        name,
        title,
        ways,
        Limits(times_trio=None),
        figure_limits=(FigureLimit(CACHED, at_most=1),),
        rounds_at_most=5,
        counted=False,
        long=True,
    )


CASES = [
    _case(
        "file-read-cold",
        "file read, cold, receive(65536)",
        (
            Way("blocking readinto", "ceiling", "none", blocking_read),
            Way("trio.open_file", "idiom", "trio", _timed(_trio_read)),
            *(Way(f"AnyIO's FileReadStream on {loop}", "idiom", loop, _timed(_anyio_read)) for loop in LOOPS),
            *(Way(f"roket_trio on {loop}", "roket", loop, _timed(_roket_read)) for loop in LOOPS),
        ),
    ),
    _case(
        "file-to-socket-cold",
        "file → socket, cold",
        (
            Way("blocking socket.sendfile", "ceiling", "none", blocking_sendfile),
            *(Way(f"AnyIO's file + send, 64 KiB, on {loop}", "idiom", loop, _timed(_anyio_send)) for loop in LOOPS),
            *(Way(f"roket_trio on {loop}", "roket", loop, _timed(_roket_send)) for loop in LOOPS),
        ),
    ),
]
