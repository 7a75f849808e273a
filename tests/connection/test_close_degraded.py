"""The close contract without the kernel's fast paths, and under asyncio's own cancellation."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from support.close_contract import STUCK, cut, is_open, send_stuck, upload_then_read
from support.loops import Run
from support.sockets import Pair, read_to_end, reset
from support.streams import ENDLESS, PATIENT, adopt, report_of, stream_over
from support.threads import other_side
from support.waiting import arrived, until

from roket_trio import (
    BrokenResourceError,
    ClosedResourceError,
    CloseOutcome,
    ClosePolicy,
    EndOfStream,
)
from roket_trio._connection.states import Phase
from roket_trio._kernel import epoll, tcp
from roket_trio._loops import asyncio as loops_room

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel tells of a close is Linux's")


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


@pytest.mark.usefixtures("degraded")
async def test_degraded_an_idle_streams_descriptor_goes_at_the_peers_end(pair: Pair) -> None:
    ours, peer = pair

    async with stream_over(ours, ClosePolicy(linger_seconds=0.1)) as stream:
        stream.release_at_fin()
        peer.shutdown(socket.SHUT_WR)
        await until(lambda: ours.fileno() == -1)
        with pytest.raises(EndOfStream):
            await stream.receive()
    assert read_to_end(peer) == (b"", "FIN")


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
