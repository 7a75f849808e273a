"""``supervise``: nothing stands still for longer than agreed, whatever the peer and the body do.

Everything is seen from the other side: the peer is a raw socket, and the kernel is asked for the connection's state."""

from __future__ import annotations

import math
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio
import trio.testing
from support.sockets import Pair, count_to_end, kernel_state, reset
from support.streams import ENDLESS, adopt
from support.supervised import CLOSE_WAIT, NEVER, SOON, connected, ends_of, finish
from support.waiting import BOUND, arrived, until

from roket_trio import (
    BrokenResourceError,
    EndOfStream,
    KeepAlive,
    PeerGoneError,
    copy,
    supervise,
)
from roket_trio._kernel import epoll, tcp
from roket_trio._loops import asyncio as asyncio_loop

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel tells of a connection is Linux's")


# A budget, and steps in which something moves: each well within it on a loaded machine too, all together longer.
STEADY = 1.2
STEP_SECONDS = STEADY / 8
STEPS = 10


# --- the budget after the peer has finished --------------------------------------------------------------------------


@pytest.mark.parametrize("end", [finish, socket.socket.close, reset])
async def test_a_peer_that_has_ended_holds_the_block_for_its_budget_and_no_longer(
    any_pair: Pair, end: Callable[[socket.socket], None]
) -> None:
    ours, peer = any_pair
    is_tcp = ours.family == socket.AF_INET

    fd = ours.fileno()
    ends = ends_of(ours)
    stream = await adopt(ours)
    end(peer)
    began = time.monotonic()
    with pytest.raises(PeerGoneError, match=r"the peer has finished .* moved for 0\.1 seconds") as caught:
        async with supervise(stream, close_wait_seconds=SOON) as same:
            assert same is stream
            await anyio.sleep(BOUND)
    assert SOON <= time.monotonic() - began < BOUND / 2
    assert isinstance(caught.value, anyio.BrokenResourceError)
    assert isinstance(caught.value, trio.BrokenResourceError)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert ours.fileno() == -1
    assert stream.close_report is not None
    with pytest.raises(OSError, match="Bad file descriptor"):
        socket.socket(fileno=fd)
    if is_tcp:
        assert kernel_state(*ends) != CLOSE_WAIT
    if end is finish:
        assert count_to_end(peer) == (0, "FIN")


async def test_while_the_budget_lasts_the_kernel_shows_close_wait_and_then_no_more(pair: Pair) -> None:
    ours, peer = pair

    ends = ends_of(ours)
    with pytest.raises(PeerGoneError):
        async with supervise(await adopt(ours), close_wait_seconds=SOON):
            finish(peer)
            await until(lambda: kernel_state(*ends) == CLOSE_WAIT)
            await anyio.sleep(BOUND)
    assert kernel_state(*ends) != CLOSE_WAIT


async def test_a_peer_that_goes_on_is_left_in_peace(any_pair: Pair) -> None:
    ours, peer = any_pair

    async with supervise(await adopt(ours), close_wait_seconds=SOON) as stream:
        await anyio.sleep(3 * SOON)
        peer.sendall(b"late")
        assert await stream.receive() == b"late"


async def test_with_an_infinite_budget_the_block_goes_on(pair: Pair) -> None:
    ours, peer = pair

    finish(peer)
    async with supervise(await adopt(ours), close_wait_seconds=math.inf):
        await anyio.sleep(SOON)
    assert count_to_end(peer) == (0, "FIN")


def test_the_cut_comes_at_most_an_eighth_of_the_budget_late_and_never_early() -> None:
    """On Trio's mock clock, where 30 seconds take none: once with nothing moving, then with a byte at a bad moment."""

    async def main(moves_at: float) -> float:
        stream = await adopt(ours)
        finish(peer)
        began = trio.current_time()
        with pytest.raises(PeerGoneError):
            async with supervise(stream):
                await trio.sleep(0.001)  # the kernel's news come in real time
                if moves_at:
                    await trio.sleep(moves_at)
                    await stream.send(b"x")
                await trio.sleep(10_000)
        return trio.current_time() - began - moves_at

    for moves_at in (0.0, 29.9, 0.1):
        ours, peer = connected("tcp")
        with ours, peer:
            taken = trio.run(main, moves_at, clock=trio.testing.MockClock(autojump_threshold=0.02))
        assert 30 <= taken <= 30 * 9 / 8
        if moves_at == 0.0:
            assert taken < 30.01


# --- what counts as progress -----------------------------------------------------------------------------------------


async def test_what_the_peer_sent_before_its_fin_can_be_read_and_reading_is_progress(pair: Pair) -> None:
    ours, peer = pair

    peer.sendall(bytes(STEPS))
    finish(peer)
    async with supervise(await adopt(ours), close_wait_seconds=STEADY) as stream:
        for _ in range(STEPS):
            await anyio.sleep(STEP_SECONDS)
            assert await stream.receive(1) == b"\0"
        with pytest.raises(EndOfStream):
            await stream.receive(1)


async def test_a_half_closed_peer_that_reads_a_long_answer_slowly_is_never_cut(small_pair: Pair) -> None:
    ours, peer = small_pair
    answer = bytes(range(256)) * 800  # much more than lies between the two: the send takes longer than the budget

    # A segment that finds so small a buffer full is sent again after 0.2, 0.6 and 1.4 seconds (RFC 6298).
    budget = 2 * STEADY
    received = bytearray()

    async def read_slowly() -> None:
        pause = 3 * STEADY / (len(answer) / 4096)
        while True:  # in the loop's own thread: a busy machine does not hold up the peer alone
            await arrived(peer)
            if not (chunk := peer.recv(4096)):
                break
            received.extend(chunk)
            await anyio.sleep(pause)

    finish(peer)
    began = time.monotonic()
    async with anyio.create_task_group() as tasks:
        async with supervise(await adopt(ours), close_wait_seconds=budget) as stream:
            tasks.start_soon(read_slowly)
            await stream.send(answer)
    assert received == answer
    assert time.monotonic() - began > budget * 9 / 8


async def test_acknowledged_is_progress_although_the_body_does_nothing(
    family: str, request: pytest.FixtureRequest
) -> None:
    """Everything lies in the kernel; the peer takes it bit by bit, and then stops."""
    ours, peer = request.getfixturevalue("small_pair" if family == "tcp" else "unix_pair")

    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    stream = await adopt(ours)
    finish(peer)
    sent = 120_000 if family == "tcp" else 100_000
    taken = 0
    with pytest.raises(PeerGoneError):
        async with supervise(stream, close_wait_seconds=STEADY):
            for _ in range(50):  # a UNIX socket's queue tells only of whole pieces
                await stream.send(bytes(sent // 50))
            assert stream.statistics().sent_bytes == sent
            for _ in range(STEPS):
                await anyio.sleep(STEP_SECONDS)
                taken += len(peer.recv(sent // 16, socket.MSG_WAITALL))
            began = time.monotonic()
            await anyio.sleep(BOUND)
    assert time.monotonic() - began >= STEADY - STEP_SECONDS
    assert count_to_end(peer)[0] + taken <= sent


async def test_a_file_that_comes_in_slowly_is_progress_although_one_call_takes_it_all(
    pair: Pair, tmp_path: Path
) -> None:
    ours, peer = pair

    async def send_slowly() -> None:
        for _ in range(STEPS):
            await anyio.sleep(STEP_SECONDS)
            peer.sendall(bytes(1000))
        finish(peer)

    async with anyio.create_task_group() as tasks:
        async with supervise(await adopt(ours), idle_seconds=STEADY) as stream:
            tasks.start_soon(send_slowly)
            with open(tmp_path / "target", "wb") as file:
                assert await stream.receive_file(file) == STEPS * 1000


async def test_a_spliced_relay_is_progress_on_both_sides(pairs: list[Pair]) -> None:
    (left, left_peer), (right, right_peer) = pairs[:2]

    async def send_slowly() -> None:
        for _ in range(STEPS):
            await anyio.sleep(STEP_SECONDS)
            left_peer.sendall(bytes(1000))
        finish(left_peer)

    async with anyio.create_task_group() as tasks:
        async with supervise(await adopt(left), idle_seconds=STEADY) as source:
            async with supervise(await adopt(right), idle_seconds=STEADY) as sink:
                tasks.start_soon(send_slowly)
                assert (await copy(source, sink)).bytes_moved == STEPS * 1000
    assert count_to_end(right_peer) == (STEPS * 1000, "FIN")


async def test_a_receiver_that_asks_again_at_the_end_moves_nothing(pair: Pair) -> None:
    ours, peer = pair

    finish(peer)
    with pytest.raises(PeerGoneError):
        async with supervise(await adopt(ours), close_wait_seconds=SOON) as stream:
            while await stream.receive_some() == b"":  # noqa: ASYNC110 - a receiver that does not take no
                await anyio.sleep(SOON / 20)


async def test_a_loop_that_stood_still_does_not_use_up_the_budget(pairs: list[Pair]) -> None:
    """Those who would have moved something stood still with it."""

    async def body(ours: socket.socket, peer: socket.socket) -> None:
        peer.sendall(b"request")
        finish(peer)
        async with supervise(await adopt(ours), close_wait_seconds=SOON) as stream:
            await anyio.sleep(SOON / 4)
            assert await stream.receive() == b"request"
            await stream.send(b"answer")
        assert count_to_end(peer) == (6, "FIN")

    async with anyio.create_task_group() as tasks:
        for ours, peer in pairs:
            tasks.start_soon(body, ours, peer)
        await anyio.sleep(SOON / 8)
        time.sleep(2 * SOON)  # noqa: ASYNC251 - that is the point


# --- idle_seconds ----------------------------------------------------------------------------------------------------


async def test_a_silent_peer_is_cut_after_idle_seconds_without_any_fin(any_pair: Pair) -> None:
    ours, peer = any_pair

    began = time.monotonic()
    with pytest.raises(PeerGoneError, match=r"^nothing has moved for 0\.1 seconds"):
        async with supervise(await adopt(ours), idle_seconds=SOON) as stream:
            await stream.receive()
    assert SOON <= time.monotonic() - began < BOUND / 2
    assert count_to_end(peer) == (0, "FIN")


async def test_bytes_either_way_keep_an_idle_bound_from_running_out(pair: Pair) -> None:
    ours, peer = pair

    began = time.monotonic()
    with pytest.raises(PeerGoneError):
        async with supervise(await adopt(ours), idle_seconds=STEADY) as stream:
            for _ in range(STEPS // 2):
                await anyio.sleep(STEP_SECONDS)
                await stream.send(b"x")
                await anyio.sleep(STEP_SECONDS)
                peer.sendall(b"y")
                await stream.receive()
            await anyio.sleep(BOUND)
    assert time.monotonic() - began >= STEPS * STEP_SECONDS + STEADY
    assert count_to_end(peer) == (STEPS // 2, "FIN")


async def test_after_the_peers_fin_the_shorter_of_both_bounds_holds(any_pair: Pair) -> None:
    ours, peer = any_pair

    finish(peer)
    with pytest.raises(PeerGoneError, match=r"0\.1 seconds"):
        async with supervise(await adopt(ours), close_wait_seconds=NEVER, idle_seconds=SOON):
            await anyio.sleep(BOUND)


async def test_a_fin_shortens_an_idle_time_that_runs(any_pair: Pair) -> None:
    ours, peer = any_pair

    with pytest.raises(PeerGoneError, match=r"0\.1 seconds"):
        async with supervise(await adopt(ours), close_wait_seconds=SOON, idle_seconds=NEVER):
            await anyio.sleep(SOON)
            finish(peer)
            await anyio.sleep(BOUND)


# --- keepalive -------------------------------------------------------------------------------------------------------


def options(sock: socket.socket) -> list[int]:
    tcp_options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
    return [
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        *(sock.getsockopt(socket.IPPROTO_TCP, option) for option in tcp_options),
    ]


async def test_keepalive_is_on_and_its_times_are_those_documented(pair: Pair) -> None:
    ours, _ = pair

    async with supervise(await adopt(ours)):
        assert options(ours) == [1, 60, 15, 4, 120_000]


async def test_keepalive_can_be_set_and_left_alone(pairs: list[Pair]) -> None:
    (first, _), (second, _), (third, _) = pairs[:3]

    untouched = options(first)
    async with supervise(await adopt(first), keepalive=None):
        assert options(first) == untouched
    async with supervise(await adopt(second), keepalive=KeepAlive(0.5, 2.5, 3, 1.5)):
        assert options(second) == [1, 1, 3, 3, 1500]
    async with supervise(await adopt(third), keepalive=KeepAlive(user_timeout_seconds=None)):
        assert options(third) == [1, 60, 15, 4, untouched[-1]]


async def test_a_peer_that_takes_nothing_for_the_user_timeout_is_given_up_by_the_kernel(small_pair: Pair) -> None:
    ours, _ = small_pair

    with pytest.raises(BrokenResourceError, match="timed out"):
        async with supervise(await adopt(ours), keepalive=KeepAlive(user_timeout_seconds=0.3)) as stream:
            with anyio.fail_after(BOUND):
                await stream.send(ENDLESS)


@pytest.mark.parametrize(
    "arguments",
    [
        {"idle_seconds": 0},
        {"idle_seconds": 40_000},
        {"interval_seconds": math.nan},
        {"probes": 0},
        {"probes": 128},
        {"user_timeout_seconds": 0},
        {"user_timeout_seconds": math.inf},
    ],
)
def test_what_the_kernel_would_refuse_is_a_value_error(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        KeepAlive(**arguments)


# --- without the fast paths ------------------------------------------------------------------------------------------


@pytest.fixture
def without_epoll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoll, "AVAILABLE", False)
    monkeypatch.setattr(tcp, "HAVE_TCP_INFO", False)
    monkeypatch.setattr(asyncio_loop, "USE_SHARED_EPOLL", False)


@pytest.mark.usefixtures("without_epoll")
@pytest.mark.parametrize("end", [finish, reset])
async def test_without_epoll_the_end_is_looked_for(any_pair: Pair, end: Callable[[socket.socket], None]) -> None:
    ours, peer = any_pair

    began = time.monotonic()
    with pytest.raises(PeerGoneError):
        async with supervise(await adopt(ours), close_wait_seconds=SOON):
            await anyio.sleep(SOON)
            end(peer)
            await anyio.sleep(BOUND)
    assert 2 * SOON <= time.monotonic() - began < BOUND / 2
    assert ours.fileno() == -1


@pytest.mark.usefixtures("without_epoll")
async def test_without_epoll_a_living_peer_is_left_in_peace_and_an_idle_one_cut(any_pair: Pair) -> None:
    ours, peer = any_pair

    began = time.monotonic()
    with pytest.raises(PeerGoneError):
        async with supervise(await adopt(ours), close_wait_seconds=SOON, idle_seconds=4 * SOON) as stream:
            await anyio.sleep(2 * SOON)
            peer.sendall(b"x")
            assert await stream.receive() == b"x"
            await anyio.sleep(BOUND)
    assert time.monotonic() - began >= 6 * SOON
