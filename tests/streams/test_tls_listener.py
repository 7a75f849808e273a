"""``TLSListener``: handshakes that succeed, fail, or never end."""

from __future__ import annotations

import socket
import ssl
import struct
import sys
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.streams.buffered
import anyio.streams.tls
import anyio.to_thread
import pytest
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute
from support.threads import other_side, thread
from support.tls import Contexts, End, Noted, Peer, echo, noted, serving
from support.waiting import BOUND, until

from roket_trio import (
    BrokenResourceError,
    CloseOutcome,
    SocketStream,
    TLSListener,
    create_tcp_listener,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel tells of a close is Linux's")


# --- the listener ----------------------------------------------------------------------------------------------------


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
        address: Any = listener.listener.extra(SocketAttribute.local_address)
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
