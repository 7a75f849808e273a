"""The close contract: what ends as FIN, what as RST, what the report says, and that the descriptor is always gone.

Everything is seen from the other side: the peer is a raw blocking socket, and the kernel is asked."""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from support.close_contract import STUCK, cut, is_open, send_stuck, start_endless_send, unread
from support.sockets import Pair, kernel_state, read_to_end
from support.streams import ENDLESS, PATIENT, adopt, report_of, stream_over
from support.threads import other_side
from support.waiting import BOUND, arrived, until

from roket_trio import (
    BrokenResourceError,
    ClosedResourceError,
    CloseOutcome,
    ClosePolicy,
)
from roket_trio._connection import lingering_close
from roket_trio._connection.states import Phase
from roket_trio._kernel import epoll, tcp

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel tells of a close is Linux's")


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
            # One byte at a time at last, so that there is space for none.
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
        # The space that a reader makes would let the send go on: it reads once the close has begun.
        tasks.start_soon(stream.aclose)
        await until(lambda: stream._connection.life.phase is Phase.CLOSING)
        tasks.start_soon(read)
    assert len(errors) == 1
    assert result == [(b"f" * filled, "FIN")]
    assert report_of(stream).outcome is CloseOutcome.ACKED


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
    monkeypatch.setattr(lingering_close, "ORPHAN_SECONDS", 0.2)
    ours, peer = small_pair
    local, remote = ours.getsockname(), peer.getsockname()
    # The peer's descriptor stays open, so its end stays in the kernel; ours must go although no descriptor is left.

    stream = await adopt(ours, PATIENT)
    fd = ours.fileno()
    missing = await send_stuck(stream, peer)
    began = time.monotonic()
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
    # Unless this process has slept through the whole life of what it left.
    assert kernel_state(local, remote) is not None or time.monotonic() - began > 0.2
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
    assert 0.2 <= time.monotonic() - began < BOUND
    report = report_of(stream)
    assert (report.outcome, report.unacked_bytes) == (CloseOutcome.UNACKED, missing)
    assert 0.2 <= report.seconds < BOUND
    assert read_to_end(peer) == (STUCK, "FIN")


async def test_a_close_with_no_time_to_linger_does_not_wait(small_pair: Pair) -> None:
    ours, peer = small_pair

    stream = await adopt(ours, ClosePolicy(linger_seconds=0))
    missing = await send_stuck(stream, peer)

    def never(self: object, loop: object) -> None:
        raise AssertionError("it waits")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lingering_close.LingeringClose, "wait", never)
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
    # The peer reads in steps of its small buffer; each acknowledgement may make space, which is an edge.
    assert looks < 100
