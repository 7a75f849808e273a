"""The close contract: what ends as FIN, what as RST, what the report says, and that the descriptor is always gone.

Everything is seen from the other side: the peer is a raw blocking socket, and the kernel is asked.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from support.loops import Run
from support.sockets import Pair, kernel_state, read_to_end, reset
from support.streams import ENDLESS, PATIENT, adopt, stream_over
from support.threads import other_side
from support.waiting import BOUND, arrived, gone, until

from roket_trio import (
    BrokenResourceError,
    ClosedResourceError,
    CloseOutcome,
    ClosePolicy,
    CloseReport,
    EndOfStream,
    SocketStream,
    UNIXSocketStream,
)
from roket_trio._connection import lingering_close as lingering_room
from roket_trio._connection.states import Phase
from roket_trio._kernel import epoll, tcp
from roket_trio._kernel.drain import Discarded
from roket_trio._loops import asyncio as loops_room

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel tells of a close is Linux's")


# What the kernel takes at once although the peer does not read, and more than a peer with a small buffer takes.
STUCK = bytes(range(250)) * 400


def without_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoll, "AVAILABLE", False)


def without_tcp_info(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "HAVE_TCP_INFO", False)


def without_either(monkeypatch: pytest.MonkeyPatch) -> None:
    without_edges(monkeypatch)
    without_tcp_info(monkeypatch)


def without_shared_epoll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops_room, "USE_SHARED_EPOLL", False)


def without_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    without_either(monkeypatch)
    without_shared_epoll(monkeypatch)


@pytest.fixture(params=[without_edges, without_tcp_info, without_shared_epoll, without_anything])
def degraded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One or all of the fast paths are turned off."""
    request.param(monkeypatch)
    name: str = request.param.__name__
    return name


def unread(sock: socket.socket) -> int:
    """What the peer's kernel holds and its program has not read."""
    return tcp.unread_bytes(sock)


async def start_endless_send(stream: SocketStream, tasks: anyio.abc.TaskGroup, errors: list[Exception]) -> None:
    """A task that is in the middle of an item; what it raises is put into ``errors``."""

    async def send() -> None:
        try:
            await stream.send(ENDLESS)
        except (BrokenResourceError, ClosedResourceError) as error:
            errors.append(error)

    tasks.start_soon(send)
    await until(lambda: stream.statistics().sent_bytes > 0)


async def cut(stream: SocketStream) -> int:
    """Cancel a send in the middle; returns how much of it the kernel had taken."""
    async with anyio.create_task_group() as tasks:
        await start_endless_send(stream, tasks, [])
        tasks.cancel_scope.cancel()
    return stream.statistics().sent_bytes


async def send_stuck(stream: SocketStream, peer: socket.socket) -> int:
    """Send an item that the kernel takes whole and the peer's only in part; returns what the peer's has not."""
    await stream.send(STUCK)

    def is_still() -> bool:
        view = stream.statistics().kernel
        return view is not None and 0 < view.unacked_bytes == len(STUCK) - unread(peer)

    await until(is_still)
    return len(STUCK) - unread(peer)


def report_of(stream: SocketStream) -> CloseReport:
    report = stream.close_report
    assert report is not None
    return report


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


# --- unread data (rule 5) --------------------------------------------------------------------------------------------


async def test_unread_data_never_turns_a_close_into_a_reset(any_pair: Pair) -> None:
    ours, peer = any_pair

    peer.sendall(bytes(20_000))
    stream = await adopt(ours, PATIENT)
    await arrived(ours)
    result: list[Any] = []

    async def read() -> None:
        result.append(await other_side(read_to_end, peer))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await stream.send(b"x" * 140_000)
        await stream.aclose()
    assert result == [(b"x" * 140_000, "FIN")]
    report = report_of(stream)
    assert report.outcome is CloseOutcome.ACKED
    assert (report.acked, report.unacked_bytes, report.discarded_bytes) == (True, 0, 20_000)
    assert not report.peer_closed


async def test_data_that_comes_during_the_close_is_discarded_too(small_pair: Pair) -> None:
    ours, peer = small_pair

    stream = await adopt(ours, PATIENT)
    await send_stuck(stream, peer)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.aclose)
        await until(lambda: stream._connection.life.phase is Phase.CLOSING)
        await other_side(peer.sendall, bytes(300_000))
        assert await other_side(read_to_end, peer) == (STUCK, "FIN")
    assert report_of(stream).outcome is CloseOutcome.ACKED
    assert report_of(stream).discarded_bytes == 300_000


# --- a cut (rule 3) --------------------------------------------------------------------------------------------------


async def test_a_cut_send_ends_as_a_reset_and_says_where_it_was_cut(pair: Pair) -> None:
    ours, peer = pair

    async with stream_over(ours, PATIENT) as stream:
        sent = await cut(stream)
        where = f"{sent} of {len(ENDLESS)} bytes"
        with pytest.raises(BrokenResourceError, match=where):
            await stream.send(b"more")
        with pytest.raises(BrokenResourceError, match=where):
            await stream.send_eof()
        peer.sendall(b"still talking")
        assert await stream.receive() == b"still talking"
        peer_had = unread(peer)
        await stream.aclose()
        report = report_of(stream)
        assert report.outcome is CloseOutcome.ABORTED
        assert not report.acked
        assert report.unacked_bytes == sent - peer_had
        data, end = read_to_end(peer)
        assert end == "RST"
        assert ENDLESS.startswith(data)


async def test_a_cut_on_a_unix_socket_is_reported_here_and_ends_there(unix_pair: Pair) -> None:
    ours, peer = unix_pair

    async with stream_over(ours, PATIENT) as stream:
        sent = await cut(stream)
        with pytest.raises(BrokenResourceError, match=f"{sent} of {len(ENDLESS)} bytes"):
            await stream.send(b"more")
        peer.sendall(b"unread")
        await stream.aclose()
        report = report_of(stream)
        assert (report.outcome, report.discarded_bytes) == (CloseOutcome.ABORTED, 6)
        assert read_to_end(peer) == (ENDLESS[:sent], "FIN")


@pytest.mark.parametrize("when", ["before", "blocked"])
async def test_a_send_cancelled_at_its_first_byte_cuts_nothing(any_pair: Pair, when: str) -> None:
    ours, peer = any_pair

    filled = 0
    async with stream_over(ours, PATIENT) as stream:
        if when == "blocked":
            # One byte at a time at last, so that there is room for none.
            for size in (1 << 16, 1):
                with suppress(BlockingIOError):
                    while True:
                        filled += ours.send(b"f" * size)
        with anyio.CancelScope() as scope:
            if when == "before":
                scope.cancel()
                await stream.send(b"never")
            else:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(stream.send, b"never")
                    await until(lambda: stream._connection._send_guard.is_taken)
                    await anyio.wait_all_tasks_blocked()
                    scope.cancel()
        assert stream.statistics().sent_bytes == 0
        while filled:
            filled -= len(await other_side(peer.recv, 1 << 20))
        await stream.send(b"whole")
        await stream.aclose()
        assert report_of(stream).outcome is CloseOutcome.ACKED
        assert read_to_end(peer) == (b"whole", "FIN")


async def test_a_close_by_another_task_cuts_a_send_that_is_under_way(pair: Pair) -> None:
    ours, peer = pair

    stream = await adopt(ours, PATIENT)
    errors: list[Exception] = []
    async with anyio.create_task_group() as tasks:
        await start_endless_send(stream, tasks, errors)
        await stream.aclose()
    assert [type(error) for error in errors] == [ClosedResourceError]
    assert report_of(stream).outcome is CloseOutcome.ABORTED
    data, end = read_to_end(peer)
    assert end == "RST"
    assert len(data) < len(ENDLESS)


async def test_a_close_by_another_task_before_a_sends_first_byte_cuts_nothing(pair: Pair) -> None:
    ours, peer = pair

    stream = await adopt(ours, PATIENT)
    filled = 0
    for size in (1 << 16, 1):
        with suppress(BlockingIOError):
            while True:
                filled += ours.send(b"f" * size)
    errors: list[Exception] = []
    result: list[Any] = []

    async def send() -> None:
        try:
            await stream.send(b"never")
        except ClosedResourceError as error:
            errors.append(error)

    async def read() -> None:
        result.append(await other_side(read_to_end, peer))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        await anyio.wait_all_tasks_blocked()
        # The room that a reader makes would let the send go on: it reads once the close has begun.
        tasks.start_soon(stream.aclose)
        await until(lambda: stream._connection.life.phase is Phase.CLOSING)
        tasks.start_soon(read)
    assert len(errors) == 1
    assert result == [(b"f" * filled, "FIN")]
    assert report_of(stream).outcome is CloseOutcome.ACKED


# --- receiving and a local close (rule 6) ----------------------------------------------------------------------------


@pytest.mark.parametrize("close", ["aclose", "abort"])
async def test_a_local_close_wakes_a_receiver_with_closed_and_never_with_an_end(any_pair: Pair, close: str) -> None:
    ours, peer = any_pair

    stream = await adopt(ours, PATIENT)
    errors: list[Exception] = []

    async def receive() -> None:
        try:
            await stream.receive()
        except (ClosedResourceError, EndOfStream) as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        if close == "abort":
            stream.abort()
        else:
            await stream.aclose()
    assert [type(error) for error in errors] == [ClosedResourceError]
    with pytest.raises(ClosedResourceError):
        await stream.receive()
    with pytest.raises(ClosedResourceError):
        await stream.send(b"x")
    with pytest.raises(ClosedResourceError):
        await stream.send_eof()
    expected = "RST" if close == "abort" and ours.family != socket.AF_UNIX else "FIN"
    assert read_to_end(peer) == (b"", expected)


async def test_all_queued_bytes_come_before_a_reset_which_is_reported_each_time(pair: Pair) -> None:
    ours, peer = pair

    async with stream_over(ours, PATIENT) as stream:
        peer.sendall(bytes(50_000))
        await until(lambda: unread(ours) == 50_000)
        reset(peer)
        await gone(ours)
        received = 0
        with pytest.raises(BrokenResourceError, match="reset") as first:
            while True:
                received += len(await stream.receive())
        assert received == 50_000
        assert first.value.errno == errno.ECONNRESET
        for _ in range(2):
            with pytest.raises(BrokenResourceError, match="reset") as again:
                await stream.receive()
            assert again.value.errno == errno.ECONNRESET


async def test_a_reset_that_a_send_has_learnt_is_no_end_for_a_receive(pair: Pair) -> None:
    ours, peer = pair

    async with stream_over(ours, PATIENT) as stream:
        peer.sendall(bytes(50_000))
        await until(lambda: unread(ours) == 50_000)
        reset(peer)
        await gone(ours)
        with pytest.raises(BrokenResourceError, match="reset"):
            await stream.send(b"x")
        received = 0
        with pytest.raises(BrokenResourceError, match="reset"):
            while True:
                received += len(await stream.receive(20_000))
        assert received == 50_000
        with pytest.raises(BrokenResourceError, match="reset"):
            await stream.receive()
        await stream.aclose()
        assert report_of(stream).outcome is CloseOutcome.RESET
        assert not report_of(stream).peer_closed


@pytest.mark.parametrize("learnt_by", ["send", "send_eof"])
async def test_a_reset_after_the_peers_fin_does_not_take_the_end_back(pair: Pair, learnt_by: str) -> None:
    ours, peer = pair

    async with stream_over(ours, PATIENT) as stream:
        await stream.send(b"never read, so that its close resets")
        peer.sendall(bytes(50_000))
        peer.shutdown(socket.SHUT_WR)
        await gone(ours)
        peer.close()
        await until(lambda: tcp.tcp_state(ours) == tcp.TCPState.CLOSE)
        with pytest.raises(BrokenResourceError) as info:
            await (stream.send(b"x") if learnt_by == "send" else stream.send_eof())
        assert info.value.errno == errno.EPIPE
        received = 0
        with pytest.raises(EndOfStream):
            while True:
                received += len(await stream.receive())
        assert received == 50_000
        with pytest.raises(EndOfStream):
            await stream.receive()
        await stream.aclose()
        assert (report_of(stream).outcome, report_of(stream).peer_closed) == (CloseOutcome.RESET, True)


async def test_a_reset_that_send_eof_meets_is_named_and_remembered(pair: Pair) -> None:
    ours, peer = pair

    async with stream_over(ours, PATIENT) as stream:
        reset(peer)
        await gone(ours)
        with pytest.raises(BrokenResourceError, match="reset") as info:
            await stream.send_eof()
        assert info.value.errno == errno.ECONNRESET
        with pytest.raises(BrokenResourceError, match="reset"):
            await stream.receive()


async def test_a_fin_while_nobody_reads_is_an_end_when_somebody_does(any_pair: Pair) -> None:
    ours, peer = any_pair

    stream = await adopt(ours, PATIENT)
    peer.sendall(b"last words")
    peer.shutdown(socket.SHUT_WR)
    await gone(ours)
    assert await stream.receive() == b"last words"
    for _ in range(2):
        with pytest.raises(EndOfStream):
            await stream.receive()
    await stream.send(b"answer")
    await stream.aclose()
    assert (report_of(stream).outcome, report_of(stream).peer_closed) == (CloseOutcome.CLEAN, True)
    assert read_to_end(peer) == (b"answer", "FIN")


# --- closing twice, and by two tasks (rule 1) ------------------------------------------------------------------------


async def test_closing_is_idempotent(any_pair: Pair) -> None:
    ours, peer = any_pair

    stream = await adopt(ours, PATIENT)
    fd = ours.fileno()
    await stream.aclose()
    assert not is_open(fd)
    report = report_of(stream)
    await stream.aclose()
    stream.abort()
    assert report_of(stream) is report
    assert read_to_end(peer) == (b"", "FIN")


async def test_a_second_close_waits_for_the_first(pair: Pair) -> None:
    ours, peer = pair

    stream = await adopt(ours, ClosePolicy(linger_seconds=30, wait_for_peer=True, idle_seconds=30))
    fd = ours.fileno()
    returned: list[str] = []

    async def close(name: str) -> None:
        await stream.aclose()
        assert not is_open(fd)
        returned.append(name)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(close, "first")
        await until(lambda: tcp.tcp_state(ours) == tcp.TCPState.FIN_WAIT2)
        tasks.start_soon(close, "second")
        tasks.start_soon(close, "third")
        await anyio.wait_all_tasks_blocked()
        assert returned == []
        assert is_open(fd)
        peer.close()
    assert sorted(returned) == ["first", "second", "third"]
    assert report_of(stream).outcome is CloseOutcome.CLEAN


async def test_a_second_close_that_is_cancelled_ends_the_first_and_leaves_no_descriptor(pair: Pair) -> None:
    ours, peer = pair

    stream = await adopt(ours, ClosePolicy(linger_seconds=30, wait_for_peer=True, idle_seconds=30))
    fd = ours.fileno()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.aclose)
        await until(lambda: tcp.tcp_state(ours) == tcp.TCPState.FIN_WAIT2)
        with anyio.move_on_after(0.01) as scope:
            try:
                await stream.aclose()
            finally:
                assert not is_open(fd)
        assert scope.cancelled_caught
    assert report_of(stream).outcome is CloseOutcome.ACKED
    assert read_to_end(peer) == (b"", "FIN")


# --- closing under a deadline (rules 1 and 4) ------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "during"])
async def test_a_cancelled_close_releases_first_and_says_what_may_be_missing(
    small_pair: Pair, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr(lingering_room, "ORPHAN_SECONDS", 0.2)
    ours, peer = small_pair
    local, remote = ours.getsockname(), peer.getsockname()
    # The peer's descriptor stays open, so its end stays in the kernel; ours must go although no descriptor is left.

    stream = await adopt(ours, PATIENT)
    fd = ours.fileno()
    missing = await send_stuck(stream, peer)
    with anyio.CancelScope() as scope:
        if when == "before":
            scope.cancel()
        else:
            scope.deadline = anyio.current_time() + 0.05
        try:
            await stream.aclose()
        finally:
            assert not is_open(fd)
            assert report_of(stream).outcome is CloseOutcome.UNACKED
    assert scope.cancelled_caught
    report = report_of(stream)
    assert (report.acked, report.unacked_bytes, report.peer_closed) == (False, missing, False)
    assert kernel_state(local, remote) is not None
    await until(lambda: kernel_state(local, remote) is None)


async def test_what_a_cancelled_close_leaves_to_the_kernel_is_delivered(small_pair: Pair) -> None:
    ours, peer = small_pair

    stream = await adopt(ours, PATIENT)
    await send_stuck(stream, peer)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await stream.aclose()
    assert scope.cancelled_caught
    assert await other_side(read_to_end, peer) == (STUCK, "FIN")


async def test_a_close_never_takes_longer_than_it_may(small_pair: Pair) -> None:
    ours, peer = small_pair

    stream = await adopt(ours, ClosePolicy(linger_seconds=0.2))
    missing = await send_stuck(stream, peer)
    began = time.monotonic()
    await stream.aclose()
    assert 0.2 <= time.monotonic() - began < 5
    report = report_of(stream)
    assert (report.outcome, report.unacked_bytes) == (CloseOutcome.UNACKED, missing)
    assert 0.2 <= report.seconds < 5
    assert read_to_end(peer) == (STUCK, "FIN")


async def test_a_close_with_no_time_to_linger_does_not_wait(small_pair: Pair) -> None:
    ours, peer = small_pair

    stream = await adopt(ours, ClosePolicy(linger_seconds=0))
    missing = await send_stuck(stream, peer)

    def never(self: object, loop: object) -> None:
        raise AssertionError("it waits")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lingering_room.LingeringClose, "wait", never)
        await stream.aclose()
    assert (report_of(stream).outcome, report_of(stream).unacked_bytes) == (CloseOutcome.UNACKED, missing)
    assert read_to_end(peer) == (STUCK, "FIN")


@pytest.mark.parametrize("call", ["SocketEvents", "readiness"])
async def test_a_close_does_not_fail_for_want_of_descriptors(small_pair: Pair, call: str) -> None:
    ours, peer = small_pair

    stream = await adopt(ours, PATIENT)
    await send_stuck(stream, peer)
    refused = 0

    def refuse(*args: object) -> None:
        nonlocal refused
        refused += 1
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with pytest.MonkeyPatch.context() as patch:
        if call == "SocketEvents":
            patch.setattr(epoll, "SocketEvents", refuse)
        else:
            patch.setattr(type(stream._connection.loop), "readiness", refuse)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.aclose)
            await until(lambda: refused > 0)
            assert await other_side(read_to_end, peer) == (STUCK, "FIN")
    assert report_of(stream).outcome is CloseOutcome.ACKED


async def test_a_socket_that_was_closed_behind_our_back_is_closed_without_an_error(pair: Pair) -> None:
    ours, peer = pair

    stream = await adopt(ours, PATIENT)
    ours.close()
    assert stream.statistics().kernel is None
    await stream.aclose()
    await stream.aclose()
    assert not report_of(stream).acked
    assert report_of(stream).unacked_bytes is None
    assert read_to_end(peer) == (b"", "FIN")


async def test_whoever_has_the_number_of_a_socket_that_was_closed_behind_our_back_goes_on(pair: Pair) -> None:
    ours, _ = pair

    first = await adopt(ours, PATIENT)
    number = ours.fileno()
    ours.close()
    near, far = socket.socketpair()
    taken = near.detach()
    if taken != number:
        os.dup2(taken, number)
        os.close(taken)
    async with await adopt(socket.socket(fileno=number), PATIENT) as second:
        await first.aclose()
        async with anyio.create_task_group() as tasks:

            async def send() -> None:
                await anyio.wait_all_tasks_blocked()
                far.sendall(b"here")

            tasks.start_soon(send)
            with anyio.fail_after(BOUND):
                assert await second.receive() == b"here"
    far.close()


async def test_the_acknowledged_fin_is_waited_for_and_not_polled_for(small_pair: Pair) -> None:
    ours, peer = small_pair
    looks = 0

    stream = await adopt(ours, PATIENT)
    await send_stuck(stream, peer)
    take = epoll.SocketEvents.take

    def count(watch: epoll.SocketEvents) -> int:
        nonlocal looks
        looks += 1
        return take(watch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(epoll.SocketEvents, "take", count)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.aclose)
            await until(lambda: looks > 0)
            await anyio.sleep(0.3)  # the time in which somebody who polls would be seen
            assert looks <= 3
            assert await other_side(read_to_end, peer) == (STUCK, "FIN")
    assert report_of(stream).outcome is CloseOutcome.ACKED
    # The peer reads in steps of its small buffer; each acknowledgement may make room, which is an edge.
    assert looks < 100


# --- wait_peer_closed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["FIN", "RST"])
async def test_wait_peer_closed_sees_the_end_behind_unread_data_and_takes_none(pair: Pair, end: str) -> None:
    ours, peer = pair

    async with stream_over(ours, PATIENT) as stream:
        returned = 0

        async def wait() -> None:
            nonlocal returned
            await stream.wait_peer_closed()
            returned += 1

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            peer.sendall(b"unread data")
            await arrived(ours)
            await anyio.wait_all_tasks_blocked()
            assert returned == 0
            if end == "FIN":
                peer.shutdown(socket.SHUT_WR)
            else:
                reset(peer)
        assert returned == 3
        await stream.wait_peer_closed()
        assert unread(ours) == 11
        assert await stream.receive() == b"unread data"
        with pytest.raises(EndOfStream if end == "FIN" else BrokenResourceError):
            await stream.receive()
        await stream.wait_peer_closed()


async def test_wait_peer_closed_and_a_receive_wait_side_by_side(any_pair: Pair) -> None:
    ours, peer = any_pair

    async with stream_over(ours, PATIENT) as stream:
        order: list[str] = []

        async def wait() -> None:
            await stream.wait_peer_closed()
            order.append("closed")

        async def receive() -> None:
            order.append((await stream.receive()).decode())
            with pytest.raises(EndOfStream):
                await stream.receive()
            order.append("end")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            tasks.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            peer.sendall(b"data")
            await until(lambda: order == ["data"])
            peer.shutdown(socket.SHUT_WR)
        assert order[0] == "data"
        assert sorted(order[1:]) == ["closed", "end"]


@pytest.mark.parametrize("close", ["aclose", "abort"])
async def test_a_local_close_wakes_those_who_wait_for_the_peers(any_pair: Pair, close: str) -> None:
    ours, _ = any_pair

    stream = await adopt(ours, PATIENT)
    woken = 0

    async def wait() -> None:
        nonlocal woken
        with pytest.raises(ClosedResourceError):
            await stream.wait_peer_closed()
        woken += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        if close == "abort":
            stream.abort()
        else:
            await stream.aclose()
    assert woken == 2
    with pytest.raises(ClosedResourceError):
        await stream.wait_peer_closed()


async def test_a_cancelled_wait_for_the_peers_close_leaves_nothing(pair: Pair) -> None:
    ours, peer = pair

    async with stream_over(ours, PATIENT) as stream:
        before = set(os.listdir("/proc/self/fd"))
        with anyio.move_on_after(0.02) as scope:
            await stream.wait_peer_closed()
        assert scope.cancelled_caught
        assert set(os.listdir("/proc/self/fd")) == before
        peer.sendall(b"x")
        assert await stream.receive() == b"x"


# --- abort -----------------------------------------------------------------------------------------------------------


async def test_abort_wakes_everybody_and_the_peer_sees_a_reset(pair: Pair) -> None:
    ours, peer = pair

    stream = await adopt(ours, PATIENT)
    fd = ours.fileno()
    errors: list[Exception] = []

    async def receive() -> None:
        try:
            await stream.receive()
        except ClosedResourceError as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        await start_endless_send(stream, tasks, errors)
        tasks.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        stream.abort()
        assert not is_open(fd)
        stream.abort()
    assert [type(error) for error in errors] == [ClosedResourceError] * 2
    assert read_to_end(peer)[1] == "RST"
    assert report_of(stream).outcome is CloseOutcome.ABORTED


async def test_abort_ends_a_close_that_lingers(small_pair: Pair) -> None:
    ours, peer = small_pair

    stream = await adopt(ours, PATIENT)
    missing = await send_stuck(stream, peer)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.aclose)
        tasks.start_soon(stream.aclose)
        await anyio.wait_all_tasks_blocked()
        assert stream.close_report is None
        stream.abort()
        report = report_of(stream)
    assert report_of(stream) is report
    assert (report.outcome, report.acked, report.unacked_bytes) == (CloseOutcome.ABORTED, False, missing)
    data, end = read_to_end(peer)
    assert end == "RST"
    assert data == STUCK[: len(STUCK) - missing]


async def test_abort_counts_what_it_drops_unread(any_pair: Pair) -> None:
    ours, peer = any_pair

    stream = await adopt(ours, PATIENT)
    peer.sendall(bytes(20_000))
    await arrived(ours)
    stream.abort()
    report = report_of(stream)
    assert (report.outcome, report.discarded_bytes, report.peer_closed) == (CloseOutcome.ABORTED, 20_000, False)
    assert read_to_end(peer) == (b"", "FIN" if ours.family == socket.AF_UNIX else "RST")


# --- waiting for the peer --------------------------------------------------------------------------------------------


def upload_then_read(sock: socket.socket, size: int) -> tuple[bytes, str]:
    """A client that sends everything before it looks at the answer."""
    sock.sendall(bytes(size))
    sock.shutdown(socket.SHUT_WR)
    return read_to_end(sock)


async def test_an_early_answer_reaches_a_peer_that_still_sends(pair: Pair) -> None:
    ours, peer = pair
    answer = b"413 " * 1000

    stream = await adopt(ours, ClosePolicy(wait_for_peer=True, linger_seconds=30, idle_seconds=30))
    results: list[Any] = []

    async def upload() -> None:
        results.append(await other_side(upload_then_read, peer, 10_000_000))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(upload)
        first = await stream.receive()
        await stream.send(answer)
        await stream.aclose()
    assert results == [(answer, "FIN")]
    report = report_of(stream)
    assert (report.outcome, report.peer_closed) == (CloseOutcome.CLEAN, True)
    assert report.discarded_bytes == 10_000_000 - len(first)


async def test_a_peer_that_says_nothing_is_waited_for_idle_seconds(pair: Pair) -> None:
    ours, peer = pair

    stream = await adopt(ours, ClosePolicy(wait_for_peer=True, linger_seconds=30, idle_seconds=0.3))
    await stream.send(b"answer")
    began = time.monotonic()
    await stream.aclose()
    assert 0.25 <= time.monotonic() - began < 10
    assert (report_of(stream).outcome, report_of(stream).peer_closed) == (CloseOutcome.ACKED, False)
    assert read_to_end(peer) == (b"answer", "FIN")


async def test_a_peer_that_goes_on_talking_is_not_idle(pair: Pair) -> None:
    ours, peer = pair

    stream = await adopt(ours, ClosePolicy(wait_for_peer=True, linger_seconds=30, idle_seconds=0.5))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.aclose)
        for _ in range(8):
            await anyio.sleep(0.1)
            peer.sendall(b"talk")
        peer.shutdown(socket.SHUT_WR)
    assert (report_of(stream).outcome, report_of(stream).discarded_bytes) == (CloseOutcome.CLEAN, 32)


def send_for_ever(sock: socket.socket) -> int:
    """Until the other side has had enough; returns how much it took."""
    sent = 0
    data = bytes(1 << 16)
    with suppress(ConnectionResetError, BrokenPipeError):
        while True:
            sent += sock.send(data)
    return sent


@pytest.mark.parametrize("bound", ["max_bytes", "linger_seconds"])
async def test_a_peer_that_sends_for_ever_is_left_at_a_bound(pair: Pair, bound: str) -> None:
    ours, peer = pair
    if bound == "max_bytes":
        policy = ClosePolicy(wait_for_peer=True, linger_seconds=30, max_bytes=3_000_000)
    else:
        policy = ClosePolicy(wait_for_peer=True, linger_seconds=0.3)

    stream = await adopt(ours, policy)
    sent: list[int] = []

    async def send() -> None:
        sent.append(await other_side(send_for_ever, peer))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        await stream.receive()
        await stream.aclose()
        report = report_of(stream)
        assert not report.peer_closed
        assert report.discarded_bytes > 0
        if bound == "max_bytes":
            assert report.discarded_bytes > 3_000_000
            assert report.seconds < 15
        else:
            assert 0.3 <= report.seconds < 15
    # What was discarded is no more than the peer has sent.
    assert report.discarded_bytes < sent[0]


async def test_a_close_that_discards_lets_the_other_tasks_run(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = pair

    def never_empty(sock: socket.socket, *, limit: int, copies: bool) -> Discarded:
        """A peer that sends as fast as we discard."""
        return Discarded(limit, False, None)

    stream = await adopt(ours, ClosePolicy(wait_for_peer=True, linger_seconds=0.2))
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await anyio.lowlevel.checkpoint()
            ticks += 1

    monkeypatch.setattr(lingering_room, "discard_received", never_empty)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        await stream.aclose()
        tasks.cancel_scope.cancel()
    assert ticks >= 10
    assert 0.2 <= report_of(stream).seconds < 5


async def test_a_close_that_gives_up_discarding_empties_the_queue_nevertheless(pair: Pair) -> None:
    ours, peer = pair
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)

    stream = await adopt(ours, ClosePolicy(wait_for_peer=True, linger_seconds=30, max_bytes=1))
    await stream.send(b"answer")
    await other_side(peer.sendall, bytes(1_000_000))
    await until(lambda: unread(ours) == 1_000_000)  # more than one call of recv discards
    await stream.aclose()
    assert report_of(stream).discarded_bytes == 1_000_000
    assert read_to_end(peer) == (b"answer", "FIN")


# --- what the report says --------------------------------------------------------------------------------------------


async def test_a_report_of_clean(any_pair: Pair) -> None:
    ours, peer = any_pair

    stream = await adopt(ours, PATIENT)
    await stream.send(b"all of it")
    assert peer.recv(100) == b"all of it"
    peer.shutdown(socket.SHUT_WR)
    await gone(ours)
    await stream.aclose()
    report = report_of(stream)
    assert (report.outcome, report.acked, report.unacked_bytes) == (CloseOutcome.CLEAN, True, 0)
    assert (report.discarded_bytes, report.peer_closed) == (0, True)
    assert 0 <= report.seconds < 10


async def test_a_report_of_acked(any_pair: Pair) -> None:
    ours, peer = any_pair

    stream = await adopt(ours, PATIENT)
    await stream.send(b"all of it")
    await stream.aclose()
    report = report_of(stream)
    assert (report.outcome, report.acked, report.unacked_bytes) == (CloseOutcome.ACKED, True, 0)
    assert (report.discarded_bytes, report.peer_closed) == (0, False)
    assert read_to_end(peer) == (b"all of it", "FIN")


async def test_a_report_of_a_reset_during_the_close(small_pair: Pair) -> None:
    ours, peer = small_pair

    stream = await adopt(ours, PATIENT)
    missing = await send_stuck(stream, peer)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.aclose)
        await anyio.wait_all_tasks_blocked()
        reset(peer)
    report = report_of(stream)
    assert (report.outcome, report.acked, report.peer_closed) == (CloseOutcome.RESET, False, False)
    assert report.unacked_bytes == missing


async def test_a_report_of_a_reset_that_comes_after_the_peers_fin(small_pair: Pair) -> None:
    ours, peer = small_pair

    stream = await adopt(ours, PATIENT)
    missing = await send_stuck(stream, peer)
    peer.shutdown(socket.SHUT_WR)
    await gone(ours)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.aclose)
        await until(lambda: tcp.tcp_state(ours) == tcp.TCPState.LAST_ACK)
        await anyio.wait_all_tasks_blocked()
        peer.close()  # with unread data: it resets
    report = report_of(stream)
    assert (report.outcome, report.acked, report.peer_closed) == (CloseOutcome.RESET, False, True)
    assert report.unacked_bytes == missing


async def test_a_reset_between_the_last_look_and_the_report_is_no_acknowledgement(
    small_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, peer = small_pair
    ask = tcp.tcp_state

    stream = await adopt(ours, ClosePolicy(linger_seconds=0))
    missing = await send_stuck(stream, peer)
    asked = 0

    def state_after_a_reset(sock: socket.socket) -> int:
        nonlocal asked
        asked += 1
        if asked == 2:  # the first is to see whether there is anything to wait for
            reset(peer)
            deadline = time.monotonic() + BOUND
            while ask(sock) != tcp.TCPState.CLOSE:
                assert time.monotonic() < deadline
        return ask(sock)

    monkeypatch.setattr(tcp, "tcp_state", state_after_a_reset)
    await stream.aclose()
    assert asked >= 2
    report = report_of(stream)
    assert (report.outcome, report.acked, report.unacked_bytes) == (CloseOutcome.RESET, False, missing)


async def test_data_before_a_reset_is_counted_as_discarded(pair: Pair) -> None:
    ours, peer = pair

    stream = await adopt(ours, PATIENT)
    peer.sendall(bytes(50_000))
    await until(lambda: unread(ours) == 50_000)
    reset(peer)
    await gone(ours)
    await stream.aclose()
    assert (report_of(stream).outcome, report_of(stream).discarded_bytes) == (CloseOutcome.RESET, 50_000)


async def test_data_before_a_reset_that_a_send_has_learnt_is_counted_too(pair: Pair) -> None:
    ours, peer = pair

    stream = await adopt(ours, PATIENT)
    peer.sendall(bytes(50_000))
    await until(lambda: unread(ours) == 50_000)
    reset(peer)
    await gone(ours)
    with pytest.raises(BrokenResourceError):
        await stream.send(b"x")
    await stream.aclose()
    report = report_of(stream)
    assert (report.outcome, report.discarded_bytes) == (CloseOutcome.RESET, 50_000)
    assert not report.peer_closed


async def test_what_was_sent_before_the_stream_took_over_is_accounted_for(small_pair: Pair) -> None:
    ours, peer = small_pair

    ours.sendall(b"before")
    assert peer.recv(100) == b"before"
    stream = await adopt(ours, PATIENT)
    missing = await send_stuck(stream, peer)
    reset(peer)
    await gone(ours)
    await stream.aclose()
    assert (report_of(stream).outcome, report_of(stream).unacked_bytes) == (CloseOutcome.RESET, missing)
    assert stream.statistics().sent_bytes == len(STUCK)


# --- async with ------------------------------------------------------------------------------------------------------


class CustomError(Exception):
    pass


@pytest.mark.parametrize("on_error", ["finish", "abort"])
@pytest.mark.parametrize(
    "error",
    [CustomError(), ExceptionGroup("of one", [CustomError()]), KeyboardInterrupt()],
    ids=["exception", "group", "interrupt"],
)
async def test_leaving_by_an_exception_ends_as_the_policy_says(pair: Pair, on_error: Any, error: BaseException) -> None:
    ours, peer = pair

    stream = await adopt(ours, ClosePolicy(on_error=on_error))
    fd = ours.fileno()
    with pytest.raises(type(error)) as raised:
        async with stream:
            await stream.send(b"half an answer")
            raise error
    assert raised.value is error
    assert not is_open(fd)
    assert read_to_end(peer)[1] == ("RST" if on_error == "abort" else "FIN")


@pytest.mark.parametrize("on_error", ["finish", "abort"])
async def test_leaving_without_an_exception_or_by_cancellation_finishes(pair: Pair, on_error: Any) -> None:
    ours, peer = pair

    stream = await adopt(ours, ClosePolicy(on_error=on_error))
    with anyio.CancelScope() as scope:
        async with stream:
            await stream.send(b"whole")
            scope.cancel()
            await anyio.sleep(60)
    assert scope.cancelled_caught
    assert read_to_end(peer) == (b"whole", "FIN")


async def test_a_group_of_cancellations_only_is_a_cancellation(pair: Pair) -> None:
    ours, peer = pair

    stream = await adopt(ours, ClosePolicy(on_error="abort"))
    cancelled: BaseException | None = None
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await anyio.sleep(60)
        except anyio.get_cancelled_exc_class() as error:
            cancelled = error
            raise
    assert cancelled is not None
    await stream.send(b"whole")
    with pytest.raises(BaseExceptionGroup):
        async with stream:
            raise BaseExceptionGroup("", [cancelled, BaseExceptionGroup("", [cancelled])])
    assert read_to_end(peer) == (b"whole", "FIN")


async def test_a_cancellation_in_the_middle_of_a_send_in_a_block_resets(pair: Pair) -> None:
    ours, peer = pair

    stream = await adopt(ours, PATIENT)
    async with anyio.create_task_group() as tasks:

        async def use() -> None:
            async with stream:
                await stream.send(ENDLESS)

        tasks.start_soon(use)
        await until(lambda: stream.statistics().sent_bytes > 0)
        tasks.cancel_scope.cancel()
    assert report_of(stream).outcome is CloseOutcome.ABORTED
    assert read_to_end(peer)[1] == "RST"


# --- garbage ---------------------------------------------------------------------------------------------------------


@contextmanager
def collecting() -> Iterator[list[str]]:
    """The block leaves one stream unclosed; at its end the list holds the message of the one ResourceWarning."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
        gc.collect()
    assert [warning.category for warning in caught] == [ResourceWarning]
    messages.append(str(caught[0].message))
    assert "unclosed" in messages[0]


@pytest.mark.parametrize("cyclic", [False, True], ids=["counted", "cyclic"])
async def test_a_forgotten_stream_is_finished_and_its_opener_is_named(any_pair: Pair, cyclic: bool) -> None:
    ours, peer = any_pair

    peer.sendall(bytes(20_000))
    await arrived(ours)
    fd = ours.fileno()
    kind = UNIXSocketStream if ours.family == socket.AF_UNIX else SocketStream
    opened_at = ""

    async def forget() -> None:
        nonlocal opened_at
        opened_at = f"{__file__}:{sys._getframe().f_lineno + 1}"
        stream = await kind.from_socket(ours)
        await stream.send(b"whole")
        if cyclic:
            stream.itself = stream  # type: ignore[attr-defined]

    with collecting() as messages:
        await forget()
    assert messages[0].endswith(f"opened at {opened_at}")
    assert not is_open(fd)
    assert read_to_end(peer) == (b"whole", "FIN")


async def test_a_forgotten_stream_that_was_cut_resets(pair: Pair) -> None:
    ours, peer = pair

    async def forget() -> None:
        stream = await adopt(ours, PATIENT)
        await cut(stream)

    with collecting():
        # In a task of its own: a task keeps the exception that it was last cancelled with, and so its frames.
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(forget)
    assert read_to_end(peer)[1] == "RST"


async def test_a_closed_stream_is_collected_silently(pair: Pair) -> None:
    ours, _ = pair

    stream = await adopt(ours, PATIENT)
    await stream.aclose()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del stream
        gc.collect()


def test_a_collector_that_comes_as_the_next_stream_is_made_takes_nothing_from_it(
    run: Run, pair: Pair, unix_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forgotten stream is the last user of what asyncio's streams share, and the new one is just taking it."""

    async def main() -> None:
        cycle: list[Any] = [await adopt(pair[0], PATIENT)]
        cycle.append(cycle)
        real = loops_room._SharedReadiness

        def collect_first(*args: Any) -> Any:
            gc.collect()
            return real(*args)

        del cycle
        monkeypatch.setattr(loops_room, "_SharedReadiness", collect_first)
        async with await adopt(unix_pair[0], PATIENT) as stream:
            monkeypatch.undo()
            gc.collect()
            await anyio.lowlevel.checkpoint()
            async with anyio.create_task_group() as tasks:

                async def send() -> None:
                    await anyio.wait_all_tasks_blocked()
                    unix_pair[1].sendall(b"here")

                tasks.start_soon(send)
                assert await stream.receive() == b"here"

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        run(main)


@pytest.mark.parametrize("end", ["abort", "forget"])
def test_a_stream_may_outlive_its_loop(run: Run, pair: Pair, end: str) -> None:
    ours, peer = pair
    fd = ours.fileno()

    async def main() -> SocketStream:
        stream = await adopt(ours, PATIENT)
        await stream.send(b"whole")
        return stream

    stream = run(main)
    if end == "abort":
        stream.abort()
        assert not is_open(fd)
        assert read_to_end(peer)[1] == "RST"
    else:
        with collecting():
            del stream
        assert not is_open(fd)
        assert read_to_end(peer) == (b"whole", "FIN")


# --- without the fast paths ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("degraded")
async def test_degraded_unread_data_is_drained_and_all_that_was_sent_arrives(pair: Pair) -> None:
    ours, peer = pair

    peer.sendall(bytes(20_000))
    await arrived(ours)
    stream = await adopt(ours, ClosePolicy(linger_seconds=0.2))
    result: list[Any] = []

    async def read() -> None:
        result.append(await other_side(read_to_end, peer))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await stream.send(b"x" * 140_000)
        await stream.aclose()
    assert result == [(b"x" * 140_000, "FIN")]
    report = report_of(stream)
    assert report.discarded_bytes == 20_000
    if tcp.HAVE_TCP_INFO:
        assert (report.outcome, report.unacked_bytes) == (CloseOutcome.ACKED, 0)
    else:  # it is not known, and so not said
        assert (report.outcome, report.acked, report.unacked_bytes) == (CloseOutcome.UNACKED, False, None)
    assert report.seconds < 5


@pytest.mark.usefixtures("degraded")
async def test_degraded_an_early_answer_reaches_a_peer_that_still_sends(pair: Pair) -> None:
    ours, peer = pair

    stream = await adopt(ours, ClosePolicy(wait_for_peer=True, linger_seconds=30, idle_seconds=30))
    results: list[Any] = []

    async def upload() -> None:
        results.append(await other_side(upload_then_read, peer, 2_000_000))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(upload)
        await stream.receive()
        await stream.send(b"413")
        await stream.aclose()
    assert results == [(b"413", "FIN")]
    assert report_of(stream).peer_closed


@pytest.mark.usefixtures("degraded")
async def test_degraded_a_cut_still_resets(pair: Pair) -> None:
    ours, peer = pair

    stream = await adopt(ours, PATIENT)
    await cut(stream)
    await stream.aclose()
    assert report_of(stream).outcome is CloseOutcome.ABORTED
    assert read_to_end(peer)[1] == "RST"


@pytest.mark.usefixtures("degraded")
async def test_degraded_a_close_is_bounded_and_can_be_aborted(small_pair: Pair) -> None:
    ours, peer = small_pair

    stream = await adopt(ours, PATIENT)
    await stream.send(STUCK)
    with anyio.move_on_after(0.05) as scope:
        await stream.aclose()
    assert scope.cancelled_caught
    assert report_of(stream).outcome is CloseOutcome.UNACKED
    assert await other_side(read_to_end, peer) == (STUCK, "FIN")


@pytest.mark.usefixtures("degraded")
async def test_degraded_abort_ends_a_close_that_lingers(small_pair: Pair) -> None:
    ours, peer = small_pair

    stream = await adopt(ours, PATIENT)
    await stream.send(STUCK)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.aclose)
        await until(lambda: stream._connection.life.phase is Phase.CLOSING)
        await anyio.lowlevel.checkpoint()
        stream.abort()
    assert report_of(stream).outcome is CloseOutcome.ABORTED
    assert read_to_end(peer)[1] == "RST"


@pytest.mark.usefixtures("degraded")
async def test_degraded_a_local_close_wakes_all_who_wait(pair: Pair) -> None:
    ours, _ = pair

    stream = await adopt(ours, ClosePolicy(linger_seconds=0.1))
    woken: list[str] = []

    async def wait(name: str, call: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(ClosedResourceError):
            await call()
        woken.append(name)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, "receive", stream.receive)
        tasks.start_soon(wait, "peer", stream.wait_peer_closed)
        tasks.start_soon(wait, "peer", stream.wait_peer_closed)
        await until(lambda: stream._connection._receive_guard.is_taken)
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        await stream.aclose()
    assert sorted(woken) == ["peer", "peer", "receive"]


@pytest.mark.usefixtures("degraded")
async def test_degraded_the_peers_end_is_noticed_beside_a_receiver(pair: Pair) -> None:
    ours, peer = pair

    async with stream_over(ours, ClosePolicy(linger_seconds=0.1)) as stream:

        async def receive() -> None:
            assert await stream.receive() == b"data"
            with pytest.raises(EndOfStream):
                await stream.receive()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.wait_peer_closed)
            tasks.start_soon(receive)
            await until(lambda: stream._connection._receive_guard.is_taken)
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            peer.sendall(b"data")
            peer.shutdown(socket.SHUT_WR)


@pytest.mark.usefixtures("degraded")
async def test_degraded_a_reset_that_was_waited_for_is_remembered(pair: Pair) -> None:
    ours, peer = pair

    async with stream_over(ours, PATIENT) as stream:
        reset(peer)
        await stream.wait_peer_closed()
        for _ in range(2):
            with pytest.raises(BrokenResourceError, match="reset"):
                await stream.receive()
        with pytest.raises(BrokenResourceError, match="reset"):
            await stream.send(b"x")


# --- native cancellation on asyncio ----------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def run_native(request: pytest.FixtureRequest) -> Run:
    if request.param:
        pytest.importorskip("uvloop")

    async def bounded(main: Callable[[], Awaitable[None]]) -> None:
        async with asyncio.timeout(60):
            await main()

    return lambda main: anyio.run(bounded, main, backend="asyncio", backend_options={"use_uvloop": request.param})


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_a_native_cancellation_of_a_close_releases_first(run_native: Run, small_pair: Pair, how: str) -> None:
    ours, peer = small_pair

    async def main() -> None:
        stream = await adopt(ours, PATIENT)
        fd = ours.fileno()
        missing = await send_stuck(stream, peer)
        if how == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await stream.aclose()
        else:
            task = asyncio.ensure_future(stream.aclose())
            await until(lambda: stream._connection.life.phase is Phase.CLOSING)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert not is_open(fd)
        assert (report_of(stream).outcome, report_of(stream).unacked_bytes) == (CloseOutcome.UNACKED, missing)
        assert await asyncio.to_thread(read_to_end, peer) == (STUCK, "FIN")

    run_native(main)


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_a_native_cancellation_of_a_send_cuts_it(run_native: Run, pair: Pair, how: str) -> None:
    ours, peer = pair

    async def main() -> None:
        stream = await adopt(ours, PATIENT)
        if how == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await stream.send(ENDLESS)
        else:
            task = asyncio.ensure_future(stream.send(ENDLESS))
            await until(lambda: stream.statistics().sent_bytes > 0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        with pytest.raises(BrokenResourceError, match=f"{stream.statistics().sent_bytes} of {len(ENDLESS)} bytes"):
            await stream.send(b"more")
        await stream.aclose()
        assert read_to_end(peer)[1] == "RST"

    run_native(main)


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_a_native_cancellation_of_a_receive_loses_nothing(run_native: Run, pair: Pair, how: str) -> None:
    ours, peer = pair

    async def main() -> None:
        stream = await adopt(ours, PATIENT)
        if how == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await stream.receive()
        else:
            task = asyncio.ensure_future(stream.receive())
            await until(lambda: stream._connection._receive_guard.is_taken)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        peer.sendall(b"data")
        assert await stream.receive() == b"data"
        await stream.aclose()
        assert (report_of(stream).outcome, report_of(stream).discarded_bytes) == (CloseOutcome.ACKED, 0)
        assert read_to_end(peer) == (b"", "FIN")

    run_native(main)
