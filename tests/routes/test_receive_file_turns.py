"""``receive_file`` that is cancelled or closed, one at a time, and which task is woken."""

from __future__ import annotations

import random
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.patterns import DATA, PATTERN
from support.received_files import BEFORE, Disk
from support.sockets import Pair, send_and_finish
from support.streams import receive_to_end, stream_over
from support.threads import thread
from support.waiting import AT_ONCE, BOUND, until

from roket_trio import (
    BusyResourceError,
    ClosedResourceError,
    FileWriteStream,
)
from roket_trio._connection import lingering_close
from roket_trio._kernel import drain, splice, tcp
from roket_trio._loops.shared_epoll import SharedEpoll

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="splice, /dev/full and RST on demand as Linux has them")


# --- cancellation and close ------------------------------------------------------------------------------------------


async def test_a_wait_for_more_is_cancelled_at_once_and_what_came_is_in_the_file(
    pair: Pair, path: Path, receive_route: str
) -> None:
    with open(path, "wb", buffering=0) as file:
        async with stream_over(pair[0]) as stream:
            pair[1].sendall(DATA[:100_000])
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.receive_file, file)
                await until(lambda: path.stat().st_size == 100_000)
                began = time.monotonic()
                tasks.cancel_scope.cancel()
            assert time.monotonic() - began < AT_ONCE
            assert file.tell() == 100_000
            assert path.read_bytes() == DATA[:100_000]
            send_and_finish(pair[1], b"more")
            assert await receive_to_end(stream) == b"more"


@pytest.mark.parametrize("append", [False, True])
async def test_transfers_that_are_cancelled_again_and_again_lose_and_repeat_nothing(
    pair: Pair, path: Path, receive_route: str, append: bool
) -> None:
    """The position, or the end, is where the next one goes on: the file is what was sent, wherever each was cut."""
    chance = random.Random(7)
    data = PATTERN * 4

    def send() -> None:
        at = 0
        while at < len(data):
            size = chance.randrange(1, 300_000)
            if at + size >= len(data):
                assert often.wait(BOUND)
            pair[1].sendall(data[at : at + size])
            at += size
            time.sleep(0.002)  # so that transfers are cut at many places
        pair[1].shutdown(socket.SHUT_WR)

    cancelled = 0
    often = threading.Event()
    delays = random.Random(8)
    with open(path, "ab" if append else "r+b", buffering=0) as file:
        async with stream_over(pair[0]) as stream:
            with thread(send):
                while True:
                    with anyio.move_on_after(delays.choice([0.0, 0.0002, 0.001, 0.003])) as scope:
                        await stream.receive_file(file)
                    if not scope.cancelled_caught:
                        break
                    cancelled += 1
                    if cancelled > 3:
                        often.set()
                    await anyio.lowlevel.checkpoint()
    assert path.read_bytes() == (BEFORE if append else b"") + data


async def test_a_cancellation_that_comes_with_the_data_takes_it_or_leaves_it(
    pair: Pair, path: Path, receive_route: str
) -> None:
    """Both in one turn of the loop: the receiver has been woken by the data when another task cancels it."""

    sent = b""
    with open(path, "wb", buffering=0) as file:
        ours, other = socket.socketpair()
        with ours, other:
            async with stream_over(pair[0]) as stream, stream_over(ours) as signal:
                for n in range(15):
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(stream.receive_file, file)

                        async def cancel(tasks: Any = tasks) -> None:
                            await signal.receive()
                            tasks.cancel_scope.cancel()

                        tasks.start_soon(cancel)
                        await anyio.wait_all_tasks_blocked()
                        message = b"<%d>" % n
                        pair[1].sendall(message)
                        other.sendall(b"!")
                        sent += message
                pair[1].shutdown(socket.SHUT_WR)
                rest = await receive_to_end(stream)
    assert path.read_bytes() + rest == sent


@pytest.mark.parametrize("interruption", ["cancelled", "closed", "aborted"])
async def test_an_interruption_during_a_write_waits_for_it_and_loses_nothing_that_was_taken(
    pair: Pair, path: Path, receive_route: str, interruption: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, path)
    release, writing = threading.Event(), threading.Event()

    def wait(written: int, count: int) -> int:
        writing.set()
        assert release.wait(BOUND), "nobody released the disk"
        return count

    disk.before = wait

    release.clear()
    writing.clear()
    ended: list[type[BaseException] | None] = []
    with open(path, "wb", buffering=0) as file:
        async with stream_over(pair[0]) as stream, anyio.create_task_group() as tasks:
            scope = anyio.CancelScope()

            async def receive() -> None:
                with scope:
                    try:
                        await stream.receive_file(file)
                    except ClosedResourceError as error:
                        ended.append(type(error))
                        return
                ended.append(None if scope.cancelled_caught else AssertionError)

            tasks.start_soon(receive)
            pair[1].sendall(b"in flight")
            await until(writing.is_set)
            if interruption == "cancelled":
                scope.cancel()
            elif interruption == "closed":
                tasks.start_soon(stream.aclose)
            else:
                stream.abort()
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            assert not ended, "the thread still writes"
            release.set()
            await until(lambda: bool(ended))
            assert ended == [None if interruption == "cancelled" else ClosedResourceError]
            assert path.read_bytes() == b"in flight"
            assert file.tell() == 9
            if interruption == "cancelled":
                send_and_finish(pair[1], b"more")
                assert await receive_to_end(stream) == b"more"


async def test_an_abort_in_the_middle_of_a_write_leaves_no_gap_in_the_file(
    pair: Pair, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has what came first; what the abort dropped comes next, and nothing that came behind that may follow."""
    disk = Disk(monkeypatch, path)
    release, writing = threading.Event(), threading.Event()

    def wait(written: int, count: int) -> int:
        writing.set()
        assert release.wait(BOUND), "nobody released the disk"
        return count

    drop = drain.discard_received

    def drop_while_more_comes(sock: socket.socket, **how: Any) -> Any:
        found = drop(sock, **how)
        if not release.is_set():
            pair[1].sendall(b"behind")
            release.set()
            deadline = time.monotonic() + 0.2  # for a thread that would take it
            while path.stat().st_size <= len(b"first") and time.monotonic() < deadline:
                time.sleep(0.002)
        return found

    disk.before = wait
    monkeypatch.setattr(lingering_close, "discard_received", drop_while_more_comes)

    release.clear()
    writing.clear()
    with open(path, "wb", buffering=0) as file:
        async with stream_over(pair[0]) as stream, anyio.create_task_group() as tasks:

            async def receive() -> None:
                with pytest.raises(ClosedResourceError):
                    await stream.receive_file(file)

            tasks.start_soon(receive)
            pair[1].sendall(b"first")
            await until(writing.is_set)
            pair[1].sendall(b"dropped")
            await until(lambda: tcp.unread_bytes(pair[0]) == len(b"dropped"))
            stream.abort()
    assert path.read_bytes() == b"first"
    assert stream.close_report is not None
    assert stream.close_report.discarded_bytes == len(b"dropped")


@pytest.mark.parametrize("close", ["aclose", "abort"])
async def test_a_close_by_another_task_ends_the_wait(pair: Pair, path: Path, receive_route: str, close: str) -> None:
    errors: list[type[BaseException]] = []
    with open(path, "wb", buffering=0) as file:
        async with stream_over(pair[0]) as stream, anyio.create_task_group() as tasks:

            async def receive() -> None:
                with pytest.raises(ClosedResourceError) as caught:
                    await stream.receive_file(file)
                errors.append(caught.type)

            tasks.start_soon(receive)
            pair[1].sendall(b"some")
            await until(lambda: path.stat().st_size == 4)
            if close == "abort":
                stream.abort()
            else:
                await stream.aclose()
            await until(lambda: bool(errors))
    assert path.read_bytes() == b"some"
    if close == "abort":
        with pytest.raises(ConnectionResetError):
            pair[1].recv(1)
    else:
        assert pair[1].recv(1) == b""


async def test_the_loop_goes_on_while_the_disk_is_slow(
    pair: Pair, path: Path, receive_route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, path)
    ticked = threading.Event()

    def wait_for_ticks(written: int, count: int) -> int:
        if len(disk.calls) == 1:
            ticked.clear()
            assert ticked.wait(BOUND), "the event loop stood still while the disk was written"
        return count

    disk.before = wait_for_ticks

    async def tick() -> None:
        while True:
            for _ in range(50):
                await anyio.lowlevel.checkpoint()
            ticked.set()

    with open(path, "wb", buffering=0) as file:
        async with stream_over(pair[0]) as stream, anyio.create_task_group() as tasks:
            tasks.start_soon(tick)
            with thread(send_and_finish, pair[1], DATA):
                assert await stream.receive_file(file) == len(DATA)
            tasks.cancel_scope.cancel()
    assert path.read_bytes() == DATA


# --- one at a time ---------------------------------------------------------------------------------------------------


async def test_while_a_file_is_received_another_receiver_is_busy_and_the_other_way_round(
    pair: Pair, path: Path, receive_route: str
) -> None:
    with open(path, "wb", buffering=0) as file:
        async with stream_over(pair[0]) as stream, anyio.create_task_group() as tasks:
            tasks.start_soon(stream.receive_file, file)
            pair[1].sendall(b"first")
            await until(lambda: path.stat().st_size == 5)
            for call in (
                stream.receive,
                stream.receive_some,
                lambda: stream.receive_into(bytearray(1)),
                lambda: stream.receive_file(file),
            ):
                with pytest.raises(BusyResourceError):
                    await call()
            await stream.send(b"the other direction is free")
            assert pair[1].recv(100) == b"the other direction is free"
            send_and_finish(pair[1], b"second")
    assert path.read_bytes() == b"firstsecond"


async def test_while_a_receive_waits_it_is_busy(pair: Pair, path: Path) -> None:
    received = []

    async def receive() -> None:
        received.append(await stream.receive())

    with open(path, "r+b") as file:
        async with stream_over(pair[0]) as stream, anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(BusyResourceError):
                await stream.receive_file(file)
            pair[1].sendall(b"for the first")
    assert received == [b"for the first"]
    assert path.read_bytes() == BEFORE


async def test_a_lent_stream_is_busy_until_it_is_given_back(pair: Pair, path: Path, receive_route: str) -> None:
    async with await FileWriteStream.from_path(path) as file, stream_over(pair[0]) as stream:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.receive_file, file)
            pair[1].sendall(b"first")
            await until(lambda: path.stat().st_size == 5)
            for call in (file.send, file.send_all):
                with pytest.raises(BusyResourceError):
                    await call(b"x")
            tasks.cancel_scope.cancel()
        await file.send(b"|free")
    assert path.read_bytes() == b"first|free"


async def test_closing_a_lent_stream_ends_the_transfer(pair: Pair, path: Path, receive_route: str) -> None:
    errors: list[type[BaseException]] = []
    file = await FileWriteStream.from_path(path)
    async with stream_over(pair[0]) as stream, anyio.create_task_group() as tasks:

        async def receive() -> None:
            with pytest.raises(ClosedResourceError) as caught:
                await stream.receive_file(file)
            errors.append(caught.type)

        tasks.start_soon(receive)
        pair[1].sendall(b"first")
        await until(lambda: path.stat().st_size == 5)
        with anyio.fail_after(BOUND):
            await file.aclose()
        await until(lambda: bool(errors))
        send_and_finish(pair[1], b"second")
        assert await receive_to_end(stream) == b"second"
    assert path.read_bytes() == b"first"


# --- what is woken ---------------------------------------------------------------------------------------------------


async def test_what_arrives_while_a_thread_takes_it_wakes_no_loop(
    pair: Pair, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, peer = pair
    fill, sends = splice.Pipe.fill, 50
    wakes: list[int] = []

    def fill_while_it_comes(pipe: splice.Pipe, sock: int, count: int) -> int:
        if threading.current_thread() is not threading.main_thread() and not wakes:
            wakes.append(0)
            for _ in range(sends):
                peer.send(b"x")
                time.sleep(0.002)  # the peer's rate: enough for a loop that is woken to run
        return fill(pipe, sock, count)

    def counted(epoll: Any) -> None:
        if wakes:
            wakes[0] += 1
        dispatch(epoll)

    dispatch = SharedEpoll._dispatch
    monkeypatch.setattr(SharedEpoll, "_dispatch", counted)
    monkeypatch.setattr(splice.Pipe, "fill", fill_while_it_comes)

    async with stream_over(ours) as stream:
        with path.open("wb") as file:
            await stream.receive_file(file, count=sends)
        peer.send(b"and then")  # the loop reads again
        assert await stream.receive() == b"and then"
    assert path.read_bytes() == b"x" * sends
    assert wakes[0] < sends / 5
