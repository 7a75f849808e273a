"""The end that comes from the peer, or from another task, while a stream is received from."""

from __future__ import annotations

import errno
import os
import socket
import sys

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from support.close_contract import unread
from support.sockets import Pair, read_to_end, reset
from support.streams import PATIENT, adopt, report_of, stream_over
from support.waiting import arrived, gone, until

from roket_trio import (
    BrokenResourceError,
    ClosedResourceError,
    CloseOutcome,
    EndOfStream,
)
from roket_trio._kernel import tcp

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel tells of a close is Linux's")


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
