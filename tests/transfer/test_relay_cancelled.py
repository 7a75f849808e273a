"""A relay that waits ends at once when it is cancelled: by a scope or by asyncio's own ways, once or in each turn."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
from support.cancelling import WAYS, cancel
from support.sockets import Pair, connected, ends_in_fin, read_to_end
from support.streams import PATIENT, stream_over
from support.threads import other_side, thread
from support.waiting import arrived

from roket_trio import relay
from roket_trio._kernel import splice

pytestmark = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(params=["splice", "read-send"], autouse=True)
def _route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "read-send":
        monkeypatch.setattr(splice, "AVAILABLE", False)


@pytest.fixture
def other_pair() -> Iterator[Pair]:
    with connected(send_buffer=1 << 16, receive_buffer=4096) as sockets:
        yield sockets


async def test_between_two_silent_peers(pair: Pair, other_pair: Pair, way: str) -> None:
    """Nothing is cut: both connections can be used."""
    async with stream_over(pair[0], PATIENT) as left, stream_over(other_pair[0], PATIENT) as right:
        await cancel(way, lambda: relay(left, right))
        for stream, peer in ((left, pair[1]), (right, other_pair[1])):
            await stream.send(b"afterwards")
            await stream.aclose()
            assert await other_side(read_to_end, peer) == (b"afterwards", "FIN")


async def test_into_a_peer_that_takes_nothing(pair: Pair, other_pair: Pair, way: str) -> None:
    """The direction that was stopped in the middle is cut."""

    def send(peer: socket.socket) -> None:
        with suppress(OSError):
            while True:
                peer.sendall(bytes(1 << 16))

    async with stream_over(pair[0], PATIENT) as left, stream_over(other_pair[0], PATIENT) as right:
        with thread(send, pair[1]):
            await cancel(way, lambda: relay(left, right), lambda: right.statistics().sent_bytes)
            await right.aclose()
            left.abort()
        assert not await other_side(ends_in_fin, other_pair[1])


async def test_in_its_second_half(pair: Pair, other_pair: Pair, way: str) -> None:
    """What has ended was passed on whole; the other direction can go on."""
    async with stream_over(pair[0], PATIENT) as left, stream_over(other_pair[0], PATIENT) as right:
        pair[1].sendall(b"a request")
        pair[1].shutdown(socket.SHUT_WR)
        await cancel(way, lambda: relay(left, right), lambda: right._connection.life.sent_eof)
        assert await other_side(read_to_end, other_pair[1]) == (b"a request", "FIN")
        other_pair[1].sendall(b"an answer")
        await arrived(other_pair[0])
        assert await right.receive() == b"an answer"
