"""``TLSStream`` over transports that are not ours, and TLS that is taken off again."""

from __future__ import annotations

import select
import socket
import ssl
import sys
import time
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.streams.buffered
import anyio.streams.tls
import anyio.to_thread
import pytest
import trio
import trio.testing
from support.sockets import Pair
from support.threads import other_side, thread
from support.tls import DATA, Contexts, End, Gate, Peer, cut, foreign, memory_pair, outcome, server_thread, tls_over
from support.waiting import BOUND, until

from roket_trio import (
    BrokenResourceError,
    BusyResourceError,
    ClosedResourceError,
    CloseOutcome,
    ClosePolicy,
    EndOfStream,
    TruncatedError,
    connect_tcp,
    wrap_tls,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel tells of a close is Linux's")


# --- TLS is taken off again ------------------------------------------------------------------------------------------


async def test_unwrap_gives_back_the_transport_and_what_came_behind(
    pair: Pair, contexts: Contexts, side: str, version: str
) -> None:
    async with tls_over(pair, contexts, side) as (tls, peer):
        peer.ssl.write(b"encrypted")
        with suppress(ssl.SSLWantReadError):
            peer.ssl.unwrap()
        peer.sock.sendall(peer.outgoing.read() + b"in the clear")
        assert await tls.receive() == b"encrypted"
        below, rest = await tls.unwrap()
        assert below is tls.transport_stream
        assert rest == b"in the clear"
        await below.send(b"so am I")
        assert peer.receive_some() == b""  # our close_notify
        assert (peer.incoming.read() or peer.sock.recv(100)) == b"so am I"
        for call in (tls.send(b"x"), tls.receive(), tls.unwrap()):
            with pytest.raises(ClosedResourceError):
                await call
        await tls.aclose()
        assert pair[0].fileno() == -1
        assert pair[1].recv(1) == b""


async def test_unwrap_can_be_cancelled_and_tried_again(pair: Pair, contexts: Contexts, version: str) -> None:
    async with tls_over(pair, contexts) as (tls, peer):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tls.unwrap)
            await until(lambda: bool(select.select([pair[1]], [], [], 0)[0]))
            tasks.cancel_scope.cancel()
        with pytest.raises(BrokenResourceError, match="cannot send after unwrap"):
            await tls.send(b"x")
        assert peer.receive_some() == b""
        peer.say_close()
        with pytest.raises(EndOfStream):
            await tls.receive()
        assert await tls.receive_some() == b""
        below, rest = await tls.unwrap()
        assert rest == b""
        await below.send(b"in the clear")
        assert peer.sock.recv(100) == b"in the clear"
        await below.aclose()


async def test_unwrap_before_everything_was_received_fails(pair: Pair, contexts: Contexts, version: str) -> None:
    async with tls_over(pair, contexts) as (tls, peer):
        peer.send(b"not received")
        with pytest.raises(BrokenResourceError, match=r"(?i)application.data.after.close.notify"):
            await tls.unwrap()
        await tls.aclose()
        assert peer.read_to_end() == End(b"", True, "FIN")


@pytest.mark.parametrize("standard", [True, False], ids=["standard", "lax"])
async def test_unwrap_notices_a_truncation(pair: Pair, contexts: Contexts, side: str, standard: bool) -> None:
    async with tls_over(pair, contexts, side, standard=standard) as (tls, peer):
        peer.sock.shutdown(socket.SHUT_WR)
        with pytest.raises(TruncatedError if standard else EndOfStream):
            await tls.unwrap()
        await tls.aclose()


# --- other transports ------------------------------------------------------------------------------------------------


async def test_tls_over_a_unix_socket(contexts: Contexts, side: str, version: str) -> None:
    ours, raw = socket.socketpair()
    raw.settimeout(BOUND)

    with raw:
        async with tls_over((ours, raw), contexts, side) as (tls, peer):
            await tls.send(DATA)
            with thread(peer.read_to_end) as seen:
                await tls.aclose()
            assert seen.result() == End(DATA, True, "FIN")


async def test_tls_over_a_foreign_stream(contexts: Contexts, version: str) -> None:
    async with foreign(contexts) as (one, other):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.send, DATA)
            received = b""
            while len(received) < len(DATA):
                received += await other.receive()
        assert received == DATA
        assert one.close_report is None
        for call in (one.statistics, one.abort):
            with pytest.raises(TypeError, match="no SocketStream below"):
                call()
        with pytest.raises(TypeError, match="no SocketStream below"):
            await one.wait_peer_closed()
        await one.wait_send_all_might_not_block()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.aclose)
            with pytest.raises(EndOfStream):
                await other.receive()
            await other.aclose()
        for stream in (one, other):
            with pytest.raises(ClosedResourceError):
                await stream.receive()


async def test_over_anyios_sockets_unread_data_destroys_nothing(
    pair: Pair, contexts: Contexts, side: str, version: str
) -> None:
    """They do not drain: ours reads until the peer has finished too."""
    is_server = side == "server"
    peer = Peer(pair[1], contexts.client if is_server else contexts.server, server_side=not is_server)

    def serve() -> End:
        peer.handshake()
        peer.send(DATA[:20_000])
        end = End(peer.receive(len(DATA)), peer.receive_some() == b"", "?")
        peer.send(DATA[:20_000])
        peer.say_close()
        return end

    stream = await anyio.abc.SocketStream.from_socket(pair[0])
    how = (
        {"server_side": True, "ssl_context": contexts.server}
        if is_server
        else {"hostname": "localhost", "ssl_context": contexts.client}
    )
    with thread(serve) as seen:
        tls = await wrap_tls(stream, **how)  # type: ignore[arg-type]
        assert await tls.receive(1) == DATA[:1]  # the rest of that record is decrypted, the others are not
        await tls.send(DATA)
        await tls.aclose()
    assert seen.result()[:2] == (DATA, True)
    assert pair[1].recv(1) == b""


async def test_over_a_foreign_stream_too_a_peer_that_never_answers_costs_the_bound(contexts: Contexts) -> None:
    async with foreign(contexts) as (one, other):
        one.close_policy = ClosePolicy(linger_seconds=0.2)
        assert other.close_policy != one.close_policy
        began = time.monotonic()
        await one.aclose()
        assert 0.15 <= time.monotonic() - began < BOUND
        with pytest.raises(EndOfStream):
            await other.receive()


async def test_a_local_close_is_never_an_end_over_a_foreign_stream_either(contexts: Contexts) -> None:
    """Some streams say so: asyncio's own, for one."""

    class Ending(Gate):
        async def receive(self, max_bytes: int = 65536) -> bytes:
            try:
                return await super().receive(max_bytes)
            except ClosedResourceError:
                raise anyio.EndOfStream from None

    def serve(sock: socket.socket) -> End:
        peer = Peer(sock, contexts.server, server_side=True)
        peer.handshake()
        return peer.read_to_end()

    with server_thread(serve) as (port, seen):
        transport = Ending(await connect_tcp("127.0.0.1", port))
        tls = await wrap_tls(transport, hostname="localhost", ssl_context=contexts.client)
        errors: list[Exception] = []

        async def receive() -> None:
            try:
                await tls.receive()
            except (ClosedResourceError, EndOfStream) as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await until(lambda: transport.readers == 1)
            tls.close_policy = ClosePolicy(linger_seconds=0.1)
            await tls.aclose()
        assert [type(error) for error in errors] == [ClosedResourceError]
    assert seen.result() == End(b"", True, "FIN")


async def test_a_foreign_streams_errors_become_ours(contexts: Contexts) -> None:
    class Failing(anyio.abc.ByteStream):
        error: Exception | None = None

        def __init__(self, transport: Any) -> None:
            self.transport = transport

        async def receive(self, max_bytes: int = 65536) -> bytes:
            if self.error is not None:
                raise self.error
            return await self.transport.receive()  # type: ignore[no-any-return]

        async def send(self, item: bytes) -> None:
            if self.error is not None:
                raise self.error
            await self.transport.send(item)

        async def send_eof(self) -> None:
            raise NotImplementedError

        async def aclose(self) -> None:
            raise OSError("the close has failed as well")

    for error, kind in (
        (anyio.BrokenResourceError("gone"), BrokenResourceError),
        (anyio.ClosedResourceError("gone"), ClosedResourceError),
        (anyio.BusyResourceError("using"), BusyResourceError),
        (trio.BrokenResourceError("gone"), BrokenResourceError),
        (OSError(5, "gone"), BrokenResourceError),
    ):
        async with memory_pair() as (one, other):
            transport = Failing(one)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(wrap_tls, other, server_side=True, ssl_context=contexts.server))
                tls = await wrap_tls(transport, hostname="localhost", ssl_context=contexts.client)
            transport.error = error
            with pytest.raises(kind) as caught:
                await tls.receive()
            assert caught.value.__cause__ is error
            with pytest.raises(kind):
                await tls.send(b"x")
            if kind is BusyResourceError:
                with pytest.raises(OSError, match="the close has failed as well"):
                    async with tls:
                        pass
                continue
            with pytest.raises(ZeroDivisionError):  # which the failure to close does not mask
                async with tls:
                    raise ZeroDivisionError


async def test_tls_in_tls(pair: Pair, contexts: Contexts, version: str) -> None:
    async with tls_over(pair, contexts) as (outer, peer):

        def serve() -> tuple[End, bytes, End]:
            inner = Peer(peer.sock, contexts.server, server_side=True)
            # What it sends and receives goes through the outer one.
            inner.sock = Through(peer)  # type: ignore[assignment]
            inner.handshake()
            end = inner.read_to_end()
            return end, b"", peer.read_to_end()

        with thread(serve) as seen:
            inner = await wrap_tls(outer, hostname="localhost", ssl_context=contexts.client)
            assert inner.transport_stream is outer
            await inner.send(DATA)
            await inner.aclose()
        assert seen.result() == (End(DATA, True, "FIN"), b"", End(b"", True, "FIN"))
        assert outcome(inner) in (CloseOutcome.ACKED, CloseOutcome.CLEAN)
        assert inner.close_report is outer.close_report
        with pytest.raises(ClosedResourceError):
            await outer.receive()


class Through:
    """A socket's two calls, over a peer's TLS."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    def recv(self, count: int) -> bytes:
        return self.peer.receive_some(count)

    def sendall(self, data: bytes) -> None:
        self.peer.send(data)


async def test_a_cut_in_tls_in_tls_resets_the_connection(pair: Pair, contexts: Contexts) -> None:
    async with tls_over(pair, contexts) as (outer, peer):
        inner_peer = Peer(peer.sock, contexts.server, server_side=True)
        inner_peer.sock = Through(peer)  # type: ignore[assignment]
        with thread(inner_peer.handshake):
            inner = await wrap_tls(outer, hostname="localhost", ssl_context=contexts.client)
        await cut(inner)
        await inner.aclose()
        assert (await other_side(peer.read_to_end))[1:] == (False, "RST")
        assert outcome(inner) is CloseOutcome.ABORTED


async def test_the_streams_of_anyio_work_over_it(pair: Pair, contexts: Contexts) -> None:
    async with tls_over(pair, contexts) as (tls, peer):
        buffered = anyio.streams.buffered.BufferedByteStream(tls)
        peer.send(b"a line\nand more")
        assert await buffered.receive_until(b"\n", 100) == b"a line"
        await buffered.send(b"answer")
        await buffered.aclose()
        assert peer.read_to_end() == End(b"answer", True, "FIN")
