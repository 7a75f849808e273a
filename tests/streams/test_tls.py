"""TLS: it closes, breaks and is cut as the streams below do, whatever the peer; the promises of ``_tls`` and
``_encrypting``.

The peer is OpenSSL over a raw blocking socket, so that the end of TLS (close_notify, an alert) is told from that of TCP
(FIN, RST).
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, final

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.streams.buffered
import anyio.streams.tls
import anyio.to_thread
import pytest
import trio
import trio.testing
import trustme
from anyio.abc import SocketAttribute
from anyio.streams.stapled import StapledObjectStream
from anyio.streams.tls import TLSAttribute
from support.sockets import Pair
from support.streams import ENDLESS, PATIENT, adopt
from support.threads import other_side, thread
from support.waiting import BOUND, gone, until

from roket_trio import (
    BrokenResourceError,
    BusyResourceError,
    ClosedResourceError,
    CloseOutcome,
    ClosePolicy,
    EndOfStream,
    SocketStream,
    TLSListener,
    TLSStream,
    TruncatedError,
    connect_tcp,
    create_tcp_listener,
    wrap_tls,
)
from roket_trio._connection.connection import NOTSENT_LOWAT, Connection
from roket_trio._streams.tls_records import Records

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel tells of a close is Linux's")

T = TypeVar("T")

# Some records, no two of them alike.
DATA = bytes(range(256)) * 560


class Contexts(NamedTuple):
    server: ssl.SSLContext
    client: ssl.SSLContext


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert("localhost", "127.0.0.1")


@pytest.fixture
def contexts(authority: trustme.CA, certificate: trustme.LeafCert) -> Contexts:
    """With ``OP_IGNORE_UNEXPECTED_EOF`` on, as Python makes them."""
    # Not create_default_context(): it takes 30 ms to load the authorities of the system.
    both = Contexts(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    certificate.configure_cert(both.server)
    authority.configure_trust(both.client)
    return both


@pytest.fixture(params=["TLSv1.2", "TLSv1.3"])
def version(request: pytest.FixtureRequest, contexts: Contexts) -> str:
    """The test runs with each; the contexts allow no other."""
    name: str = request.param
    for context in contexts:
        context.minimum_version = context.maximum_version = {
            "TLSv1.2": ssl.TLSVersion.TLSv1_2,
            "TLSv1.3": ssl.TLSVersion.TLSv1_3,
        }[name]
    return name


@pytest.fixture(params=["client", "server"])
def side(request: pytest.FixtureRequest) -> str:
    """Which side our stream is."""
    name: str = request.param
    return name


class End(NamedTuple):
    data: bytes
    said_close: bool
    tcp: str


@final
class Peer:
    """The other side: blocking, in TLS, over a raw socket."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server_side: bool) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server_side else "localhost"
        self.ssl = context.wrap_bio(self.incoming, self.outgoing, server_side=server_side, server_hostname=name)

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        while True:
            try:
                return function(*arguments)
            except ssl.SSLWantReadError:
                pass
            finally:
                self.flush()
            data = self.sock.recv(65536)
            if not data:
                raise EOFError
            self.incoming.write(data)

    def flush(self) -> None:
        if data := self.outgoing.read():
            self.sock.sendall(data)

    def handshake(self) -> None:
        self.call(self.ssl.do_handshake)

    def receive(self, count: int) -> bytes:
        """Just so many bytes."""
        data = b""
        while len(data) < count:
            data += self.receive_some(count - len(data))
        return data

    def receive_some(self, most: int = 65536) -> bytes:
        """What there is; nothing for close_notify."""
        try:
            return self.call(self.ssl.read, most)
        except ssl.SSLZeroReturnError:
            return b""

    def send(self, data: bytes) -> None:
        self.ssl.write(data)
        self.flush()

    def say_close(self) -> None:
        with suppress(ssl.SSLWantReadError):
            self.ssl.unwrap()
        self.flush()

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def read_to_end(self) -> End:
        """Everything until FIN or RST."""
        data = bytearray()
        said_close = False
        try:
            while chunk := self.receive_some():
                data += chunk
            said_close = True
            assert not self.sock.recv(1)
        except ConnectionResetError:
            return End(bytes(data), said_close, "RST")
        except EOFError:
            pass
        return End(bytes(data), said_close, "FIN")


@asynccontextmanager
async def tls_over(
    pair: Pair, contexts: Contexts, side: str = "client", policy: ClosePolicy = PATIENT, *, standard: bool = True
) -> AsyncIterator[tuple[TLSStream, Peer]]:
    """Our stream, and its peer, after the handshake; aborted at the end if the test did not close it."""
    is_server = side == "server"
    peer = Peer(pair[1], contexts.client if is_server else contexts.server, server_side=not is_server)
    stream = await adopt(pair[0], policy)
    try:
        with thread(peer.handshake):
            tls = await wrap_tls(
                stream,
                server_side=is_server,
                hostname=None if is_server else "localhost",
                ssl_context=contexts.server if is_server else contexts.client,
                standard_compatible=standard,
            )
        yield tls, peer
    finally:
        stream.abort()


async def receive_all(stream: TLSStream) -> bytes:
    """Everything until the end."""
    return b"".join([chunk async for chunk in stream])


async def start_endless_send(stream: TLSStream, tasks: anyio.abc.TaskGroup, errors: list[Exception]) -> None:
    """A task that is in the middle of an item; what it raises is put into ``errors``."""

    async def send() -> None:
        try:
            await stream.send(ENDLESS)
        except (BrokenResourceError, ClosedResourceError) as error:
            errors.append(error)

    before = stream.statistics().sent_bytes
    tasks.start_soon(send)
    await until(lambda: stream.statistics().sent_bytes > before)


async def cut(stream: TLSStream) -> None:
    async with anyio.create_task_group() as tasks:
        await start_endless_send(stream, tasks, [])
        tasks.cancel_scope.cancel()


def outcome(stream: TLSStream) -> CloseOutcome:
    assert stream.close_report is not None
    return stream.close_report.outcome


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
            with pytest.raises(EndOfStream):
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
            with pytest.raises(EndOfStream):
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
        with pytest.raises(BrokenResourceError, match=r"TLS failed: .*BAD_RECORD_MAC") as caught:
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
            with anyio.fail_after(BOUND):  # a half of what the policy allows
                with pytest.raises(BrokenResourceError, match="TLS failed"):
                    await tls.receive()
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
            await until(lambda: tls._is_receiving)
            for call in (tls.receive(), tls.receive_some(), tls.unwrap()):
                with pytest.raises(BusyResourceError):
                    await call
            await tls.send(b"the other direction is free")
            peer.send(b"x")
        async with anyio.create_task_group() as tasks:
            await start_endless_send(tls, tasks, [])
            for call in (tls.send(b"x"), tls.send_all(b"x"), tls.wait_send_all_might_not_block(), tls.unwrap()):
                with pytest.raises(BusyResourceError):
                    await call
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


# --- OpenSSL as the peer: it can ask for new keys, and in TLS 1.2 for a new handshake --------------------------------


def tool(name: str) -> str:
    """The path of a program that is not ours; without it the test is skipped, in CI it fails."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("ROKET_CI"):
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed")
    return found


@final
class Program:
    """A child process that is talked with over its standard streams."""

    def __init__(self, *command: str) -> None:
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._unheard = b""

    def tell(self, line: str) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(line.encode() + b"\n")
        self.child.stdin.flush()

    def hear(self, wanted: bytes) -> bytes:
        """What it writes, up to and with ``wanted``."""
        assert self.child.stdout is not None
        deadline = time.monotonic() + BOUND
        while wanted not in self._unheard:
            ready = select.select([self.child.stdout], [], [], max(0, deadline - time.monotonic()))[0]
            chunk = os.read(self.child.stdout.fileno(), 65536) if ready else b""
            assert chunk, (wanted, self._unheard)
            self._unheard += chunk
        end = self._unheard.index(wanted) + len(wanted)
        heard, self._unheard = self._unheard[:end], self._unheard[end:]
        return heard

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *args: object) -> None:
        self.child.kill()
        self.child.wait()
        for pipe in (self.child.stdin, self.child.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


@pytest.fixture
def pem(tmp_path: Path, authority: trustme.CA, certificate: trustme.LeafCert) -> dict[str, str]:
    """The certificates as files."""
    paths = {"ca": tmp_path / "ca.pem", "server": tmp_path / "server.pem"}
    authority.cert_pem.write_to_path(str(paths["ca"]))
    certificate.private_key_and_cert_chain_pem.write_to_path(str(paths["server"]))
    return {name: str(path) for name, path in paths.items()}


@contextmanager
def s_server(pem: dict[str, str], version: str, *options: str) -> Iterator[tuple[Program, int]]:
    flag = {"TLSv1.2": "-tls1_2", "TLSv1.3": "-tls1_3"}[version]
    command = (tool("openssl"), "s_server", "-accept", "127.0.0.1:0", "-naccept", "1", "-cert", pem["server"], flag)
    with Program(*command, *options) as server:
        server.hear(b"ACCEPT 127.0.0.1:")
        yield server, int(server.hear(b"\n"))


async def test_new_keys_in_the_middle_of_a_conversation(contexts: Contexts, pem: dict[str, str]) -> None:
    with s_server(pem, "TLSv1.3") as (server, port):
        stream = await connect_tcp("127.0.0.1", port, ssl_context=contexts.client, tls_hostname="localhost")
        received: list[bytes] = []

        async def receive() -> None:
            async for chunk in stream:
                received.append(chunk)

        async with stream, anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            for command in ("K", "k", "K"):  # new keys for both, new keys for what it sends
                await stream.send(b"before\n")
                await other_side(server.hear, b"before\n")
                received.clear()
                before = stream.statistics().received_bytes
                server.tell(command)
                await until(lambda before=before: stream.statistics().received_bytes > before)
                server.tell("with new keys")
                await until(lambda: b"".join(received) == b"with new keys\n")
                await stream.send(b"after\n")
                await other_side(server.hear, b"after\n")
            tasks.cancel_scope.cancel()


class Gate(anyio.abc.ByteStream):
    """A foreign transport: what arrives can be held up, and who waits for room to send waits for ever."""

    def __init__(self, transport: SocketStream) -> None:
        self.transport = transport
        self.opened = anyio.Event()
        self.opened.set()
        self.ends = False
        self.readers = self.writers = self.waits = self.ended_waits = 0

    async def receive(self, max_bytes: int = 65536) -> bytes:
        self.readers += 1
        assert self.readers == 1, "two tasks receive at once"
        try:
            await self.opened.wait()
            if self.ends:
                raise EndOfStream
            return await self.transport.receive(max_bytes)
        finally:
            self.readers -= 1

    async def send(self, item: bytes) -> None:
        self.writers += 1
        assert self.writers == 1, "two tasks send at once"
        try:
            await self.transport.send(item)
        finally:
            self.writers -= 1

    async def wait_send_all_might_not_block(self) -> None:
        self.waits += 1
        try:
            await anyio.sleep_forever()
        finally:
            self.ended_waits += 1

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        await self.transport.aclose()

    def shut(self) -> None:
        """What is being received at this moment is the last that passes until :attr:`opened` is set."""
        self.opened = anyio.Event()

    @property
    def sent_bytes(self) -> int:
        return self.transport.statistics().sent_bytes


class Renegotiation(NamedTuple):
    tls: TLSStream
    gate: Gate
    server: Program
    received: list[bytes]
    tasks: anyio.abc.TaskGroup


@asynccontextmanager
async def renegotiation(contexts: Contexts, pem: dict[str, str]) -> AsyncIterator[Renegotiation]:
    """A client in TLS 1.2, a task of which receives; its server makes a new handshake when it is told "r"."""
    with s_server(pem, "TLSv1.2") as (server, port):
        gate = Gate(await connect_tcp("127.0.0.1", port))
        received: list[bytes] = []
        tls = await wrap_tls(gate, hostname="localhost", ssl_context=contexts.client, standard_compatible=False)

        async def receive() -> None:
            async for chunk in tls:
                received.append(chunk)

        await tls.send(b"hello\n")
        await other_side(server.hear, b"hello\n")
        async with tls, anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await until(lambda: gate.readers == 1)
            yield Renegotiation(tls, gate, server, received, tasks)
            tasks.cancel_scope.cancel()


async def test_a_send_that_has_to_read_first_while_another_task_receives(
    contexts: Contexts, pem: dict[str, str]
) -> None:
    """In the middle of a new handshake OpenSSL sends no data: the sender waits for what the receiver receives."""

    async with renegotiation(contexts, pem) as (tls, gate, server, received, _):
        gate.shut()  # behind the request; the answer to ours is held up
        before = gate.sent_bytes
        server.tell("r")
        await until(lambda: gate.sent_bytes > before)
        async with anyio.create_task_group() as others:
            others.start_soon(tls.send, b"sent in between\n")
            await until(lambda: tls._records._fill_guard._released is not None)
            assert not tls._sent
            gate.opened.set()
        await other_side(server.hear, b"sent in between\n")
        server.tell("answered")
        await until(lambda: b"".join(received) == b"answered\n")


async def test_a_sender_takes_over_from_a_receiver_that_is_cancelled(contexts: Contexts, pem: dict[str, str]) -> None:
    async with renegotiation(contexts, pem) as (tls, gate, server, _, tasks):
        gate.shut()
        before = gate.sent_bytes
        server.tell("r")
        await until(lambda: gate.sent_bytes > before)
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as others:
                others.start_soon(tls.send, b"sent in between\n")
                await until(lambda: tls._records._fill_guard._released is not None)
                tasks.cancel_scope.cancel()
                gate.opened.set()
            await other_side(server.hear, b"sent in between\n")


async def test_a_send_that_has_to_read_first_hears_of_the_end(contexts: Contexts, pem: dict[str, str]) -> None:
    async with renegotiation(contexts, pem) as (tls, gate, server, received, _):
        gate.shut()
        before = gate.sent_bytes
        server.tell("r")
        await until(lambda: gate.sent_bytes > before)
        async with anyio.create_task_group() as others:

            async def send() -> None:
                with pytest.raises(BrokenResourceError, match="the peer ended the connection"):
                    await tls.send(b"never sent\n")

            others.start_soon(send)
            await until(lambda: tls._records._fill_guard._released is not None)
            gate.ends = True
            gate.opened.set()
        assert not tls._encrypted
        assert not received


async def test_a_task_that_waits_for_room_holds_up_no_answer_of_tls(contexts: Contexts, pem: dict[str, str]) -> None:
    async with renegotiation(contexts, pem) as (tls, gate, server, received, tasks):
        tasks.start_soon(tls.wait_send_all_might_not_block)
        await until(lambda: gate.waits == 1)
        server.tell("r")
        await other_side(server.hear, b"SSL_do_handshake -> 1")
        server.tell("after the new handshake")
        await until(lambda: b"".join(received) == b"after the new handshake\n")
        await until(lambda: gate.ended_waits == 1)


class Stuck(anyio.abc.ByteStream):
    """A transport that takes nothing before it is told to, and always has something."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.opened = anyio.Event()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.lowlevel.checkpoint()
        return b"ciphertext"

    async def send(self, item: bytes) -> None:
        await self.opened.wait()
        self.sent.append(item)

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError


async def test_a_receiver_that_has_something_to_say_does_not_wait_behind_a_sender() -> None:
    """Who might wait for ever, if its peer sends and does not read. In OpenSSL's place is a function."""

    transport = Stuck()
    outgoing = ssl.MemoryBIO()
    records = Records(transport, ssl.MemoryBIO(), outgoing)
    calls = 0

    def read() -> bytes:
        nonlocal calls
        calls += 1
        if calls == 1:
            outgoing.write(b"an answer of TLS")
            raise ssl.SSLWantReadError
        return b"plaintext"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(records.encrypt, outgoing.write, b"data")
        await until(lambda: records._write_guard.is_taken)
        assert await records.drive(read) == b"plaintext"
        assert transport.sent == []
        transport.opened.set()
    assert transport.sent == [b"data", b"an answer of TLS"]


async def test_a_peer_that_hears_nothing_any_more_is_still_listened_to() -> None:
    """What it had sent before it went away is received; that it is gone, a receive tells afterwards."""

    class Deaf(Stuck):
        async def send(self, item: bytes) -> None:
            raise BrokenResourceError("gone")

    outgoing = ssl.MemoryBIO()
    records = Records(Deaf(), ssl.MemoryBIO(), outgoing)
    said = False

    def read() -> bytes:
        nonlocal said
        if said:
            return b"plaintext"
        said = True
        outgoing.write(b"an answer of TLS")
        raise ssl.SSLWantReadError

    assert await records.drive(read) == b"plaintext"


async def test_after_a_cut_nothing_more_is_said() -> None:
    """The peer could not decrypt it."""

    transport = Stuck()
    outgoing = ssl.MemoryBIO()
    records = Records(transport, ssl.MemoryBIO(), outgoing)

    def read() -> bytes:
        outgoing.write(b"an answer of TLS")
        raise ssl.SSLWantReadError

    with anyio.move_on_after(0.02) as scope:
        await records.drive(read)
    assert scope.cancelled_caught
    assert records.is_cut
    transport.opened.set()
    with anyio.move_on_after(0.02):
        await records.drive(read)
    outgoing.write(b"close_notify")
    await records.say_last()
    with pytest.raises(BrokenResourceError, match="stopped in the middle"):
        await records.encrypt(outgoing.write, b"data")
    assert transport.sent == []


async def test_a_sender_waits_for_what_a_receiver_says() -> None:
    transport = Stuck()
    outgoing = ssl.MemoryBIO()
    records = Records(transport, ssl.MemoryBIO(), outgoing)

    def read() -> bytes:
        if transport.sent:
            return b"plaintext"
        outgoing.write(b"an answer of TLS")
        raise ssl.SSLWantReadError

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(records.drive, read)
        await until(lambda: records._write_guard.is_taken)
        with anyio.move_on_after(0.02) as scope:
            await records.encrypt(outgoing.write, b"cancelled before it was encrypted")
        assert scope.cancelled_caught
        assert not records.is_cut
        tasks.start_soon(records.encrypt, outgoing.write, b"data")
        await until(lambda: records._write_guard._released is not None)
        transport.opened.set()
    assert transport.sent == [b"an answer of TLS", b"data"]


# --- a send that is cut ----------------------------------------------------------------------------------------------


async def test_a_send_cancelled_midway_cuts_the_stream(pair: Pair, contexts: Contexts, side: str, version: str) -> None:
    async with tls_over(pair, contexts, side) as (tls, peer):
        await tls.send(b"complete")
        await cut(tls)
        for again in (tls.send(b"x"), tls.send_all(b"x"), tls.send(b""), tls.wait_send_all_might_not_block()):
            with pytest.raises(BrokenResourceError, match=rf"stopped after \d+ to \d+ of {len(ENDLESS)} bytes"):
                await again
        with pytest.raises(BrokenResourceError, match="stopped after"):
            await tls.unwrap()
        peer.send(b"it can still receive")
        assert await tls.receive() == b"it can still receive"
        await tls.aclose()
        end = await other_side(peer.read_to_end)
        assert end.data.startswith(b"complete")
        assert len(end.data) < len(ENDLESS)
        assert end[1:] == (False, "RST")
        assert outcome(tls) is CloseOutcome.ABORTED


async def test_the_cut_names_what_is_certain_and_what_is_possible(small_pair: Pair, contexts: Contexts) -> None:
    async with tls_over(small_pair, contexts) as (tls, peer):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tls.send, DATA * 100)
            await other_side(peer.receive, 300_000)
            await until(lambda: tls._encrypted > tls._sent > 0)
            sent, encrypted = tls._sent, tls._encrypted
            tasks.cancel_scope.cancel()
        message = f"stopped after {sent} to {encrypted} of {len(DATA) * 100} bytes; the peer must not see more"
        with pytest.raises(BrokenResourceError, match=message):
            await tls.send(b"x")
        with pytest.raises(BrokenResourceError, match=message):  # it is still the first cut that counts
            await tls.send(b"y")


async def test_a_send_cancelled_between_two_parts_is_a_cut_too(
    pair: Pair, contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it waits for a receiver that has something to say, for instance."""
    encrypt = Records.encrypt
    waiting: list[bool] = []

    async def once(records: Records, write: Any, data: Any) -> int:
        monkeypatch.setattr(Records, "encrypt", never)
        return await encrypt(records, write, data)

    async def never(records: Records, write: Any, data: Any) -> int:
        waiting.append(True)
        await anyio.sleep_forever()
        raise AssertionError

    async with tls_over(pair, contexts) as (tls, peer):
        monkeypatch.setattr(Records, "encrypt", once)
        with thread(peer.read_to_end) as seen:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(tls.send, DATA * 2)
                await until(lambda: bool(waiting))
                tasks.cancel_scope.cancel()
            with pytest.raises(BrokenResourceError, match=f"stopped after 262144 to 262144 of {len(DATA) * 2} bytes"):
                await tls.send(b"x")
            await tls.aclose()
        assert seen.result()[1:] == (False, "RST")


async def test_a_send_cancelled_before_its_first_byte_cuts_nothing(pair: Pair, contexts: Contexts) -> None:
    async with tls_over(pair, contexts) as (tls, peer):
        for send in (tls.send, tls.send_all):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await send(DATA)
            assert scope.cancelled_caught
        await tls.send(b"goes on")
        await tls.aclose()
        assert peer.read_to_end() == End(b"goes on", True, "FIN")


async def test_closing_from_another_task_cuts_a_send(pair: Pair, contexts: Contexts, side: str, version: str) -> None:
    async with tls_over(pair, contexts, side) as (tls, peer):
        errors: list[Exception] = []
        async with anyio.create_task_group() as tasks:
            await start_endless_send(tls, tasks, errors)
            with anyio.fail_after(BOUND):  # a half of what the policy allows
                await tls.aclose()
        assert isinstance(errors[0], ClosedResourceError)
        assert (await other_side(peer.read_to_end))[1:] == (False, "RST")
        assert outcome(tls) is CloseOutcome.ABORTED


async def test_a_cut_over_a_foreign_stream_ends_without_close_notify(contexts: Contexts) -> None:
    async with foreign(contexts) as (one, other):
        await one.send(b"complete")  # the transport has no room for more
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.send, DATA)
            await until(lambda: one._encrypted == len(DATA))
            tasks.cancel_scope.cancel()
        with pytest.raises(BrokenResourceError, match=f"stopped after 0 to {len(DATA)} of {len(DATA)} bytes"):
            await one.send(b"x")
        await one.aclose()
        assert await other.receive() == b"complete"
        with pytest.raises(TruncatedError):
            await other.receive()


@asynccontextmanager
async def foreign(contexts: Contexts, **how: Any) -> AsyncIterator[tuple[TLSStream, TLSStream]]:
    """(client, server) over AnyIO's memory streams, which hold one item; closed at the end."""
    made: dict[str, TLSStream] = {}
    async with memory_pair() as (one, other):

        async def wrap(name: str, stream: Any, **how: Any) -> None:
            made[name] = await wrap_tls(stream, **how)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: wrap("server", other, server_side=True, ssl_context=contexts.server, **how))
            tasks.start_soon(lambda: wrap("client", one, hostname="localhost", ssl_context=contexts.client, **how))
        yield made["client"], made["server"]


@asynccontextmanager
async def memory_pair() -> AsyncIterator[tuple[StapledObjectStream[bytes], StapledObjectStream[bytes]]]:
    there, here = anyio.create_memory_object_stream[bytes](1), anyio.create_memory_object_stream[bytes](1)
    one, other = StapledObjectStream(there[0], here[1]), StapledObjectStream(here[0], there[1])
    async with one, other:
        yield one, other


# --- the close -------------------------------------------------------------------------------------------------------


async def test_the_peer_sees_close_notify_and_fin(pair: Pair, contexts: Contexts, side: str, version: str) -> None:
    async with tls_over(pair, contexts, side) as (tls, peer):
        await tls.send(DATA)
        with thread(peer.read_to_end) as seen:
            await tls.aclose()
        assert seen.result() == End(DATA, True, "FIN")
        assert outcome(tls) in (CloseOutcome.ACKED, CloseOutcome.CLEAN)
        assert pair[0].fileno() == -1
        assert tls.close_report == tls.transport_stream.close_report  # type: ignore[union-attr]
        await tls.aclose()


async def test_a_peer_that_finishes_too_makes_it_clean(pair: Pair, contexts: Contexts, side: str, version: str) -> None:
    policy = ClosePolicy(linger_seconds=30, wait_for_peer=True)

    async with tls_over(pair, contexts, side, policy) as (tls, peer):

        def answer() -> End:
            end = peer.read_to_end()
            peer.say_close()
            peer.sock.close()
            return end

        await tls.send(DATA)
        with thread(answer) as seen:
            await tls.aclose()
        assert seen.result() == End(DATA, True, "FIN")
        assert outcome(tls) is CloseOutcome.CLEAN


async def test_a_peer_that_never_answers_close_notify_holds_nobody_up(
    pair: Pair, contexts: Contexts, side: str, version: str
) -> None:
    async with tls_over(pair, contexts, side) as (tls, peer):
        await tls.send(b"unread")
        with anyio.fail_after(BOUND):  # a half of what the policy allows
            await tls.aclose()
        assert outcome(tls) is CloseOutcome.ACKED
        assert peer.read_to_end() == End(b"unread", True, "FIN")


async def test_unread_session_tickets_turn_no_close_into_a_reset(pair: Pair, contexts: Contexts) -> None:
    """In TLS 1.3 a server sends two of them, unasked. A client that only sends and closes never reads them; Trio's
    stream loses what is in flight: 81,920 of 140,000 bytes and a reset were seen."""
    contexts.client.minimum_version = ssl.TLSVersion.TLSv1_3
    data = DATA[:140_000]

    async with tls_over(pair, contexts) as (tls, peer):
        await until(lambda: bool(select.select([pair[0]], [], [], 0)[0]))  # they are there
        await tls.send(data)
        with thread(peer.read_to_end) as seen:
            await tls.aclose()
        assert seen.result() == End(data, True, "FIN")
        assert outcome(tls) in (CloseOutcome.ACKED, CloseOutcome.CLEAN)
        assert tls.close_report is not None
        assert tls.close_report.discarded_bytes > 0


async def test_a_client_that_never_reads_is_sent_no_session_tickets(pair: Pair, contexts: Contexts) -> None:
    """Whose close would be a reset otherwise: most programs do not drain. The tickets go with the first answer."""
    contexts.client.minimum_version = ssl.TLSVersion.TLSv1_3

    async with tls_over(pair, contexts, "server") as (tls, peer):
        peer.send(DATA)
        peer.say_close()
        peer.sock.close()
        assert await receive_all(tls) == DATA
        await tls.aclose()


async def test_session_tickets_go_with_the_first_answer(contexts: Contexts) -> None:
    contexts.client.minimum_version = ssl.TLSVersion.TLSv1_3

    session = None
    for resumes in (False, True):
        ours, raw = socket.socketpair()
        peer = Peer(raw, contexts.client, server_side=False)
        raw.settimeout(BOUND)
        if session is not None:
            peer.ssl.session = session
        stream = await adopt(ours, PATIENT)
        with raw, thread(peer.handshake):
            tls = await wrap_tls(stream, server_side=True, ssl_context=contexts.server)
            await tls.send(b"x")
            await tls.aclose()
            assert (await other_side(peer.read_to_end)) == End(b"x", True, "FIN")
        session = peer.ssl.session
        assert session is not None
        assert session.has_ticket
        assert peer.ssl.session_reused is resumes


async def test_unread_data_turns_no_close_into_a_reset(pair: Pair, contexts: Contexts, side: str, version: str) -> None:
    async with tls_over(pair, contexts, side) as (tls, peer):
        peer.send(DATA[:20_000])
        assert await tls.receive(1) == DATA[:1]  # the rest of that record is decrypted, the others are not
        await tls.send(DATA)
        with thread(peer.read_to_end) as seen:
            await tls.aclose()
        assert seen.result() == End(DATA, True, "FIN")


async def test_a_peer_that_takes_nothing_costs_the_bound_and_still_gets_everything(
    small_pair: Pair, contexts: Contexts
) -> None:
    policy = ClosePolicy(linger_seconds=0.3)

    async with tls_over(small_pair, contexts, policy=policy) as (tls, peer):
        await tls.send(DATA[:100_000])
        began = time.monotonic()
        await tls.aclose()
        assert 0.25 <= time.monotonic() - began < BOUND
        assert outcome(tls) is CloseOutcome.UNACKED
        assert await other_side(peer.read_to_end) == End(DATA[:100_000], True, "FIN")


async def test_cancelled_a_close_leaves_close_notify_to_the_kernel(
    small_pair: Pair, contexts: Contexts, version: str
) -> None:
    async with tls_over(small_pair, contexts) as (tls, peer):
        await tls.send(DATA[:100_000])
        with anyio.CancelScope() as scope:
            scope.cancel()
            await tls.aclose()
        assert scope.cancelled_caught
        assert small_pair[0].fileno() == -1
        assert outcome(tls) is CloseOutcome.UNACKED
        assert await other_side(peer.read_to_end) == End(DATA[:100_000], True, "FIN")


async def test_close_notify_is_queued_above_the_limit_for_unsent_data(small_pair: Pair) -> None:
    """As FIN is: TCP_NOTSENT_LOWAT is for data that can wait."""

    stream = await adopt(small_pair[0], PATIENT)
    sent = 0
    with suppress(BlockingIOError):
        while True:
            sent += small_pair[0].send(bytes(4096))
    view = stream.statistics().kernel
    assert view is not None
    assert view.unsent_bytes >= NOTSENT_LOWAT
    assert stream._connection.send_at_once(b"close_notify")
    stream.abort()


async def test_where_the_kernel_has_no_room_at_all_close_notify_is_waited_for(
    pair: Pair, contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "send_at_once", lambda connection, item: False)

    async with tls_over(pair, contexts) as (tls, peer):
        await tls.send(DATA)
        with thread(peer.read_to_end) as seen:
            await tls.aclose()
        assert seen.result() == End(DATA, True, "FIN")


async def test_a_local_close_is_never_an_end(pair: Pair, contexts: Contexts, side: str) -> None:
    async with tls_over(pair, contexts, side) as (tls, peer):
        errors: list[Exception] = []

        async def receive() -> None:
            try:
                await tls.receive()
            except ClosedResourceError as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await until(lambda: tls._is_receiving)
            await tls.aclose()
        assert len(errors) == 1
        for again in (
            tls.receive(),
            tls.receive_some(),
            tls.send(b"x"),
            tls.send(b""),
            tls.send_all(b"x"),
            tls.wait_send_all_might_not_block(),
            tls.wait_peer_closed(),
            tls.unwrap(),
        ):
            with pytest.raises(ClosedResourceError):
                await again
        assert peer.read_to_end() == End(b"", True, "FIN")


async def test_a_task_that_waits_for_room_does_not_hold_up_a_close(
    small_pair: Pair, contexts: Contexts, version: str
) -> None:
    async with tls_over(small_pair, contexts) as (tls, peer):
        await tls.send(DATA[:100_000])
        errors: list[Exception] = []

        async def wait() -> None:
            try:
                await tls.wait_send_all_might_not_block()
            except ClosedResourceError as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await until(lambda: tls._records._wait is not None)
            tasks.start_soon(tls.aclose)
            await until(lambda: bool(errors))
            assert await other_side(peer.read_to_end) == End(DATA[:100_000], True, "FIN")


async def test_a_second_close_waits_for_the_first(small_pair: Pair, contexts: Contexts) -> None:
    async with tls_over(small_pair, contexts) as (tls, peer):
        await tls.send(DATA[:100_000])
        ended: list[str] = []

        async def close(name: str) -> None:
            await tls.aclose()
            assert tls.close_report is not None
            ended.append(name)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(close, "first")
            await until(lambda: tls._closed is not None)
            tasks.start_soon(close, "second")
            await anyio.sleep(0.05)
            assert ended == []
            assert await other_side(peer.read_to_end) == End(DATA[:100_000], True, "FIN")
        assert sorted(ended) == ["first", "second"]


async def test_a_second_close_that_is_cancelled_ends_the_first(small_pair: Pair, contexts: Contexts) -> None:
    async with tls_over(small_pair, contexts) as (tls, _):
        await tls.send(DATA[:100_000])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tls.aclose)
            await until(lambda: tls._closed is not None)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await tls.aclose()
            assert small_pair[0].fileno() == -1
        assert outcome(tls) is CloseOutcome.UNACKED


async def test_abort_resets(pair: Pair, contexts: Contexts, side: str) -> None:
    async with tls_over(pair, contexts, side) as (tls, peer):
        await tls.send(b"delivered")
        tls.abort()
        assert outcome(tls) is CloseOutcome.ABORTED
        assert peer.read_to_end() == End(b"delivered", False, "RST")
        with pytest.raises(ClosedResourceError):
            await tls.receive()
        await tls.aclose()
        tls.abort()


@pytest.mark.parametrize(
    ("on_error", "end"), [("finish", End(b"half", True, "FIN")), ("abort", End(b"half", False, "RST"))]
)
async def test_an_exception_that_leaves_the_block_ends_it_as_the_policy_says(
    pair: Pair, contexts: Contexts, on_error: Any, end: End
) -> None:
    async with tls_over(pair, contexts, policy=ClosePolicy(on_error=on_error)) as (tls, peer):
        with pytest.raises(ZeroDivisionError):
            async with tls:
                await tls.send(b"half")
                raise ZeroDivisionError
        assert peer.read_to_end() == end


async def test_cancellation_that_leaves_the_block_is_no_error(pair: Pair, contexts: Contexts) -> None:
    async with tls_over(pair, contexts, policy=ClosePolicy(on_error="abort")) as (tls, peer):
        with anyio.CancelScope() as scope:
            async with tls:
                await tls.send(b"complete")
                scope.cancel()
                await anyio.sleep_forever()
        assert peer.read_to_end() == End(b"complete", True, "FIN")


async def test_what_the_stream_below_tells_is_forwarded(pair: Pair, contexts: Contexts) -> None:
    policy = ClosePolicy(linger_seconds=3)

    async with tls_over(pair, contexts) as (tls, peer):
        below = tls.transport_stream
        assert isinstance(below, SocketStream)
        assert tls.close_policy is PATIENT
        tls.close_policy = policy
        assert below.close_policy is policy
        before = tls.statistics()
        await tls.send(bytes(1000))
        assert tls.statistics().sent_bytes > before.sent_bytes + 1000
        assert tls.close_report is None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tls.wait_peer_closed)
            peer.send(b"unread")
            peer.sock.shutdown(socket.SHUT_WR)
        assert await tls.receive() == b"unread"
        await tls.aclose()


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


@contextmanager
def server_thread(serve: Callable[[socket.socket], T]) -> Iterator[tuple[int, Future[T]]]:
    """A raw server of one connection: (its port, what ``serve`` returned)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(BOUND)

        def accept() -> T:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(BOUND)
                return serve(connection)

        with thread(accept) as result:
            yield listener.getsockname()[1], result


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
                tasks.start_soon(lambda other=other: wrap_tls(other, server_side=True, ssl_context=contexts.server))
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


# --- the listener ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(listener: TLSListener, handler: Callable[[TLSStream], Any]) -> AsyncIterator[tuple[str, int]]:
    """The listener's ``serve`` in a task: its address."""
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handler)
        yield listener.listener.extra(SocketAttribute.local_address)
        tasks.cancel_scope.cancel()


async def echo(stream: TLSStream) -> None:
    async with stream:
        async for chunk in stream:
            await stream.send(chunk[::-1])


def ask(address: Any, contexts: Contexts) -> bytes:
    """A healthy client."""
    with socket.create_connection(address, timeout=BOUND) as sock:
        peer = Peer(sock, contexts.client, server_side=False)
        peer.handshake()
        peer.send(b"hello")
        answer = peer.receive(5)
        peer.say_close()
        assert peer.read_to_end() == End(b"", True, "FIN")
    return answer


class Noted(TLSListener):
    """It counts its handshakes, and keeps what they failed with in ``noted``."""

    begun = 0

    async def handshake(self, stream: Any) -> TLSStream:
        self.begun += 1
        return await super().handshake(stream)

    @staticmethod
    async def handle_handshake_error(exc: BaseException, stream: Any) -> None:
        noted.append((exc, stream))
        await TLSListener.handle_handshake_error(exc, stream)


noted: list[tuple[BaseException, Any]] = []


@pytest.fixture(autouse=True)
def _nothing_noted() -> None:
    noted.clear()


def errors_logged(caplog: pytest.LogCaptureFixture) -> list[type[BaseException]]:
    """What the listener has logged, where AnyIO's does."""
    records = [record for record in caplog.records if record.name == "anyio.streams.tls"]
    return [record.exc_info[0] for record in records if record.exc_info is not None and record.exc_info[0] is not None]


async def test_a_listener_is_anyios_and_serves(contexts: Contexts, version: str) -> None:
    listener = TLSListener(await create_tcp_listener(local_host="127.0.0.1"), contexts.server)
    assert isinstance(listener, anyio.streams.tls.TLSListener)
    assert listener.handshake_timeout == 30
    assert listener.extra(TLSAttribute.standard_compatible) is True
    async with serving(listener, echo) as address:
        for _ in range(3):
            assert await other_side(ask, address, contexts) == b"olleh"


async def test_silent_clients_hold_up_nobody_and_are_reset_in_time(
    contexts: Contexts, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Noted(await create_tcp_listener(local_host="127.0.0.1"), contexts.server, handshake_timeout=0.3)
    async with serving(listener, echo) as address:
        silent = [socket.create_connection(address, timeout=BOUND) for _ in range(5)]
        try:
            await until(lambda: listener.begun == 5)
            listener.handshake_timeout = BOUND  # for those who come now
            assert await other_side(ask, address, contexts) == b"olleh"
            for client in silent:
                with pytest.raises(ConnectionResetError):
                    await other_side(client.recv, 1)
        finally:
            for client in silent:
                client.close()
        await until(lambda: len(noted) == 5)
        assert await other_side(ask, address, contexts) == b"olleh"
    assert {str(error) for error, _ in noted} == {"no TLS handshake within 0.3 seconds"}
    assert errors_logged(caplog) == [TimeoutError] * 5


def speak_http(sock: socket.socket) -> str:
    sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + bytes(20_000))
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        return "RST"
    return "FIN"


def leave(sock: socket.socket) -> str:
    return "FIN"


def reset_at_once(sock: socket.socket) -> str:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return "RST"


@pytest.mark.parametrize(
    ("client", "failure", "end"),
    [
        (speak_http, ssl.SSLError, "FIN"),
        (leave, BrokenResourceError, "FIN"),
        (reset_at_once, BrokenResourceError, "RST"),
    ],
)
async def test_a_client_that_makes_no_handshake_is_logged_and_gone(
    contexts: Contexts, caplog: pytest.LogCaptureFixture, client: Any, failure: type[Exception], end: str
) -> None:
    def visit(address: Any) -> str:
        with socket.create_connection(address, timeout=BOUND) as sock:
            seen: str = client(sock)
            return seen

    listener = Noted(await create_tcp_listener(local_host="127.0.0.1"), contexts.server)
    async with serving(listener, echo) as address:
        assert await other_side(visit, address) == end
        await until(lambda: len(noted) == 1)
        error, stream = noted[0]
        assert isinstance(error, failure)
        assert isinstance(stream, SocketStream)
        assert stream.close_report is not None
        assert stream.extra(SocketAttribute.remote_address)
        assert await other_side(ask, address, contexts) == b"olleh"
    assert len(errors_logged(caplog)) == 1


async def test_a_client_whose_certificate_is_missing_is_told(
    contexts: Contexts, caplog: pytest.LogCaptureFixture, version: str
) -> None:
    contexts.server.verify_mode = ssl.CERT_REQUIRED

    def visit(address: Any) -> None:
        with socket.create_connection(address, timeout=BOUND) as sock:
            peer = Peer(sock, contexts.client, server_side=False)
            with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required|handshake.failure"):
                peer.handshake()
                peer.receive(1)

    listener = Noted(await create_tcp_listener(local_host="127.0.0.1"), contexts.server)
    async with serving(listener, echo) as address:
        await other_side(visit, address)
        await until(lambda: len(noted) == 1)
    assert isinstance(noted[0][0], ssl.SSLError)


async def test_the_handshake_alone_for_who_accepts_himself(contexts: Contexts) -> None:
    async with TLSListener(await create_tcp_listener(local_host="127.0.0.1"), contexts.server) as listener:
        accept = listener.listener.accept  # type: ignore[attr-defined]
        address = listener.listener.extra(SocketAttribute.local_address)
        with thread(ask, address, contexts) as answer:
            await echo(await listener.handshake(await accept()))
        assert answer.result() == b"olleh"
        with socket.create_connection(address, timeout=BOUND) as silent:
            stream = await accept()
            with anyio.move_on_after(0.05) as scope:
                await listener.handshake(stream)
            assert scope.cancelled_caught
            with pytest.raises(ConnectionResetError):
                silent.recv(1)
        listener.handshake_timeout = 0.1
        with socket.create_connection(address, timeout=BOUND) as silent:
            stream = await accept()
            with pytest.raises(TimeoutError, match=r"no TLS handshake within 0\.1 seconds"):
                await listener.handshake(stream)
            assert stream.close_report.outcome is CloseOutcome.ABORTED
            with pytest.raises(ConnectionResetError):
                silent.recv(1)


async def test_a_listener_over_anyios_own(contexts: Contexts) -> None:
    listener = Noted(await anyio.create_tcp_listener(local_host="127.0.0.1"), contexts.server, True, 0.2)
    async with serving(listener, echo) as address:
        with socket.create_connection(address, timeout=BOUND) as silent:
            await until(lambda: listener.begun == 1)
            listener.handshake_timeout = BOUND
            assert await other_side(ask, address, contexts) == b"olleh"
            assert not await other_side(silent.recv, 1)


# --- real counterparties ---------------------------------------------------------------------------------------------


async def test_openssls_server(contexts: Contexts, pem: dict[str, str], version: str) -> None:
    with s_server(pem, version, "-rev") as (server, port):
        async with await connect_tcp("127.0.0.1", port, tls=True, ssl_context=contexts.client) as stream:
            await stream.send(b"hello\n")
            assert await stream.receive() == b"olleh\n"
        assert outcome(stream) in (CloseOutcome.ACKED, CloseOutcome.CLEAN)
        assert b"CONNECTION CLOSED" in await other_side(server.hear, b"CONNECTION CLOSED")


async def test_openssls_client(contexts: Contexts, pem: dict[str, str], version: str) -> None:
    flag = {"TLSv1.2": "-tls1_2", "TLSv1.3": "-tls1_3"}[version]

    async def handler(stream: TLSStream) -> None:
        async with stream:
            await stream.send((await stream.receive())[:-1][::-1] + b"\n")

    def talk(address: tuple[str, int]) -> bytes:
        command = (tool("openssl"), "s_client", "-connect", f"127.0.0.1:{address[1]}", "-CAfile", pem["ca"])
        with Program(*command, "-verify_return_error", "-servername", "localhost", flag) as client:
            client.hear(b"Verify return code: 0")
            client.tell("hello")
            heard = client.hear(b"olleh\n")
            assert client.child.wait(BOUND) == 0
        return heard

    listener = Noted(await create_tcp_listener(local_host="127.0.0.1"), contexts.server)
    async with serving(listener, handler) as address:
        await other_side(talk, address)
    assert not noted


async def test_openssls_client_asks_for_new_keys(contexts: Contexts, pem: dict[str, str]) -> None:
    listener = Noted(await create_tcp_listener(local_host="127.0.0.1"), contexts.server)
    async with serving(listener, echo) as address:
        command = (tool("openssl"), "s_client", "-connect", f"127.0.0.1:{address[1]}", "-CAfile", pem["ca"])
        with Program(*command, "-tls1_3") as client:
            for word in (b"one", b"two", b"three"):
                client.tell(word.decode())
                await other_side(client.hear, b"\n" + word[::-1])
                client.tell("K")
                await other_side(client.hear, b"KEYUPDATE")
            client.tell("Q")
            assert await other_side(client.child.wait, BOUND) == 0
    assert not noted


async def test_curl(contexts: Contexts, pem: dict[str, str], tmp_path: Path, version: str) -> None:
    """The end of the answer is the end of TLS: without close_notify curl calls it an error."""
    flag = {"TLSv1.2": "1.2", "TLSv1.3": "1.3"}[version]
    body = DATA * 20

    async def handler(stream: TLSStream) -> None:
        async with stream:
            request = b""
            while b"\r\n\r\n" not in request:
                request += await stream.receive()
            await stream.send(b"HTTP/1.0 200 OK\r\n\r\n" + body)

    def fetch(address: tuple[str, int]) -> None:
        url = f"https://localhost:{address[1]}/"
        subprocess.run(
            [
                tool("curl"),
                "-sS",
                "--cacert",
                pem["ca"],
                "--tls-max",
                flag,
                "--tlsv" + flag,
                "--ipv4",
                "--noproxy",
                "*",
                "-o",
                str(tmp_path / "body"),
                url,
            ],
            check=True,
            timeout=BOUND,
        )

    listener = Noted(await create_tcp_listener(local_host="127.0.0.1"), contexts.server)
    async with serving(listener, handler) as address:
        await other_side(fetch, address)
    assert not noted
    assert (tmp_path / "body").read_bytes() == body
