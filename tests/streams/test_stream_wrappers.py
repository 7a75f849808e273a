"""What AnyIO, Trio and TLS put over a ``SocketStream``."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
import trio
import trio.testing
import trustme
from anyio.abc import SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream, BufferedByteStream
from anyio.streams.stapled import StapledByteStream
from anyio.streams.text import TextReceiveStream, TextStream
from anyio.streams.tls import TLSAttribute
from support.loops import Run
from support.sockets import Pair, read_to_fin
from support.streams import stream_over
from support.threads import thread
from support.waiting import BOUND, until

from roket_trio import (
    SocketStream,
    TLSListener,
    TLSStream,
    UNIXSocketStream,
    create_tcp_listener,
    wrap_tls,
)

# --- what AnyIO and Trio put over a stream ---------------------------------------------------------------------------


async def test_anyios_buffered_streams_work_over_ours(any_pair: Pair) -> None:
    async with stream_over(any_pair[0]) as stream:
        any_pair[1].sendall(b"header\r\n12345678abcdrest")
        any_pair[1].shutdown(socket.SHUT_WR)
        buffered = BufferedByteStream(stream)
        assert await buffered.receive_until(b"\r\n", 100) == b"header"
        assert await buffered.receive_exactly(8) == b"12345678"
        assert await buffered.receive(4) == b"abcd"
        assert buffered.extra(SocketAttribute.family) == any_pair[0].family
        with pytest.raises(anyio.IncompleteRead):
            await buffered.receive_exactly(100)
        await buffered.send(b"reply")
        await buffered.send_eof()
        assert read_to_fin(any_pair[1]) == b"reply"
        await buffered.aclose()
        assert stream.close_report is not None
        with pytest.raises(anyio.ClosedResourceError):
            await BufferedByteReceiveStream(stream).receive()


async def test_anyios_text_streams_work_over_ours(any_pair: Pair) -> None:
    async with stream_over(any_pair[0]) as stream:
        text = TextStream(stream, encoding="utf-8")
        await text.send("Grüße")
        assert any_pair[1].recv(100) == "Grüße".encode()
        encoded = "über".encode()
        any_pair[1].sendall(encoded[:1])  # a character in two halves
        async with anyio.create_task_group() as tasks:
            received: list[str] = []

            async def reader() -> None:
                received.extend([part async for part in TextReceiveStream(stream)])

            tasks.start_soon(reader)
            await anyio.wait_all_tasks_blocked()
            any_pair[1].sendall(encoded[1:])
            any_pair[1].shutdown(socket.SHUT_WR)
        assert "".join(received) == "über"


def test_anyios_stapled_stream_works_over_two_of_ours(run: Run) -> None:
    out, out_peer = socket.socketpair()
    into, into_peer = socket.socketpair()

    async def main() -> None:
        sending, receiving = await UNIXSocketStream.from_socket(out), await UNIXSocketStream.from_socket(into)
        async with StapledByteStream(sending, receiving) as both:
            await both.send(b"there")
            assert out_peer.recv(100) == b"there"
            into_peer.sendall(b"back")
            assert await both.receive() == b"back"
        assert sending.close_report is not None
        assert receiving.close_report is not None

    with out, out_peer, into, into_peer:
        run(main)


def test_trios_stapled_stream_and_its_buffered_reader_work_over_ours(any_pair: Pair) -> None:
    async def main() -> None:
        async with stream_over(any_pair[0]) as stream:
            both = trio.StapledStream(stream, stream)
            any_pair[1].sendall(b"ping")
            any_pair[1].shutdown(socket.SHUT_WR)
            assert await both.receive_some() == b"ping"
            await both.send_all(b"pong")
            await both.send_eof()
            assert read_to_fin(any_pair[1]) == b"pong"
            assert await both.receive_some() == b""
            await both.aclose()

    trio.run(main)


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    authority.configure_trust(context)
    return context


def tls_reversing_server(sock: socket.socket, context: ssl.SSLContext, *, unwrap: bool = True) -> None:
    """One request, its reverse, and close_notify if it is well-behaved."""
    with context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False) as tls:
        tls.sendall(tls.recv(100)[::-1])
        if unwrap:
            tls.unwrap().close()


@pytest.mark.parametrize("make", [wrap_tls, TLSStream.wrap], ids=["wrap_tls", "TLSStream.wrap"])
async def test_tls_over_a_stream_that_is_open_already(
    any_pair: Pair, make: Callable[..., Any], server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with stream_over(any_pair[0]) as stream:
        with thread(tls_reversing_server, any_pair[1], server_context):
            tls = await make(stream, hostname="localhost", ssl_context=client_context)
            assert isinstance(tls, TLSStream)
            await tls.send(b"hello")
            assert await tls.receive() == b"olleh"
            with pytest.raises(anyio.EndOfStream):
                await tls.receive()
            assert tls.extra(SocketAttribute.family) == any_pair[0].family
            assert tls.extra(SocketAttribute.raw_socket) is any_pair[0]
            assert tls.extra(TLSAttribute.server_side) is False
            assert tls.extra(TLSAttribute.tls_version).startswith("TLSv")
            await tls.aclose()
        assert stream.close_report is not None


async def test_tls_can_be_taken_off_again(
    any_pair: Pair, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    def peer() -> bytes:
        with server_context.wrap_socket(any_pair[1], server_side=True, suppress_ragged_eofs=False) as tls:
            tls.sendall(b"encrypted")
            with tls.unwrap() as plain:
                plain.sendall(b"unencrypted")
                return plain.recv(100)

    async with stream_over(any_pair[0]) as stream:
        with thread(peer) as seen:
            tls = await wrap_tls(stream, hostname="localhost", ssl_context=client_context)
            assert await tls.receive() == b"encrypted"
            plain, rest = await tls.unwrap()
            assert plain is stream
            while len(rest) < len(b"unencrypted"):
                rest += await plain.receive()
            assert rest == b"unencrypted"
            await plain.send(b"so am I")
        assert seen.result() == b"so am I"


def test_tls_that_ends_without_close_notify_is_broken_unless_that_is_allowed(
    run: Run, any_pair: Pair, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def main(standard_compatible: bool) -> None:
        async with stream_over(any_pair[0]) as stream:
            with thread(lambda: tls_reversing_server(any_pair[1], server_context, unwrap=False)):
                tls = await wrap_tls(
                    stream,
                    hostname="localhost",
                    ssl_context=client_context,
                    standard_compatible=standard_compatible,
                )
                await tls.send(b"hello")
                assert await tls.receive() == b"olleh"
                with pytest.raises(anyio.BrokenResourceError if standard_compatible else anyio.EndOfStream):
                    await tls.receive()

    run(main, any_pair[0].family == socket.AF_INET)


async def test_a_failed_handshake_raises_and_leaves_the_stream_to_its_owner(
    any_pair: Pair, server_context: ssl.SSLContext
) -> None:
    def peer() -> None:
        with pytest.raises(ssl.SSLError), server_context.wrap_socket(any_pair[1], server_side=True):
            pass

    async with stream_over(any_pair[0]) as stream:
        with thread(peer):
            with pytest.raises(ssl.SSLCertVerificationError):
                await wrap_tls(stream, hostname="localhost")  # the default context trusts no test authority
            await stream.aclose()
        assert stream.close_report is not None


async def test_a_tls_listener_serves_over_our_listener(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    server_context.set_alpn_protocols(["h2"])
    client_context.set_alpn_protocols(["h2"])

    def client(address: tuple[str, int]) -> bytes:
        with (
            socket.create_connection(address, timeout=BOUND) as plain,
            client_context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as tls,
        ):
            tls.sendall(b"hello")
            data: bytes = tls.recv(100)
            tls.unwrap()
            return data

    seen: list[Any] = []

    async def handler(stream: TLSStream) -> None:
        async with stream:
            seen.append((stream.extra(TLSAttribute.alpn_protocol), stream.extra(TLSAttribute.server_side)))
            await stream.send((await stream.receive())[::-1])
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()

    listener = await create_tcp_listener(local_host="127.0.0.1")
    address = listener.extra(SocketAttribute.local_address)
    async with TLSListener(listener, server_context) as tls_listener:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tls_listener.serve, handler)
            with thread(client, address) as answer:
                await until(answer.done)
            assert answer.result() == b"olleh"
            tasks.cancel_scope.cancel()
    assert seen == [("h2", True)]


async def test_a_tls_listener_survives_a_failed_handshake(
    server_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    failures: list[tuple[BaseException, object]] = []
    failed = anyio.Event()

    class Listener(TLSListener):
        @staticmethod
        async def handle_handshake_error(exc: BaseException, stream: anyio.abc.AnyByteStream) -> None:
            await TLSListener.handle_handshake_error(exc, stream)
            failures.append((exc, stream))
            failed.set()

    async def handler(stream: TLSStream) -> None:
        raise AssertionError("no handshake was made")

    listener = await create_tcp_listener(local_host="127.0.0.1")
    async with Listener(listener, server_context) as tls_listener:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tls_listener.serve, handler)
            socket.create_connection(("127.0.0.1", listener.extra(SocketAttribute.local_port))).close()
            await failed.wait()
            tasks.cancel_scope.cancel()
    (failure, stream) = failures[0]
    assert isinstance(failure, anyio.BrokenResourceError)
    assert isinstance(stream, SocketStream)
    assert stream.close_report is not None


def test_trios_ssl_stream_works_over_ours(
    any_pair: Pair, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        async with stream_over(any_pair[0]) as stream:
            with thread(tls_reversing_server, any_pair[1], server_context):
                tls = trio.SSLStream(stream, client_context, server_hostname="localhost")
                await tls.send_all(b"hello")
                assert await tls.receive_some() == b"olleh"
                assert await tls.receive_some() == b""
                await tls.aclose()
            assert stream.close_report is not None

    trio.run(main)
