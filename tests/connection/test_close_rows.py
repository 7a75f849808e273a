"""How connections end, row by row: what other stream libraries were measured to get wrong, as server and as client.

Each row is a body that has our stream, and a raw blocking peer. The peer says what it saw (bytes, FIN or RST), the
kernel whether a socket is left; the report must agree with both. As a server the body is a handler of ``serve``, as a
client it is supervised. Rows that are about the whole process (no descriptors left) are in test_serving.py.
"""

from __future__ import annotations

import logging
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import anyio
import anyio.to_thread
import pytest
from anyio.abc import SocketAttribute
from support.loops import Run
from support.programs import sockets_at
from support.tls import Contexts, localhost_contexts
from support.waiting import cancelled_when, has_no_window

from roket_trio import (
    BrokenResourceError,
    ClosedResourceError,
    CloseOutcome,
    ClosePolicy,
    PeerGoneError,
    TLSListener,
    TruncatedError,
    connect_tcp,
    create_tcp_listener,
    serve,
    supervise,
)
from roket_trio._connection.lingering_close import FIN_WAIT_SECONDS, ORPHAN_SECONDS
from roket_trio._kernel.sock_diag import InetSocket

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel tells of a connection is Linux's")

Ends = tuple[tuple[str, int], tuple[str, int]]

# An orphan, too, is gone within this.
BOUND = max(ORPHAN_SECONDS, FIN_WAIT_SECONDS) + 10.0
CLOSE_WAIT_SECONDS = 0.2
# What a busy machine may add (seconds).
SLACK = 10.0
# What both sides' buffers hold of it is a small part.
ENDLESS = bytes(64 << 20)
MESSAGE = bytes(range(250)) * 560  # 140,000 bytes

CLEAN, ACKED, UNACKED, ABORTED, RESET = CloseOutcome


class Oops(Exception):
    pass


# --- our side


async def says_without_reading(stream: Any) -> None:
    await stream.send(MESSAGE)


async def leaves_20_kb_unread(stream: Any) -> None:
    await until(lambda: stream.statistics().kernel.unread_bytes == 20_000)
    await stream.send(MESSAGE)


async def is_cancelled_in_a_send(stream: Any) -> None:
    before = stream.statistics().sent_bytes
    sock = stream.extra(SocketAttribute.raw_socket)
    await cancelled_when(lambda: stream.statistics().sent_bytes > before and has_no_window(sock), stream.send, ENDLESS)


async def closes_under_a_deadline_after_that(stream: Any) -> None:
    await is_cancelled_in_a_send(stream)
    with anyio.fail_after(BOUND):
        await stream.aclose()
    assert stream.close_report is not None


async def closes_while_another_task_sends(stream: Any) -> None:
    async with anyio.create_task_group() as tasks:

        async def send() -> None:
            with pytest.raises(ClosedResourceError):
                await stream.send(ENDLESS)

        tasks.start_soon(send)
        await until(lambda: stream.statistics().sent_bytes)
        await stream.aclose()


async def closes_while_another_task_receives(stream: Any) -> None:
    async with anyio.create_task_group() as tasks:

        async def receive() -> None:
            with pytest.raises(ClosedResourceError):
                await stream.receive()

        tasks.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        await stream.aclose()


async def reads_after_the_peers_reset(stream: Any) -> None:
    await stream.wait_peer_closed()
    received = bytearray()
    for _ in range(2):
        with pytest.raises(BrokenResourceError):
            while True:
                received += await stream.receive()
    assert received == MESSAGE[:50_000]


async def sleeps(stream: Any) -> None:
    await anyio.sleep_forever()


async def sleeps_shielded(stream: Any) -> None:
    with anyio.CancelScope(shield=True):
        await until(lambda: stream.close_report)


async def forgets_in_a_cycle(stream: Any) -> None:
    await stream.send(MESSAGE)
    cycle: list[Any] = [stream]
    cycle.append(cycle)


async def raises(stream: Any) -> None:
    await stream.send(MESSAGE)
    await until(lambda: stream.statistics().kernel.unacked_bytes == 0)
    raise Oops


async def refuses_early(stream: Any) -> None:
    """The answer to a peer that goes on sending (RFC 9112, section 9.6)."""
    stream.close_policy = ClosePolicy(wait_for_peer=True, linger_seconds=BOUND)
    await stream.receive()
    await stream.send(MESSAGE[:413])


# --- the peer's side: what it saw


class Seen(NamedTuple):
    received: bytes
    end: str


def sees_the_end(peer: socket.socket, received: bytes = b"") -> Seen:
    while True:
        try:
            data = peer.recv(1 << 20)
        except ConnectionResetError:
            return Seen(received, "RST")
        if not data:
            return Seen(received, "FIN")
        received += data


def sends_20_kb_and_reads(peer: socket.socket) -> Seen:
    peer.sendall(bytes(20_000))
    return sees_the_end(peer)


def waits_before_it_reads(peer: socket.socket) -> Seen:
    """Until the other side has ended it: what arrives then, does."""
    ends = ends_of(peer)
    assert peer.recv(1, socket.MSG_PEEK)
    until_sync(lambda: our_end(ends) is None)
    return sees_the_end(peer)


def sends_50_kb_and_resets(peer: socket.socket) -> Seen:
    peer.sendall(MESSAGE[:50_000])
    until_sync(partial(is_acked, peer))
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    return Seen(b"", "itself")


def finishes_and_reads(peer: socket.socket) -> Seen:
    began = time.monotonic()
    peer.shutdown(socket.SHUT_WR)
    seen = sees_the_end(peer)
    assert CLOSE_WAIT_SECONDS * 0.9 < time.monotonic() - began < CLOSE_WAIT_SECONDS * 9 / 8 + SLACK
    return seen


def uploads_10_mb_and_reads(peer: socket.socket) -> Seen:
    peer.sendall(bytes(10_000_000))
    peer.shutdown(socket.SHUT_WR)
    return sees_the_end(peer)


def our_end(ends: Ends, *, held: bool = True) -> InetSocket | None:
    """The socket of our side; None when nobody holds it, or, with ``held=False``, when there is none."""
    here, there = ends
    return next((sock for sock in sockets_at(here[1], held=held) if (sock.local, sock.remote) == (there, here)), None)


# Noted as the connection begins: after a reset, which may come before the first line of a peer, getpeername(2) fails.
ENDS: WeakKeyDictionary[socket.socket, Ends] = WeakKeyDictionary()


def ends_of(peer: socket.socket) -> Ends:
    return ENDS[peer]


def is_acked(peer: socket.socket) -> bool:
    here, there = ends_of(peer)
    return not any(sock.unacked_bytes for sock in sockets_at(here[1]) if (sock.local, sock.remote) == (here, there))


def until_sync(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(BOUND):
        while not condition():  # noqa: ASYNC110 - what is waited for is not a task of this loop
            await anyio.sleep(0.005)


# --- the same over TLS


async def is_told_that_it_is_truncated(stream: Any) -> None:
    received = b""
    with pytest.raises(TruncatedError):
        while True:
            received += await stream.receive()
    assert received == MESSAGE


class TLSPeer:
    """TLS over a raw socket: what arrives on it is looked at before OpenSSL has a word."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server_side: bool) -> None:
        self.sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server_side else "localhost"
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side, server_hostname=name)
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self.sock.sendall(self._outgoing.read())
                self._incoming.write(self.sock.recv(1 << 16))
            else:
                self.sock.sendall(self._outgoing.read())
                return

    def send(self, data: bytes) -> None:
        self._tls.write(data)
        self.sock.sendall(self._outgoing.read())

    def sees_the_end(self) -> Seen:
        raw, end = sees_the_end(self.sock)
        self._incoming.write(raw)
        received = b""
        with suppress(ssl.SSLWantReadError):
            while data := self._tls.read(1 << 20):
                received += data
            end = f"close_notify, {end}"
        return Seen(received, end)


def reads_tls_and_never_answers(peer: TLSPeer) -> Seen:
    return peer.sees_the_end()


def sends_tls_and_finishes_tcp(peer: TLSPeer) -> Seen:
    peer.send(MESSAGE)
    peer.sock.shutdown(socket.SHUT_WR)
    return peer.sees_the_end()


def waits_before_it_reads_tls(peer: TLSPeer) -> Seen:
    ends = ends_of(peer.sock)
    assert peer.sock.recv(1, socket.MSG_PEEK)
    until_sync(lambda: our_end(ends) is None)
    return peer.sees_the_end()


# --- the rows


@dataclass(frozen=True)
class Row:
    body: Callable[[Any], Awaitable[None]]
    peer: Callable[[Any], Seen]
    end: str
    """What the peer sees at the end."""
    outcomes: set[CloseOutcome]
    received: bytes | None = None
    """What the peer has received; None: a beginning of what was sent, not all of it."""
    peer_sent: int = 0
    raises: type[Exception] | None = None
    """What leaves the block of a supervised client."""

    def __str__(self) -> str:
        return f"{self.body.__name__}-{self.peer.__name__}"


ROWS = [
    Row(leaves_20_kb_unread, sends_20_kb_and_reads, "FIN", {CLEAN, ACKED}, MESSAGE, 20_000),
    Row(is_cancelled_in_a_send, waits_before_it_reads, "RST", {ABORTED}),
    Row(closes_under_a_deadline_after_that, waits_before_it_reads, "RST", {ABORTED}),
    Row(closes_while_another_task_sends, waits_before_it_reads, "RST", {ABORTED}),
    Row(closes_while_another_task_receives, sees_the_end, "FIN", {CLEAN, ACKED}, b""),
    Row(reads_after_the_peers_reset, sends_50_kb_and_resets, "itself", {RESET}, b"", 50_000),
    Row(sleeps, finishes_and_reads, "RST", {ABORTED}, b"", 0, PeerGoneError),
    Row(sleeps_shielded, finishes_and_reads, "RST", {ABORTED}, b"", 0, PeerGoneError),
    Row(forgets_in_a_cycle, sees_the_end, "FIN", {CLEAN, ACKED}, MESSAGE),
    Row(raises, sees_the_end, "RST", {ABORTED}, MESSAGE, 0, Oops),
    Row(refuses_early, uploads_10_mb_and_reads, "FIN", {CLEAN}, MESSAGE[:413], 10_000_000),
]
TLS_ROWS = [
    Row(says_without_reading, reads_tls_and_never_answers, "close_notify, FIN", {CLEAN, ACKED}, MESSAGE),
    Row(is_told_that_it_is_truncated, sends_tls_and_finishes_tcp, "close_notify, FIN", {CLEAN, ACKED}, b""),
    Row(is_cancelled_in_a_send, waits_before_it_reads_tls, "RST", {ABORTED}),
    Row(raises, reads_tls_and_never_answers, "RST", {ABORTED}, MESSAGE, 0, Oops),
]


@pytest.fixture(scope="module")
def contexts() -> Contexts:
    return localhost_contexts()


class Ended(NamedTuple):
    """One connection as our side knows it."""

    stream: Any
    ends: Ends
    """The peer's address, and ours."""


async def as_server(row: Row, tls: Contexts | None, seen: dict[Ends, Seen]) -> list[Ended]:
    """Three connections at once; none is in the others' way."""
    ended: list[Ended] = []
    listener: Any = await create_tcp_listener(local_host="127.0.0.1")
    address = listener.extra(SocketAttribute.local_address)
    if tls is not None:
        listener = TLSListener(listener, tls.server)

    connected: list[Ends] = []

    async def handler(stream: Any) -> None:
        ends = stream.extra(SocketAttribute.remote_address), address
        ended.append(Ended(stream, ends))
        await until(lambda: ends in connected)  # connect(2) would raise for a reset that comes before it returns
        await row.body(stream)

    def peer() -> None:
        with socket.create_connection(address) as sock:
            ENDS[sock] = ends = sock.getsockname(), address
            connected.append(ends)
            seen[ends] = told_by(row, sock, tls and tls.client, server_side=False)

    async with anyio.create_task_group() as tasks:
        await tasks.start(partial(serve, handler, listener, close_wait_seconds=CLOSE_WAIT_SECONDS))
        async with anyio.create_task_group() as peers:
            for _ in range(3):
                peers.start_soon(anyio.to_thread.run_sync, peer)
        await until(lambda: all(one.stream.close_report for one in ended))
        tasks.cancel_scope.cancel()
    assert len(ended) == 3
    return ended


async def as_client(row: Row, tls: Contexts | None, seen: dict[Ends, Seen]) -> list[Ended]:
    def peer() -> None:
        sock, there = listener.accept()
        with sock:
            ENDS[sock] = listener.getsockname(), there
            ends.append(ENDS[sock])
            seen[ends[0]] = told_by(row, sock, tls and tls.server, server_side=True, has_shaken=has_shaken)

    raised = None
    has_shaken = threading.Event()
    ends: list[Ends] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        async with anyio.create_task_group() as peers:
            peers.start_soon(anyio.to_thread.run_sync, peer)
            policy = ClosePolicy(on_error="abort")
            stream: Any
            if tls is None:
                stream = await connect_tcp(*address, close_policy=policy)
            else:
                stream = await connect_tcp(
                    *address, ssl_context=tls.client, tls_hostname="localhost", close_policy=policy
                )
                await until(has_shaken.is_set)  # a reset before that would end the peer's handshake, not its row
            try:
                async with supervise(stream, close_wait_seconds=CLOSE_WAIT_SECONDS):
                    await row.body(stream)
            except (Oops, PeerGoneError) as error:
                raised = error
    assert type(raised) is (row.raises or type(None))
    return [Ended(stream, ends[0])]


def told_by(
    row: Row,
    sock: socket.socket,
    context: ssl.SSLContext | None,
    *,
    server_side: bool,
    has_shaken: threading.Event | None = None,
) -> Seen:
    sock.settimeout(BOUND)
    if context is None:
        return row.peer(sock)
    peer = TLSPeer(sock, context, server_side=server_side)
    if has_shaken is not None:
        has_shaken.set()
    return row.peer(peer)


def assert_as_promised(row: Row, one: Ended, seen: Seen, *, tls: bool) -> None:
    report, statistics = one.stream.close_report, one.stream.statistics()
    assert seen.end == row.end
    assert report.outcome in row.outcomes
    # The report says of the peer's kernel what the peer says of itself.
    assert report.acked == (report.unacked_bytes == 0)
    assert report.seconds < ClosePolicy().linger_seconds + SLACK
    if row.received is not None:
        assert seen.received == row.received
        assert report.acked
    else:
        assert 0 < len(seen.received) < len(ENDLESS)
        assert seen.received == bytes(len(seen.received))
        assert not report.acked
    if not tls:
        assert statistics.received_bytes + report.discarded_bytes == row.peer_sent
        assert statistics.sent_bytes - report.unacked_bytes <= len(seen.received) <= statistics.sent_bytes


@pytest.mark.parametrize("side", [as_server, as_client])
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_how_it_ends(run: Run, row: Row, side: Any, caplog: pytest.LogCaptureFixture) -> None:
    check(run, row, side, None, caplog)


@pytest.mark.parametrize("side", [as_server, as_client])
@pytest.mark.parametrize("row", TLS_ROWS, ids=str)
def test_how_it_ends_over_tls(
    run: Run, row: Row, side: Any, contexts: Contexts, caplog: pytest.LogCaptureFixture
) -> None:
    check(run, row, side, contexts, caplog)


def is_gone(ends: Ends) -> bool:
    return our_end(ends, held=False) is None


def check(run: Run, row: Row, side: Any, tls: Contexts | None, caplog: pytest.LogCaptureFixture) -> None:
    seen: dict[Ends, Seen] = {}
    with caplog.at_level(logging.INFO, logger="roket_trio"):
        ended = run(side, row, tls, seen)
    for one in ended:
        assert_as_promised(row, one, seen[one.ends], tls=tls is not None)
        # No descriptor, and no orphan for longer than it may be.
        assert our_end(one.ends) is None
        until_sync(partial(is_gone, one.ends))
    if side is as_server:
        levels = {record.levelname for record in caplog.records}
        expected: dict[type[Exception] | None, set[str]] = {None: set(), Oops: {"ERROR"}, PeerGoneError: {"INFO"}}
        assert levels == expected[row.raises]
