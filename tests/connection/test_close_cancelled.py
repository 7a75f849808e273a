"""A close that waits ends at once when it is cancelled: by a scope or by asyncio's own ways, once or in each turn."""

from __future__ import annotations

import sys

import anyio
import anyio.lowlevel
import pytest
from support.cancelling import WAYS, Waiting, cancel
from support.sockets import Pair, count_to_end, ends_in_fin, read_to_end
from support.streams import ENDLESS, PATIENT, adopt, report_of
from support.threads import other_side
from support.waiting import until

from roket_trio import CloseOutcome, ClosePolicy, supervise
from roket_trio._kernel import tcp

pytestmark = [
    pytest.mark.parametrize("way", WAYS),
    pytest.mark.skipif(sys.platform != "linux", reason="what the kernel tells of a close is Linux's"),
]

# More than the peer's kernel takes, and less than a send waits for.
SENT = bytes(100_000)


async def test_a_close_that_waits_for_the_acknowledgement(small_pair: Pair, way: str) -> None:
    ours, peer = small_pair
    stream = await adopt(ours, PATIENT)
    await stream.send(SENT)
    await cancel(way, stream.aclose)
    assert ours.fileno() == -1
    assert report_of(stream).outcome is CloseOutcome.UNACKED
    assert await other_side(count_to_end, peer) == (len(SENT), "FIN")


async def test_a_close_that_waits_for_the_peers_fin(pair: Pair, way: str) -> None:
    ours, peer = pair
    stream = await adopt(ours, ClosePolicy(wait_for_peer=True, linger_seconds=30, idle_seconds=30))
    await stream.send(b"an early answer")
    await cancel(way, stream.aclose, lambda: tcp.tcp_state(ours) == tcp.TCPState.FIN_WAIT2)
    assert ours.fileno() == -1
    assert report_of(stream).outcome is CloseOutcome.ACKED
    assert await other_side(read_to_end, peer) == (b"an early answer", "FIN")


@pytest.mark.parametrize("which", ["first", "second"])
async def test_one_of_two_tasks_that_close(small_pair: Pair, way: str, which: str) -> None:
    """The one that is cancelled releases the socket for both."""
    ours, peer = small_pair
    stream = await adopt(ours, PATIENT)
    await stream.send(SENT)
    async with anyio.create_task_group() as tasks:
        closing = {"first": Waiting(way, stream.aclose), "second": Waiting(way, stream.aclose)}
        for one in closing.values():
            tasks.start_soon(one.run)
            await until(lambda: stream._connection._is_closing)
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        assert not any(one.is_over for one in closing.values())
        await closing.pop(which).end()
        assert ours.fileno() == -1
        (other,) = closing.values()
        await until(lambda: other.is_over)
        assert not other.was_cancelled
    assert report_of(stream).outcome is CloseOutcome.UNACKED
    assert await other_side(count_to_end, peer) == (len(SENT), "FIN")


@pytest.mark.parametrize("supervised", [False, True], ids=["async with", "supervise"])
async def test_a_block_that_waits_in_the_middle_of_a_send(any_pair: Pair, way: str, supervised: bool) -> None:
    ours, peer = any_pair
    stream = await adopt(ours, PATIENT)

    async def block() -> None:
        async with supervise(stream) if supervised else stream:
            await stream.send(ENDLESS)

    await cancel(way, block, lambda: stream.statistics().sent_bytes)
    assert ours.fileno() == -1
    assert report_of(stream).outcome is CloseOutcome.ABORTED
    if stream._connection.accounting.is_tcp:
        assert not await other_side(ends_in_fin, peer)


async def test_a_block_that_waits_for_its_close(small_pair: Pair, way: str) -> None:
    ours, peer = small_pair
    stream = await adopt(ours, PATIENT)

    async def block() -> None:
        async with stream:
            await stream.send(SENT)

    await cancel(way, block, lambda: stream._connection._is_closing)
    assert ours.fileno() == -1
    assert report_of(stream).outcome is CloseOutcome.UNACKED
    assert await other_side(count_to_end, peer) == (len(SENT), "FIN")
