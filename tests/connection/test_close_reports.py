"""Aborts, closes that wait for the peer, and what the report says of each."""

from __future__ import annotations

import socket
import sys
import time
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from support.close_contract import STUCK, is_open, send_stuck, start_endless_send, unread, upload_then_read
from support.sockets import Pair, read_to_end, reset
from support.streams import PATIENT, adopt, report_of
from support.threads import other_side
from support.waiting import BOUND, arrived, gone, until

from roket_trio import (
    BrokenResourceError,
    ClosedResourceError,
    CloseOutcome,
    ClosePolicy,
)
from roket_trio._connection import lingering_close
from roket_trio._kernel import tcp
from roket_trio._kernel.drain import Discarded, discard_received

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel tells of a close is Linux's")


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
    assert 0.25 <= time.monotonic() - began < BOUND
    assert (report_of(stream).outcome, report_of(stream).peer_closed) == (CloseOutcome.ACKED, False)
    assert read_to_end(peer) == (b"answer", "FIN")


async def test_a_peer_that_goes_on_talking_is_not_idle(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of the test's own, as no busy machine keeps the peer from talking in time."""
    ours, peer = pair
    now = discarded = 0

    def discard_and_count(sock: socket.socket, **how: Any) -> Discarded:
        nonlocal discarded
        found = discard_received(sock, **how)
        discarded += found.dropped
        return found

    monkeypatch.setattr(lingering_close, "monotonic", lambda: now)
    monkeypatch.setattr(lingering_close, "discard_received", discard_and_count)

    stream = await adopt(ours, ClosePolicy(wait_for_peer=True, linger_seconds=30, idle_seconds=3))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.aclose)
        for said in range(4, 36, 4):
            now += 2
            peer.sendall(b"talk")
            await until(lambda said=said: discarded == said)  # type: ignore[misc]
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

    monkeypatch.setattr(lingering_close, "discard_received", never_empty)
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
