"""``TCPConnectable``, ``UNIXConnectable``, ``as_connectable``: AnyIO's, and each connection is one of ours."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
from anyio.streams.tls import TLSConnectable
from support.sockets import ends_in_fin, listening_unix, read_to_fin
from support.threads import thread
from support.tls import Contexts, Peer, server_thread
from support.waiting import BOUND

import roket_trio
from roket_trio import (
    ConnectionFailed,
    SocketStream,
    TCPConnectable,
    TLSStream,
    TruncatedError,
    UNIXConnectable,
    UNIXSocketStream,
    as_connectable,
)


@pytest.fixture(params=["tcp", "unix"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, Any]]:
    """A raw listening socket, and what ``as_connectable`` is given to connect to it."""
    if request.param == "tcp":
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(BOUND)
            yield listener, listener.getsockname()
    else:
        with listening_unix(str(tmp_path / "socket")) as listener:
            yield listener, tmp_path / "socket"


async def test_a_connectable_connects_each_time_by_our_functions(server: tuple[socket.socket, Any]) -> None:
    listener, remote = server
    connectable = as_connectable(remote)
    is_tcp = isinstance(remote, tuple)
    assert type(connectable) is (TCPConnectable if is_tcp else UNIXConnectable)
    assert isinstance(connectable, anyio.TCPConnectable if is_tcp else anyio.UNIXConnectable)
    assert anyio.as_connectable(connectable) is connectable
    for word in (b"once", b"again"):
        stream: Any = await connectable.connect()
        assert type(stream) is (SocketStream if is_tcp else UNIXSocketStream)
        accepted, _ = listener.accept()
        with accepted:
            await stream.send(word)
            with thread(read_to_fin, accepted) as arrived:
                await stream.aclose()
            assert arrived.result() == word


def test_a_connectable_is_made_of_what_anyio_makes_it_of(tmp_path: Path) -> None:
    assert as_connectable(("localhost", 80)) == TCPConnectable("localhost", 80)
    for path in ("name", b"name", tmp_path):
        assert as_connectable(path) == UNIXConnectable(path)
    theirs = anyio.TCPConnectable("localhost", 80)
    assert as_connectable(theirs, tls=True) is theirs
    wrong: list[Any] = [7, None, ("localhost",), ("localhost", 80, 0), ["localhost", 80]]
    for remote in wrong:
        with pytest.raises(TypeError, match=r"cannot convert .* to a connectable"):
            as_connectable(remote)
    for port in (0, 65536):
        with pytest.raises(ValueError, match="TCP port number out of range"):
            TCPConnectable("localhost", port)


async def test_a_failure_is_told_with_anyio_s_words_and_keeps_its_class(tmp_path: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        with pytest.raises(ConnectionRefusedError, match=f"error connecting to 127.0.0.1:{port}: ") as refused:
            await TCPConnectable("127.0.0.1", port).connect()
    with pytest.raises(FileNotFoundError, match="error connecting to 'nowhere': ") as missing:
        await UNIXConnectable("nowhere").connect()
    with pytest.raises(socket.gaierror, match=r"error connecting to bad\.\.name:80: ") as unknown:
        await TCPConnectable("bad..name", 80).connect()
    for caught in (refused, missing, unknown):
        assert isinstance(caught.value, ConnectionFailed)
        assert isinstance(caught.value, anyio.ConnectionFailed)
        assert isinstance(caught.value.__cause__, ConnectionFailed)
        assert caught.value.errno == caught.value.__cause__.errno


@pytest.mark.parametrize("says_close", [True, False])
async def test_tls_is_our_stream_and_notices_a_truncation(contexts: Contexts, says_close: bool) -> None:
    def serve(sock: socket.socket) -> None:
        peer = Peer(sock, contexts.server, server_side=True)
        peer.handshake()
        peer.send(b"all of it")
        if says_close:
            peer.say_close()
        sock.shutdown(socket.SHUT_WR)
        peer.read_to_end()

    with server_thread(serve) as (port, served):
        connectable = as_connectable(("localhost", port), tls=True, ssl_context=contexts.client)
        assert isinstance(connectable, TLSConnectable)
        async with await connectable.connect() as stream:
            assert type(stream) is TLSStream
            assert await stream.receive() == b"all of it"
            with pytest.raises(roket_trio.EndOfStream if says_close else TruncatedError):
                await stream.receive()
        served.result()


async def test_a_unix_socket_can_have_tls_too(contexts: Contexts, tmp_path: Path) -> None:
    with listening_unix(str(tmp_path / "socket")) as listener:

        def serve() -> bytes:
            sock, _ = listener.accept()
            with sock:
                peer = Peer(sock, contexts.server, server_side=True)
                peer.handshake()
                peer.send(b"its tickets are sent")
                return peer.read_to_end().data

        connectable = as_connectable(
            tmp_path / "socket", tls=True, ssl_context=contexts.client, tls_hostname="localhost"
        )
        with thread(serve) as arrived:
            async with await connectable.connect() as stream:
                assert await stream.receive() == b"its tickets are sent"
                await stream.send(b"in secret")
        assert arrived.result() == b"in secret"


async def test_a_failed_handshake_closes_the_connection(contexts: Contexts) -> None:
    """The server's certificate is not for that name: it is told with an alert, and the connection ends in FIN."""

    def serve(sock: socket.socket) -> bool:
        peer = Peer(sock, contexts.server, server_side=True)
        with pytest.raises(ssl.SSLError):  # the alert
            peer.handshake()
            peer.read_to_end()
        return ends_in_fin(sock)

    with server_thread(serve) as (port, is_clean):
        connectable = as_connectable(
            ("localhost", port), tls=True, ssl_context=contexts.client, tls_hostname="somebody.else"
        )
        with pytest.raises(ssl.SSLCertVerificationError):
            await connectable.connect()
    assert is_clean.result()
