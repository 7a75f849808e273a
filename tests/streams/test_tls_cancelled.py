"""TLS that waits ends at once when it is cancelled: by a scope or by asyncio's own ways, once or in each turn."""

from __future__ import annotations

import select
import socket
import sys
from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest
from support.cancelling import WAYS, Waiting, cancel
from support.sockets import Pair, count_to_end, ends_in_fin
from support.streams import ENDLESS, PATIENT, adopt
from support.threads import other_side, thread
from support.tls import DATA, Contexts, End, Gate, Peer, outcome, tls_over
from support.waiting import until

from roket_trio import (
    BrokenResourceError,
    CloseOutcome,
    SocketStream,
    TLSListener,
    TLSStream,
    connect_tcp,
    create_tcp_listener,
    relay,
    wrap_tls,
)
from roket_trio._kernel import tcp

pytestmark = [
    pytest.mark.parametrize("way", WAYS),
    pytest.mark.skipif(sys.platform != "linux", reason="what the kernel tells of a close is Linux's"),
]

# How long close_notify is on the wire in TLS 1.3 (bytes).
CLOSE_NOTIFY = 24


async def fill(stream: SocketStream) -> int:
    """Send until no kernel takes more, also of what goes above the limit for unsent data; returns how much that was."""
    sock, sent, refused = stream._connection.sock, 0, 0
    tcp.limit_unsent(sock, tcp.NO_LIMIT)
    while refused < 20:
        try:
            sent += sock.send(bytes(1 << 16) if not refused else b"x")
            refused = 0
        except BlockingIOError:
            refused += 1
            await anyio.sleep(0.002)
    return sent


def stream_below(tls: TLSStream) -> SocketStream:
    below = tls.transport_stream
    assert isinstance(below, SocketStream)
    return below


def has_arrived(listener: socket.socket) -> bool:
    return bool(select.select([listener], [], [], 0)[0])


# --- the handshake ---------------------------------------------------------------------------------------------------


async def test_a_handshake_with_a_silent_peer(pair: Pair, contexts: Contexts, side: str, way: str) -> None:
    ours, peer = pair
    stream = await adopt(ours, PATIENT)
    is_server = side == "server"

    async def handshake() -> TLSStream:
        return await wrap_tls(
            stream,
            server_side=is_server,
            hostname=None if is_server else "localhost",
            ssl_context=contexts.server if is_server else contexts.client,
        )

    await cancel(way, handshake, lambda: is_server or stream.statistics().sent_bytes)
    await stream.send(b"in the clear")  # what was sent was whole, and the stream is its owner's again
    await stream.aclose()
    seen = await other_side(count_to_end, peer)
    assert seen == (stream.statistics().sent_bytes, "FIN")


async def test_connecting_to_a_silent_server_leaves_no_connection(contexts: Contexts, way: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        async def connect() -> TLSStream:
            port = listener.getsockname()[1]
            return await connect_tcp("127.0.0.1", port, tls_hostname="localhost", ssl_context=contexts.client)

        await cancel(way, connect, lambda: has_arrived(listener))
        peer, _ = listener.accept()
        with peer:
            assert not await other_side(ends_in_fin, peer)


async def test_a_listeners_handshake_resets_the_silent_client(pair: Pair, contexts: Contexts, way: str) -> None:
    ours, peer = pair
    stream = await adopt(ours, PATIENT)
    async with await create_tcp_listener(local_host="127.0.0.1") as below:
        listener = TLSListener(below, ssl_context=contexts.server)
        await cancel(way, lambda: listener.handshake(stream))
    assert ours.fileno() == -1
    assert not await other_side(ends_in_fin, peer)


# --- sending and receiving -------------------------------------------------------------------------------------------


async def test_a_send_to_a_peer_that_takes_nothing(pair: Pair, contexts: Contexts, side: str, way: str) -> None:
    async with tls_over(pair, contexts, side) as (tls, peer):
        await cancel(way, lambda: tls.send(ENDLESS), lambda: tls.statistics().sent_bytes > len(DATA))
        with pytest.raises(BrokenResourceError, match="stopped after"):
            await tls.send(b"x")
        await tls.aclose()
        assert outcome(tls) is CloseOutcome.ABORTED
        assert (await other_side(peer.read_to_end)).tcp == "RST"


async def test_a_receive_loses_nothing(pair: Pair, contexts: Contexts, side: str, way: str, version: str) -> None:
    async with tls_over(pair, contexts, side) as (tls, peer):
        for piece in (b"one", b"two"):
            await cancel(way, tls.receive)
            peer.send(piece)
            assert await tls.receive() == piece
        await tls.send(b"three")
        with thread(peer.read_to_end) as seen:
            await tls.aclose()
        assert seen.result() == End(b"three", True, "FIN")


async def test_an_unwrap_can_be_called_again(pair: Pair, contexts: Contexts, side: str, way: str) -> None:
    async with tls_over(pair, contexts, side) as (tls, peer):
        await cancel(way, tls.unwrap)
        peer.send(b"sent before close_notify")
        assert await tls.receive() == b"sent before close_notify"
        peer.say_close()
        await tls.unwrap()


async def test_a_wait_for_space(pair: Pair, contexts: Contexts, way: str) -> None:
    async with tls_over(pair, contexts) as (tls, _):
        await fill(stream_below(tls))
        await cancel(way, tls.wait_send_all_might_not_block)
        assert not tls._life.is_cut


async def test_a_relay_between_tls_streams(contexts: Contexts, way: str, pair: Pair, small_pair: Pair) -> None:
    async with tls_over(pair, contexts) as (left, sender), tls_over(small_pair, contexts) as (right, reader):

        def send() -> None:
            with suppress(OSError):
                while True:
                    sender.send(DATA)

        with thread(send):
            await cancel(way, lambda: relay(left, right), lambda: right.statistics().sent_bytes > len(DATA) // 2)
            await right.aclose()
            left.abort()
        assert outcome(right) is CloseOutcome.ABORTED
        assert (await other_side(reader.read_to_end)).tcp == "RST"


# --- the close -------------------------------------------------------------------------------------------------------


async def test_a_close_that_waits_for_the_acknowledgement(
    small_pair: Pair, contexts: Contexts, way: str, version: str
) -> None:
    async with tls_over(small_pair, contexts) as (tls, peer):
        await tls.send(DATA[:100_000])
        await cancel(way, tls.aclose)
        assert small_pair[0].fileno() == -1
        assert outcome(tls) is CloseOutcome.UNACKED
        assert await other_side(peer.read_to_end) == End(DATA[:100_000], True, "FIN")


async def test_a_close_that_has_no_space_for_close_notify(small_pair: Pair, contexts: Contexts, way: str) -> None:
    """What was sent is whole, so it is delivered with a FIN; close_notify is left out."""
    ours, peer = small_pair
    async with tls_over(small_pair, contexts) as (tls, _):
        sent = await fill(stream_below(tls))
        await cancel(way, tls.aclose)
        assert ours.fileno() == -1
        assert outcome(tls) is CloseOutcome.UNACKED
        count, end = await other_side(count_to_end, peer)
        assert end == "FIN"
        assert count in (sent, sent + CLOSE_NOTIFY)  # a kernel that is late may have found space for it after all


async def test_a_close_over_a_foreign_transport(small_pair: Pair, contexts: Contexts, way: str) -> None:
    """It waits for the peer's close_notify. Cancelled, it does not wait for the transport's own close either."""
    ours, raw = small_pair
    below = await adopt(ours, PATIENT)
    peer = Peer(raw, contexts.server, server_side=True)
    with thread(peer.handshake):
        tls = await wrap_tls(Gate(below), hostname="localhost", ssl_context=contexts.client)
    tls.close_policy = PATIENT
    await tls.send(DATA[:100_000])
    await cancel(way, tls.aclose)
    assert ours.fileno() == -1
    assert await other_side(peer.read_to_end) == End(DATA[:100_000], True, "FIN")


@pytest.mark.parametrize("which", ["first", "second"])
async def test_one_of_two_tasks_that_close(small_pair: Pair, contexts: Contexts, way: str, which: str) -> None:
    """The one that is cancelled releases the socket for both."""
    async with tls_over(small_pair, contexts) as (tls, peer), anyio.create_task_group() as tasks:
        await tls.send(DATA[:100_000])
        closing = {"first": Waiting(way, tls.aclose), "second": Waiting(way, tls.aclose)}
        for one in closing.values():
            tasks.start_soon(one.run)
            await until(lambda: tls._closed is not None)
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        assert not any(one.is_over for one in closing.values())
        await closing[which].end()
        assert small_pair[0].fileno() == -1
        assert outcome(tls) is CloseOutcome.UNACKED
        other = closing["first" if which == "second" else "second"]
        await until(lambda: other.is_over)
        assert not other.was_cancelled
        assert await other_side(peer.read_to_end) == End(DATA[:100_000], True, "FIN")
