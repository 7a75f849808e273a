"""TLS: it closes, breaks and is cut as the streams below do, whatever the peer; the promises of ``_tls`` and
``_encrypting``.

The peer is OpenSSL over a raw blocking socket, so that the end of TLS (close_notify, an alert) is told from that of TCP
(FIN, RST)."""

from __future__ import annotations

import socket
import ssl
import struct
import sys
import threading
from collections.abc import Awaitable
from contextlib import suppress
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
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute
from support.sockets import Pair, all_arrived
from support.streams import PATIENT, adopt
from support.threads import thread
from support.tls import DATA, Contexts, End, Peer, outcome, receive_all, server_thread, start_endless_send, tls_over
from support.waiting import BOUND, gone, until

from roket_trio import (
    BrokenResourceError,
    BusyResourceError,
    ClosedResourceError,
    CloseOutcome,
    ClosePolicy,
    EndOfStream,
    SocketStream,
    TLSStream,
    TruncatedError,
    connect_tcp,
    wrap_tls,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel tells of a close is Linux's")


# --- both faces ------------------------------------------------------------------------------------------------------


async def test_it_is_both_libraries_stream(pair: Pair, contexts: Contexts, side: str, version: str) -> None:
    for context in contexts:
        context.set_alpn_protocols(["h2"])

    async with tls_over(pair, contexts, side) as (tls, peer):
        for face in (anyio.abc.ByteStream, anyio.streams.tls.TLSStream, trio.abc.Stream):
            assert isinstance(tls, face)
        assert isinstance(tls.transport_stream, SocketStream)
        for name, value in (
            ("alpn_protocol", "h2"),
            ("tls_version", version),
            ("server_side", side == "server"),
            ("standard_compatible", True),
        ):
            assert tls.extra(getattr(TLSAttribute, name)) == value
        assert tls.extra(SocketAttribute.raw_socket) is pair[0]
        assert tls.extra(SocketAttribute.remote_address) == pair[1].getsockname()
        await tls.send(b"over AnyIO's face")
        assert peer.receive(17) == b"over AnyIO's face"
        await tls.send_all(b"over Trio's face")
        assert peer.receive(16) == b"over Trio's face"
        peer.send(b"0123456789")
        assert await tls.receive(4) == b"0123"
        assert await tls.receive_some(4) == b"4567"
        assert await tls.receive_some() == b"89"
        await tls.wait_send_all_might_not_block()
        with pytest.raises(NotImplementedError):
            await tls.send_eof()
        assert "open" in repr(tls)
        await tls.aclose()
        assert "closed" in repr(tls)


async def test_any_buffer_can_be_sent_and_nothing_too(pair: Pair, contexts: Contexts) -> None:
    wide = memoryview(DATA).cast("I")

    async with tls_over(pair, contexts) as (tls, peer):
        with thread(peer.read_to_end) as seen:
            for item in (
                b"",
                b"a",
                bytearray(b"b"),
                memoryview(b"xcx")[1:2],
                b"",
                wide,
                memoryview(DATA)[::2].tobytes(),
            ):
                await tls.send(item)
            await tls.aclose()
        assert seen.result() == End(b"abc" + DATA + DATA[::2], True, "FIN")


async def test_wrong_arguments_are_refused(pair: Pair, contexts: Contexts) -> None:
    async with tls_over(pair, contexts) as (tls, peer):
        for count in (0, -1):
            for receive in (tls.receive, tls.receive_some):
                with pytest.raises(ValueError, match="max_bytes must be"):
                    await receive(count)
        with pytest.raises(TypeError):
            await tls.send("text")  # type: ignore[arg-type]
        await tls.send(b"goes on")
        assert peer.receive(7) == b"goes on"
        await tls.aclose()


def test_a_stream_that_is_not_anyios_is_refused(contexts: Contexts) -> None:
    async def main() -> None:
        one, other = trio.testing.memory_stream_pair()
        with pytest.raises(TypeError, match="byte stream of AnyIO's, not StapledStream"):
            await wrap_tls(one, hostname="localhost", ssl_context=contexts.client)  # type: ignore[arg-type]
        await other.send_all(b"still open")
        assert await one.receive_some() == b"still open"

    trio.run(main)


def test_it_keeps_trios_contract_of_a_stream(contexts: Contexts) -> None:
    async def connected() -> tuple[TLSStream, TLSStream]:
        one, other = [await adopt(sock, PATIENT) for sock in socket.socketpair()]
        made: dict[str, TLSStream] = {}

        async def wrap(name: str, stream: SocketStream, **how: Any) -> None:
            made[name] = await wrap_tls(stream, **how)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: wrap("server", one, server_side=True, ssl_context=contexts.server))
            nursery.start_soon(lambda: wrap("client", other, hostname="localhost", ssl_context=contexts.client))
        return made["server"], made["client"]

    async def clogged() -> tuple[TLSStream, TLSStream]:
        both = await connected()
        for stream in both:
            records = stream._records
            with suppress(BlockingIOError):  # a send of ours that is stopped would be a cut
                while True:
                    stream._ssl_object.write(bytes(1024))
                    records.hold_back()
                    stream.extra(SocketAttribute.raw_socket).send(records._held)
                    records._held = b""
        return both

    async def main() -> None:
        await trio.testing.check_two_way_stream(connected, clogged)

    trio.run(main)


# --- the end ---------------------------------------------------------------------------------------------------------


async def test_the_end_is_reported_again_and_again(pair: Pair, contexts: Contexts, side: str, version: str) -> None:
    async with tls_over(pair, contexts, side) as (tls, peer):
        peer.send(b"the last words")
        peer.say_close()
        assert await receive_all(tls) == b"the last words"
        for _ in range(2):
            with pytest.raises(EndOfStream, match=r"."):
                await tls.receive()
            assert await tls.receive_some() == b""
        await tls.send(b"it still listens")
        assert peer.receive(16) == b"it still listens"
        await tls.aclose()
        assert peer.read_to_end() == End(b"", True, "FIN")


@pytest.mark.parametrize("ignores", [True, False], ids=["ignoring", "strict"])
@pytest.mark.parametrize("part", [0, 3, 40], ids=["between-records", "in-a-header", "in-a-record"])
async def test_an_end_without_close_notify_is_a_truncation(
    pair: Pair, contexts: Contexts, side: str, version: str, part: int, ignores: bool
) -> None:
    """Whatever ``OP_IGNORE_UNEXPECTED_EOF`` says, with which OpenSSL makes a clean end of it."""
    for context in contexts:
        if ignores:
            context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
        else:
            context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF

    async with tls_over(pair, contexts, side) as (tls, peer):
        peer.send(b"complete")
        peer.ssl.write(bytes(100))
        peer.sock.sendall(peer.outgoing.read()[:part])
        peer.sock.shutdown(socket.SHUT_WR)
        assert await tls.receive() == b"complete"
        for receive in (tls.receive, tls.receive_some, tls.receive):
            with pytest.raises(TruncatedError, match="without close_notify, after 8 bytes") as caught:
                await receive()
            assert caught.value.bytes_moved == 8
        await tls.send(b"it still listens")
        assert peer.receive(16) == b"it still listens"
        await tls.aclose()
        assert peer.read_to_end() == End(b"", True, "FIN")


@pytest.mark.parametrize("ignores", [True, False], ids=["ignoring", "strict"])
async def test_an_end_without_close_notify_may_be_allowed(
    pair: Pair, contexts: Contexts, side: str, ignores: bool
) -> None:
    if not ignores:
        for context in contexts:
            context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF

    async with tls_over(pair, contexts, side, standard=False) as (tls, peer):
        peer.send(b"complete")
        peer.sock.shutdown(socket.SHUT_WR)
        assert await receive_all(tls) == b"complete"
        for _ in range(2):
            with pytest.raises(EndOfStream, match=r"."):
                await tls.receive()
            assert await tls.receive_some() == b""
        await tls.send(b"it still listens")
        await tls.aclose()
        assert peer.read_to_end() == End(b"it still listens", True, "FIN")


async def test_what_had_arrived_is_received_before_a_reset_is_reported(
    pair: Pair, contexts: Contexts, side: str, version: str
) -> None:
    async with tls_over(pair, contexts, side) as (tls, peer):
        peer.send(DATA[:50_000])
        await all_arrived(pair[1])
        peer.reset()
        await gone(pair[0])
        received = b""
        while len(received) < 50_000:
            received += await tls.receive()
        assert received == DATA[:50_000]
        for _ in range(2):
            with pytest.raises(BrokenResourceError, match="Connection reset") as caught:
                await tls.receive()
            assert not isinstance(caught.value, TruncatedError)
        with pytest.raises(BrokenResourceError):
            await tls.send(b"x")
        await tls.aclose()
        assert outcome(tls) is CloseOutcome.RESET


# --- failures of TLS -------------------------------------------------------------------------------------------------


async def test_a_forged_record_breaks_the_stream_and_the_peer_is_told(
    pair: Pair, contexts: Contexts, side: str, version: str
) -> None:
    async with tls_over(pair, contexts, side) as (tls, peer):
        peer.send(b"genuine")
        peer.ssl.write(b"forged")
        record = bytearray(peer.outgoing.read())
        record[-1] ^= 1
        peer.sock.sendall(record)
        assert await tls.receive() == b"genuine"
        with pytest.raises(BrokenResourceError, match=r"TLS failed: .*(BAD_RECORD_MAC|RECORD_LAYER_FAILURE)") as caught:
            await tls.receive()
        assert isinstance(caught.value.__cause__, ssl.SSLError)
        with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac"):
            peer.receive_some()
        for again in (tls.receive(), tls.receive_some(), tls.send(b"x"), tls.send_all(b"x"), tls.unwrap()):
            with pytest.raises(BrokenResourceError, match="TLS failed"):
                await again
        await tls.aclose()
        assert peer.sock.recv(1) == b""


async def test_a_forged_record_is_reported_also_while_a_send_is_stuck(
    pair: Pair, contexts: Contexts, version: str
) -> None:
    async with tls_over(pair, contexts) as (tls, peer):
        errors: list[Exception] = []
        async with anyio.create_task_group() as tasks:
            await start_endless_send(tls, tasks, errors)
            peer.sock.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
            with anyio.fail_after(BOUND):  # less than what the policy allows
                with pytest.raises(BrokenResourceError, match="TLS failed"):
                    await tls.receive()
            tls.close_policy = ClosePolicy(linger_seconds=0.2)  # the peer takes nothing
            await tls.aclose()
        assert isinstance(errors[0], ClosedResourceError)
        assert outcome(tls) is CloseOutcome.ABORTED


async def test_a_forged_record_ends_a_send_that_goes_on(pair: Pair, contexts: Contexts, version: str) -> None:
    def read(sock: socket.socket) -> None:
        while sock.recv(1 << 20):
            pass

    async with tls_over(pair, contexts) as (tls, peer):
        errors: list[Exception] = []
        with thread(read, peer.sock):
            async with anyio.create_task_group() as tasks:
                await start_endless_send(tls, tasks, errors)
                peer.sock.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
                with pytest.raises(BrokenResourceError, match="TLS failed") as caught:
                    await tls.receive()
            assert isinstance(errors[0], BrokenResourceError)
            assert str(errors[0]) == str(caught.value)
            await tls.aclose()


async def test_a_client_whose_certificate_is_refused_later_hears_why(pair: Pair, contexts: Contexts) -> None:
    """In TLS 1.3 a client's handshake is over before the server has judged its certificate."""
    contexts.server.verify_mode = ssl.CERT_REQUIRED
    contexts.client.minimum_version = ssl.TLSVersion.TLSv1_3

    def refuse() -> None:
        with pytest.raises(ssl.SSLError, match=r"(?i)peer.did.not.return.a.certificate"):
            Peer(pair[1], contexts.server, server_side=True).handshake()

    stream = await adopt(pair[0], PATIENT)
    with thread(refuse):
        tls = await wrap_tls(stream, hostname="localhost", ssl_context=contexts.client)
    for _ in range(2):
        with pytest.raises(BrokenResourceError, match=r"TLS failed: .*CERTIFICATE_REQUIRED"):
            await tls.receive()
    await tls.aclose()


# --- two tasks -------------------------------------------------------------------------------------------------------


async def test_a_second_task_in_the_same_direction_is_busy(pair: Pair, contexts: Contexts) -> None:
    async with tls_over(pair, contexts) as (tls, peer):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tls.receive)
            await until(lambda: tls._receive_guard.is_taken)
            for call in (tls.receive(), tls.receive_some(), tls.unwrap()):
                with pytest.raises(BusyResourceError, match=r"Another task is already (reading from|using)"):
                    await call
            await tls.send(b"the other direction is free")
            peer.send(b"x")
        async with anyio.create_task_group() as tasks:
            await start_endless_send(tls, tasks, [])
            sends: list[Awaitable[object]] = [tls.send(b"x"), tls.send_all(b"x"), tls.wait_send_all_might_not_block()]
            for send in (*sends, tls.unwrap()):
                with pytest.raises(BusyResourceError, match=r"Another task is already (writing to|using)"):
                    await send
            peer.send(b"y")
            assert await tls.receive() == b"y"
            tasks.cancel_scope.cancel()
        await tls.aclose()


async def test_one_task_sends_while_another_receives(pair: Pair, contexts: Contexts, side: str, version: str) -> None:
    """More than the buffers hold goes both ways at once: neither direction waits for the other."""
    big = DATA * 60

    async with tls_over(pair, contexts, side) as (tls, peer):
        received: list[bytes] = []

        async def receive() -> None:
            received.append(await receive_all(tls))

        def exchange() -> End:
            # One thread only: the peer sends in small pieces and takes what comes in between.
            data = bytearray()
            for at in range(0, len(big), 16_384):
                peer.send(big[at : at + 16_384])
                with suppress(IndexError):
                    data += peer.receive(min(16_384, len(big) - len(data)) or [][0])
            peer.say_close()
            rest = peer.read_to_end()
            return End(bytes(data) + rest.data, rest.said_close, rest.tcp)

        with thread(exchange) as seen:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive)
                await tls.send(big)
            await tls.aclose()
        assert received == [big]
        assert seen.result() == End(big, True, "FIN")


async def test_two_of_ours_talk_both_ways_at_once(contexts: Contexts, version: str) -> None:
    big = DATA * 20

    async def talk(stream: anyio.abc.SocketStream, received: list[bytes], **how: Any) -> None:
        tls = await wrap_tls(stream, **how)

        async def send() -> None:
            for at in range(0, len(big), 1_000_000):
                await tls.send(big[at : at + 1_000_000])

        async with tls:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send)
                data = b""
                while len(data) < len(big):
                    data += await tls.receive()
            received.append(data)

    received: list[bytes] = []
    one, other = [await adopt(sock, PATIENT) for sock in socket.socketpair()]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: talk(one, received, server_side=True, ssl_context=contexts.server))
        tasks.start_soon(lambda: talk(other, received, hostname="localhost", ssl_context=contexts.client))
    assert received == [big, big]


# --- the handshake ---------------------------------------------------------------------------------------------------


def refused(sock: socket.socket, contexts: Contexts, alert: str) -> str:
    """A server whose client does not like it; how the connection ends after the alert."""
    peer = Peer(sock, contexts.server, server_side=True)
    with pytest.raises(ssl.SSLError, match=f"(?i){alert}"):
        peer.handshake()
        peer.receive(1)
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        return "RST"
    return "FIN"


async def test_a_failed_handshake_is_told_to_the_peer_and_leaves_the_stream_to_its_owner(
    pair: Pair, contexts: Contexts, version: str
) -> None:
    async with await adopt(pair[0], PATIENT) as stream:
        with thread(refused, pair[1], contexts, "unknown.ca") as seen:
            with pytest.raises(ssl.SSLCertVerificationError):
                # A context of its own, which trusts no test authority.
                context = ssl.create_default_context()
                context.minimum_version = context.maximum_version = contexts.server.maximum_version
                await wrap_tls(stream, hostname="localhost", ssl_context=context)
            assert pair[0].fileno() >= 0
            await stream.aclose()
        assert seen.result() == "FIN"


async def test_connect_tcp_checks_the_name_and_leaves_no_socket(contexts: Contexts, version: str) -> None:
    with server_thread(lambda sock: refused(sock, contexts, "bad.certificate")) as (port, seen):
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            await connect_tcp("127.0.0.1", port, tls=True, ssl_context=contexts.client, tls_hostname="other.example")
    assert seen.result() == "FIN"


async def test_connect_tcp_makes_a_tls_stream(contexts: Contexts, version: str) -> None:
    contexts.server.set_alpn_protocols(["http/1.1"])
    contexts.client.set_alpn_protocols(["h2", "http/1.1"])

    def serve(sock: socket.socket) -> End:
        peer = Peer(sock, contexts.server, server_side=True)
        peer.handshake()
        return peer.read_to_end()

    with server_thread(serve) as (port, seen):
        async with await connect_tcp("127.0.0.1", port, tls=True, ssl_context=contexts.client) as stream:
            assert isinstance(stream, TLSStream)
            assert stream.extra(TLSAttribute.alpn_protocol) == "http/1.1"
            assert stream.extra(TLSAttribute.tls_version) == version
            assert stream.extra(SocketAttribute.remote_port) == port
            await stream.send(DATA)
    assert seen.result() == End(DATA, True, "FIN")


async def test_a_peer_that_speaks_no_tls_is_an_ssl_error(contexts: Contexts) -> None:
    def serve(sock: socket.socket) -> None:
        sock.sendall(b"220 mail.example ESMTP\r\n")
        with suppress(ConnectionResetError):
            while sock.recv(65536):
                pass

    with server_thread(serve) as (port, _):
        with pytest.raises(ssl.SSLError, match=r"(?i)wrong.version.number"):
            await connect_tcp("127.0.0.1", port, tls=True, ssl_context=contexts.client)


@pytest.mark.parametrize("standard", [True, False], ids=["standard", "lax"])
@pytest.mark.parametrize("way", ["FIN", "RST"])
async def test_a_peer_that_ends_the_handshake_breaks_it(contexts: Contexts, way: str, standard: bool) -> None:
    def serve(sock: socket.socket) -> None:
        sock.recv(65536)
        if way == "RST":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with server_thread(serve) as (port, _):
        with pytest.raises(BrokenResourceError, match="ended the connection" if way == "FIN" else "reset"):
            await connect_tcp(
                "127.0.0.1", port, tls=True, ssl_context=contexts.client, tls_standard_compatible=standard
            )


async def test_a_handshake_can_be_cancelled_and_leaves_no_socket(contexts: Contexts) -> None:
    began = threading.Event()

    def serve(sock: socket.socket) -> str:
        try:
            while sock.recv(65536):
                began.set()
        except ConnectionResetError:
            return "RST"
        return "FIN"

    with server_thread(serve) as (port, seen):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: connect_tcp("127.0.0.1", port, tls=True, ssl_context=contexts.client))
            await until(began.is_set)
            tasks.cancel_scope.cancel()
    assert seen.result() == "RST"


async def test_wrap_tls_cancelled_leaves_the_stream_to_its_owner(pair: Pair, contexts: Contexts) -> None:
    async with await adopt(pair[0], PATIENT) as stream:
        with anyio.move_on_after(0.1) as scope:
            await wrap_tls(stream, hostname="localhost", ssl_context=contexts.client)
        assert scope.cancelled_caught
        pair[1].sendall(b"in the clear")
        assert await stream.receive() == b"in the clear"
