"""A transfer of 10 GiB to or from a peer that has stopped is cancelled: how long until the call returns."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import anyio

from roket_trio import FileWriteStream, SocketStream, Transfer

from ..job import Case, Done, FigureLimit, Limits, Stopwatch, Way
from ..loops import LOOPS
from ..testbed import Testbed

TIMES = 5
HUGE = 10 << 30

Ends = AbstractAsyncContextManager[tuple[Any, Any]]


def _pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
        return ours, theirs


@asynccontextmanager
async def _stalled() -> AsyncIterator[tuple[SocketStream, socket.socket]]:
    """A connection whose peer does nothing unless it is told to."""
    ours, theirs = _pair()
    with theirs:
        stream = await SocketStream.from_socket(ours)
        try:
            yield stream, theirs
        finally:
            stream.abort()


@asynccontextmanager
async def file_to_socket(place: Path) -> AsyncIterator[tuple[Any, Any]]:
    sparse = place / "sparse"
    with sparse.open("wb") as file:
        file.truncate(HUGE)
    async with _stalled() as (stream, _):
        with sparse.open("rb", buffering=0) as file:
            yield file, stream


@asynccontextmanager
async def socket_to_socket(place: Path) -> AsyncIterator[tuple[Any, Any]]:
    async with _stalled() as (left, sender), _stalled() as (right, _):
        sender.setblocking(False)
        sender.send(bytes(8 << 20))
        yield left, right


@asynccontextmanager
async def socket_to_file(place: Path) -> AsyncIterator[tuple[Any, Any]]:
    async with _stalled() as (stream, sender), await FileWriteStream.from_path(place / "target") as file:
        sender.setblocking(False)
        sender.send(bytes(1 << 20))
        yield stream, file


async def _cancelled(transfer: Transfer) -> float:
    """Seconds from the cancellation to the end of the call."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(transfer.run)
        before = -1
        while transfer.bytes_moved != before or not before:
            before = transfer.bytes_moved
            await anyio.sleep(0.02)
        cancelled_at = perf_counter()
        tasks.cancel_scope.cancel()
    return perf_counter() - cancelled_at


def cancelling(ends: Callable[[Path], Ends]) -> Callable[..., Any]:
    """The job: let it come to a standstill, and cancel it, a few times."""

    async def job(testbed: Testbed, stopwatch: Stopwatch) -> Done:
        latencies: list[float] = []
        with TemporaryDirectory(prefix="roket-benchmarks-") as place, stopwatch:
            for _ in range(TIMES):
                async with ends(Path(place)) as (source, sink):
                    transfer = Transfer(source, sink)
                    latencies.append(await _cancelled(transfer))
                    route = str(transfer.route)
        return Done(len(latencies), route, {"worst, ms": max(latencies) * 1e3})

    return job


PROFILE = """\
A transfer that stands still waits for its descriptor, so a cancellation costs a turn of the loop. Socket → file has
let its thread go by then: that looks for a millisecond at most."""

CASES = [
    Case(
        "cancelling",
        "a transfer that has come to a standstill is cancelled (the time includes the way to it)",
        tuple(
            Way(f"{name} on {loop}", "roket", loop, cancelling(ends))
            for name, ends in {
                "file → socket": file_to_socket,
                "socket → file": socket_to_file,
                "socket → socket": socket_to_socket,
            }.items()
            for loop in LOOPS
        ),
        Limits(times_trio=None),
        size=lambda testbed: TIMES,
        unit="cancellation",
        divisor=lambda testbed: TIMES,
        figure_limits=(FigureLimit("worst, ms", at_most=50),),
        rounds_at_most=3,
        warmed=False,
        counted=False,
        profile=PROFILE,
    ),
]
