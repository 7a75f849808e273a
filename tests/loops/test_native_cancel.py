"""asyncio's own cancellation of a task that keeps a worker thread busy: it is not put off from one call to the next.

What is counted are the calls that a thread begins after the cancellation was due, not milliseconds.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.loops import LIMIT, run_on
from support.sockets import connected, count_to_end
from support.streams import adopt
from support.threads import thread

from roket_trio import FileReadStream, FileWriteStream, Transfer
from roket_trio._files.worker import Worker
from roket_trio._kernel import copy_file_range, page_cache, splice
from roket_trio._loops.asyncio import AsyncioLoop

pytestmark = pytest.mark.loops("asyncio", "uvloop")

# How long each call of a thread takes at least (seconds): no loop waits for it without turning.
SLOW = 0.002
# So many calls have begun when the cancellation comes: a stream has its own thread by then.
BUSY = 8
# One call is under way, a transfer that writes behind begins another, and closing the file needs one.
MOST = 3
# The whole would take hundreds of calls, of 64 KiB each.
SIZE = 16 << 20


class Calls:
    """The calls of worker threads, each of them slow."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = 0
        run, begin, run_in_thread = Worker.run, Worker.begin, AsyncioLoop.run_in_thread
        monkeypatch.setattr(Worker, "run", lambda worker, call, *args: run(worker, self._slow(call), *args))
        monkeypatch.setattr(Worker, "begin", lambda worker, call, *args: begin(worker, self._slow(call), *args))
        monkeypatch.setattr(
            AsyncioLoop, "run_in_thread", lambda loop, call, *args: run_in_thread(loop, self._slow(call), *args)
        )

    def _slow(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def slow(*args: Any) -> Any:
            self.begun += 1
            time.sleep(SLOW)
            return call(*args)

        return slow

    async def are_many(self) -> None:
        while self.begun < BUSY:  # noqa: ASYNC110 - counted by threads
            await asyncio.sleep(0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


# --- what keeps a thread busy: each checks in the end that its counts are exact --------------------------------------

Busy = Callable[[Path, pytest.MonkeyPatch], Awaitable[None]]


def fill(path: Path) -> Path:
    path.write_bytes(os.urandom(SIZE))
    return path


@contextmanager
def sent_without_end() -> Iterator[socket.socket]:
    """A socket whose peer never stops sending zeros, until the block has reset it."""

    def send(peer: socket.socket) -> None:
        try:
            while True:
                peer.sendall(bytes(1 << 16))
        except OSError:
            pass

    with connected() as (ours, peer), thread(send, peer):
        yield ours


async def receive_file(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = directory / "out"
    with sent_without_end() as sock:
        stream = await adopt(sock)
        try:
            with path.open("wb") as file:
                await stream.receive_file(file)
        finally:
            stream.abort()
            assert path.stat().st_size == stream.statistics().received_bytes


async def receive_file_by_the_plain_loop(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splice, "AVAILABLE", False)
    await receive_file(directory, monkeypatch)


async def copy_file(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roket_trio._routes.file_to_file._TURN", 64 << 10)
    await copy_pieces(directory, "copy_file_range")


async def copy_file_by_the_plain_loop(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy_file_range, "AVAILABLE", False)
    monkeypatch.setattr("roket_trio._routes.plain_loop.FILE_BUFFER", 64 << 10)
    await copy_pieces(directory, "read-write")


async def copy_pieces(directory: Path, route: str) -> None:
    path = fill(directory / "in")
    with path.open("rb") as source, (directory / "out").open("wb") as sink:
        transfer = Transfer(source, sink)
        try:
            await transfer.run()
        finally:
            assert transfer.route == route
            copied = (directory / "out").read_bytes()
            assert len(copied) == transfer.bytes_moved == source.tell() == sink.tell()
            assert path.read_bytes().startswith(copied)


async def write_file(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = await FileWriteStream.from_path(directory / "out")
    whole = 0
    try:
        while True:
            await stream.send(bytes(1000))
            whole += 1
    finally:
        await stream.aclose()  # noqa: ASYNC102 - asyncio's own cancellation is raised once
        # A send that a thread had begun is completed, and so reported as done.
        assert (directory / "out").stat().st_size == stream.statistics().sent_bytes == 1000 * whole


async def read_file(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_cache, "can_tell", lambda fd: False)
    path = fill(directory / "in")
    received = bytearray()
    async with await FileReadStream.from_path(path) as stream:
        try:
            while True:
                received += await stream.receive(64 << 10)
        finally:
            assert len(received) == stream.statistics().received_bytes
            assert path.read_bytes().startswith(received)


async def send_a_cold_file(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_cache, "is_cached", lambda *args: False)
    monkeypatch.setattr("roket_trio._routes.file_to_socket.FETCH_WINDOW", 64 << 10)
    path = fill(directory / "in")
    with connected() as (ours, peer), thread(count_to_end, peer) as counted:
        stream = await adopt(ours)
        try:
            with path.open("rb") as file:
                await stream.send_file(file)
        finally:
            stream.abort()
            assert stream.statistics().sent_bytes < SIZE
    assert counted.result()[1] == "RST"


BUSY_THREADS: list[Busy] = [
    receive_file,
    receive_file_by_the_plain_loop,
    copy_file,
    copy_file_by_the_plain_loop,
    write_file,
    read_file,
    send_a_cold_file,
]


# --- how it is cancelled: each returns how many calls had begun when that was due ------------------------------------

Cancel = Callable[[Awaitable[None], Calls], Awaitable[int]]


async def by_cancel(busy: Awaitable[None], calls: Calls) -> int:
    task = asyncio.ensure_future(busy)
    await calls.are_many()
    task.cancel()
    due = calls.begun
    with pytest.raises(asyncio.CancelledError):
        await task
    return due


async def by_many_cancels(busy: Awaitable[None], calls: Calls) -> int:
    task = asyncio.ensure_future(busy)
    await calls.are_many()
    due = calls.begun
    while not task.done():
        task.cancel()
        await asyncio.sleep(SLOW / 4)
    assert task.cancelled()
    return due


async def by_timeout(busy: Awaitable[None], calls: Calls) -> int:
    due = 0

    async def expire() -> None:
        nonlocal due
        await calls.are_many()
        timeout.reschedule(asyncio.get_running_loop().time())
        due = calls.begun

    expiring = asyncio.ensure_future(expire())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as timeout:
            await busy
    await expiring
    return due


async def by_wait_for(busy: Awaitable[None], calls: Calls) -> int:
    due = 0

    def note(*args: Any) -> None:
        nonlocal due
        due = calls.begun
        expire(*args)

    # What runs when the time is over, whenever a busy machine gets to it.
    owner: Any = asyncio.timeouts.Timeout if sys.version_info >= (3, 12) else asyncio.tasks
    name = "_on_timeout" if sys.version_info >= (3, 12) else "_release_waiter"
    expire = getattr(owner, name)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(TimeoutError):
        patch.setattr(owner, name, note)
        await asyncio.wait_for(busy, 2 * BUSY * SLOW)
    return due


async def by_a_task_group(busy: Awaitable[None], calls: Calls) -> int:
    due = 0

    async def fail() -> None:
        nonlocal due
        await calls.are_many()
        due = calls.begun
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            await busy
    assert [type(error) for error in raised.value.exceptions] == [ZeroDivisionError]
    return due


async def by_a_scope(busy: Awaitable[None], calls: Calls) -> int:
    """AnyIO's own way, which the others are held to."""
    due = 0
    async with anyio.create_task_group() as tasks:

        async def cancel() -> None:
            nonlocal due
            await calls.are_many()
            due = calls.begun
            tasks.cancel_scope.cancel()

        tasks.start_soon(cancel)
        await busy
    return due


@pytest.mark.parametrize(
    "cancel",
    [by_cancel, by_many_cancels, by_timeout, by_wait_for, by_a_task_group, by_a_scope],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("busy", BUSY_THREADS, ids=lambda f: f.__name__)
def test_a_busy_thread_does_not_put_off_the_cancellation(
    loop_name: str, busy: Busy, cancel: Cancel, calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        async with asyncio.timeout(LIMIT):
            due = await cancel(busy(tmp_path, monkeypatch), calls)
            assert calls.begun - due <= MOST
            # Each request was counted once, and none is left behind.
            assert not task.cancelling()
            for _ in range(3):
                await asyncio.sleep(0)

    run_on(loop_name, main)
