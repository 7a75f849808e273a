"""Routes while they run: slices, turns, and other users of the ends."""

from __future__ import annotations

import errno
import io
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
from support.patterns import DATA, MIB
from support.planned_routes import FAST, PLAIN, ROWS, failing, send_until_it_ends
from support.sockets import connected, read_exactly, read_to_end, reset, send_and_finish
from support.streams import receive_to_end, stream_over
from support.threads import thread
from support.waiting import BOUND, until

from roket_trio import (
    BrokenResourceError,
    FileWriteStream,
    Transfer,
    TransferReport,
    copy,
)
from roket_trio._loops import current_loop
from roket_trio._routes import fair_share
from roket_trio._routes.fair_share import SLOTS_MOST, scheduler_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the fast routes, /dev/full and RST as Linux has them")


# --- while it runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS)
async def test_progress_can_be_read_at_any_time(tmp_path: Path, way: str, row: str) -> None:
    (tmp_path / "in").write_bytes(DATA)

    with connected() as (ours, peer), connected() as (other, other_peer), (tmp_path / "in").open("rb") as file:
        async with (
            stream_over(ours) as stream,
            stream_over(other) as to,
            await FileWriteStream.from_path(tmp_path / "out") as out,
        ):
            source: Any = file if row.startswith("file") else stream
            sink: Any = out if row.endswith("file") else to
            transfer = Transfer(source, sink, count=len(DATA), rate_limit=3_000_000)
            assert (transfer.bytes_moved, transfer.route) == (0, None)
            seen: list[int] = []
            with thread(send_and_finish, peer, DATA), thread(read_to_end, other_peer):
                async with anyio.create_task_group() as tasks:

                    async def watch() -> None:
                        while True:
                            seen.append(transfer.bytes_moved)
                            await anyio.sleep(0.01)

                    tasks.start_soon(watch)
                    report = await transfer.run()
                    tasks.cancel_scope.cancel()
                await receive_to_end(stream)
                await to.aclose()
            assert seen == sorted(seen)
            assert len(set(seen)) > 5
            route = (FAST if way == "fast" else PLAIN)[row]
            assert report == TransferReport(len(DATA), report.seconds, route, ())
            assert report.seconds >= 0.2


@pytest.mark.parametrize("limit", [0, -1, float("nan")])
def test_a_limit_that_is_none_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match="rate_limit"):
        Transfer(io.BytesIO(), io.BytesIO(), rate_limit=limit)


async def test_an_infinite_limit_is_no_limit() -> None:
    sink = io.BytesIO()
    assert (await Transfer(io.BytesIO(DATA), sink, rate_limit=float("inf")).run()).bytes_moved == len(DATA)


def arrivals(peer: socket.socket, count: int) -> list[tuple[float, int]]:
    """When each piece came."""
    found = []
    while count:
        chunk = peer.recv(min(count, MIB))
        assert chunk
        found.append((time.monotonic(), len(chunk)))
        count -= len(chunk)
    return found


@pytest.mark.parametrize("row", ["file-socket", "socket-socket"])
async def test_a_limited_transfer_arrives_evenly(tmp_path: Path, way: str, row: str) -> None:
    rate, total = 1_000_000, 300_000
    (tmp_path / "in").write_bytes(DATA)

    with connected() as (ours, peer), connected() as (other, other_peer), (tmp_path / "in").open("rb") as file:
        async with stream_over(ours) as stream, stream_over(other) as sink:
            with thread(arrivals, other_peer, total) as came, thread(send_until_it_ends, peer, DATA):
                began = time.monotonic()
                await Transfer(file if row == "file-socket" else stream, sink, count=total, rate_limit=rate).run()
                await until(came.done)
                stream.abort()
            pieces = came.result(0)
    # At no time more has come than the rate allows since the beginning, and the two steps that may go at once: whoever
    # is late, the transfer or who receives, what comes is later too. uvloop's clock is early by up to 2 ms.
    for at, arrived in zip((at for at, _ in pieces), accumulate(size for _, size in pieces), strict=True):
        assert arrived <= rate * (at - began) + rate * 0.022
    assert len(pieces) >= 10


async def test_a_stall_is_not_followed_by_a_burst(tmp_path: Path) -> None:
    rate = 1_000_000
    (tmp_path / "in").write_bytes(DATA)

    with connected() as (ours, peer), connected() as (other, other_peer):
        async with stream_over(ours) as stream, stream_over(other) as sink:
            transfer = Transfer(stream, sink, count=110_000, rate_limit=rate)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(transfer.run)
                peer.sendall(DATA[:10_000])
                await until(lambda: transfer.bytes_moved == 10_000)
                await anyio.sleep(0.2)  # a stall in which 200,000 could have gone
                began = time.monotonic()
                peer.sendall(DATA[10_000:110_000])
            # 20 ms are made up for at most; without that bound all of it would go at once.
            assert time.monotonic() - began >= 100_000 / rate * 0.5
            assert read_exactly(other_peer, 110_000) == DATA[:110_000]


async def test_a_hundred_at_once_are_served_alike_and_leave_the_loop_its_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted, since a machine may be loaded; the benchmarks measure the 5 and 25 ms that are promised."""
    (tmp_path / "in").write_bytes(DATA)
    each = 10 * len(DATA)

    def drain(peers: list[socket.socket]) -> None:
        """Discard what comes on all of them, as fast as it comes."""
        with select_epoll(peers) as (epoll, by_number):
            while by_number:
                for number, _ in epoll.poll(BOUND):
                    if not by_number[number].recv(MIB, socket.MSG_TRUNC):
                        epoll.unregister(number)
                        del by_number[number]

    calls = 0
    sendfile = os.sendfile

    def count_call(*args: Any) -> int:
        nonlocal calls
        calls += 1
        return sendfile(*args)

    monkeypatch.setattr(os, "sendfile", count_call)
    async with AsyncExitStack() as stack:
        pairs = [stack.enter_context(connected()) for _ in range(100)]
        streams = [await stack.enter_async_context(stream_over(ours)) for ours, _ in pairs]
        files = [stack.enter_context((tmp_path / "in").open("rb")) for _ in pairs]
        done = 0
        least_at_half = 0
        in_a_turn: list[int] = []

        async def count_turns() -> None:
            while True:
                before = calls
                await anyio.lowlevel.checkpoint()
                in_a_turn.append(calls - before)

        async def send(number: int) -> None:
            nonlocal done, least_at_half
            for _ in range(10):
                files[number].seek(0)
                await copy(files[number], streams[number])
            done += 1
            if done == 50:
                least_at_half = min(stream.statistics().sent_bytes for stream in streams)
            await streams[number].send_eof()

        with thread(drain, [peer for _, peer in pairs]):
            async with anyio.create_task_group() as counting:
                counting.start_soon(count_turns)
                async with anyio.create_task_group() as tasks:
                    for number in range(100):
                        tasks.start_soon(send, number)
                counting.cancel_scope.cancel()
        assert done == 100
        assert sum(stream.statistics().sent_bytes for stream in streams) == 100 * each
        assert least_at_half >= each // 4  # 0.6 to 0.9 of it, measured
        # The task that counts sees two turns as one now and then. Without slots, a turn has as many as are ready.
        assert max(in_a_turn) <= 25  # 4 to 11, measured


@contextmanager
def select_epoll(socks: list[socket.socket]) -> Iterator[tuple[Any, dict[int, socket.socket]]]:
    with select.epoll() as epoll:
        for sock in socks:
            epoll.register(sock, select.EPOLLIN)
        yield epoll, {sock.fileno(): sock for sock in socks}


@pytest.mark.parametrize(("slice_ms", "in_a_turn"), [(2.0, 1), (0.5, 2), (0.3, 3), (0.01, SLOTS_MOST)])
async def test_as_many_slices_as_fit_in_a_millisecond_run_in_a_turn_and_a_cancelled_one_loses_no_place(
    monkeypatch: pytest.MonkeyPatch, slice_ms: float, in_a_turn: int
) -> None:
    now = 0.0
    monkeypatch.setattr(fair_share, "monotonic", lambda: now)

    async def slices(scheduler: fair_share.FairScheduler, count: int, note: Callable[[], None]) -> None:
        nonlocal now
        for _ in range(count):
            await scheduler.acquire()
            note()
            now += slice_ms / 1000
            scheduler.release()

    scheduler = scheduler_of(current_loop())
    turn = 0
    by_turn: dict[int, int] = {}

    async def count_turns() -> None:
        nonlocal turn
        while True:
            await anyio.lowlevel.checkpoint()
            turn += 1

    async def work(scope: anyio.CancelScope) -> None:
        with scope:
            await slices(scheduler, 20, note)

    def note() -> None:
        by_turn[turn] = by_turn.get(turn, 0) + 1

    await slices(scheduler, 100, lambda: None)  # until it knows how long one takes
    async with anyio.create_task_group() as counting:
        counting.start_soon(count_turns)
        async with anyio.create_task_group() as tasks:
            scopes = [anyio.CancelScope() for _ in range(30)]
            for scope in scopes:
                tasks.start_soon(work, scope)
            for scope in scopes[::3]:
                await anyio.lowlevel.checkpoint()
                scope.cancel()
        counting.cancel_scope.cancel()
    # The task that counts runs once in each turn, before some tasks and after others: it sees two turns as one.
    counts = sorted(by_turn.values())
    assert in_a_turn <= counts[len(counts) * 9 // 10] <= 2 * in_a_turn
    # A slot that was used at the beginning of a turn may be free again before its end, when few tasks wait for one.
    assert counts[-1] <= 2 * (2 * in_a_turn - 1)
    assert sum(by_turn.values()) >= 20 * 20
    with anyio.fail_after(5):  # no place was lost
        await slices(scheduler, 3 * SLOTS_MOST, lambda: None)


async def test_an_atomic_file_that_was_not_completed_never_replaces_its_target(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"before")

    for trouble in ("cancelled", "reset", "full", None):
        with connected() as (ours, peer), monkeypatch.context() as patch:
            async with stream_over(ours) as stream:
                sink = await FileWriteStream.from_path(target, atomic=True)
                if trouble == "full":
                    name = "splice" if way == "fast" else "pwrite"
                    number = sink._file.fileno()
                    patch.setattr(os, name, failing(name, errno.ENOSPC, after=10_000, of=number))
                with thread(send_until_it_ends, peer, DATA):
                    transfer = Transfer(stream, sink, count=len(DATA) + (trouble in ("cancelled", "reset")))
                    if trouble is None:
                        await transfer.run()
                        await sink.aclose()
                    else:
                        async with anyio.create_task_group() as tasks:

                            async def strike(
                                transfer: Transfer = transfer,
                                trouble: str = trouble,
                                peer: socket.socket = peer,
                                scope: anyio.CancelScope = tasks.cancel_scope,
                            ) -> None:
                                if trouble != "full":
                                    await until(lambda: transfer.bytes_moved == len(DATA))
                                    if trouble == "reset":
                                        reset(peer)
                                    else:
                                        scope.cancel()

                            tasks.start_soon(strike)
                            if trouble == "cancelled":
                                await transfer.run()
                            else:
                                with pytest.raises(BrokenResourceError):
                                    await transfer.run()
                        with pytest.raises(BrokenResourceError, match="not replaced"):
                            await sink.aclose()
                    stream.abort()
        assert target.read_bytes() == (b"before" if trouble else DATA)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    target.write_bytes(b"before")
