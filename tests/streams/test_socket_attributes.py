"""What a ``SocketStream`` says of itself, and which sockets it takes."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from anyio.abc import SocketAttribute
from support.loops import Run
from support.socket_streams import has_arrived
from support.sockets import Pair, reset
from support.streams import adopt, stream_over
from support.waiting import until

from roket_trio import (
    BrokenResourceError,
    SocketStream,
    UNIXSocketStream,
    connect_tcp,
)

# --- statistics and attributes ---------------------------------------------------------------------------------------


async def test_statistics_count_what_moved(any_pair: Pair) -> None:
    async with stream_over(any_pair[0]) as stream:
        before = stream.statistics()
        assert (before.sent_bytes, before.received_bytes, before.send_calls, before.receive_calls) == (0, 0, 0, 0)
        assert not before.routes
        assert not before.fallbacks
        await stream.send(b"12345")
        await stream.send_all(b"678")
        any_pair[1].sendall(b"abcdef")
        assert has_arrived(any_pair[0])
        await stream.receive(1)
        await stream.receive_some(2)
        await stream.receive_into(bytearray(3))
        after = stream.statistics()
        assert (after.sent_bytes, after.received_bytes, after.send_calls, after.receive_calls) == (8, 6, 2, 3)
        assert before.sent_bytes == 0  # a snapshot
        with pytest.raises(TypeError):
            after.routes["x"] = 1  # type: ignore[index]
        await stream.aclose()
        closed = stream.statistics()
        assert (closed.sent_bytes, closed.received_bytes) == (8, 6)
        assert closed.kernel is None


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO as Linux has it")
async def test_statistics_show_the_kernels_own_view_of_tcp(tcp_pair: tuple[socket.socket, socket.socket]) -> None:
    async with stream_over(tcp_pair[0]) as stream:
        tcp_pair[1].sendall(b"unread")
        assert has_arrived(tcp_pair[0])
        before = stream.statistics().kernel
        assert before is not None
        await stream.send(b"x" * 1000)

        def acked() -> int:
            view = stream.statistics().kernel
            assert view is not None
            return view.acked_bytes - before.acked_bytes

        await until(lambda: acked() == 1000)
        view = stream.statistics().kernel
        assert view is not None
        assert view.state.name == "ESTABLISHED"
        assert view.unread_bytes == 6


async def test_a_unix_socket_has_no_kernel_view(unix_pair: Pair) -> None:
    async with stream_over(unix_pair[0]) as stream:
        assert stream.statistics().kernel is None


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_anyios_attributes_of_a_tcp_stream(host: str) -> None:
    if ":" in host and not socket.has_ipv6:
        pytest.skip("no IPv6")

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        async with await connect_tcp(host, server.getsockname()[1]) as stream:
            raw = stream.extra(SocketAttribute.raw_socket)
            assert isinstance(raw, socket.socket)
            assert raw.gettimeout() == 0
            assert stream.extra(SocketAttribute.family) == family
            assert stream.extra(SocketAttribute.local_address) == raw.getsockname()[:2]
            assert stream.extra(SocketAttribute.local_port) == raw.getsockname()[1]
            assert stream.extra(SocketAttribute.remote_address) == server.getsockname()[:2]
            assert stream.extra(SocketAttribute.remote_port) == server.getsockname()[1]
            assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_anyios_attributes_of_a_unix_stream(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(path)
        server.listen()
        client.connect(path)
        async with stream_over(client) as stream:
            assert stream.extra(SocketAttribute.family) == socket.AF_UNIX
            assert stream.extra(SocketAttribute.remote_address) == path
            assert stream.extra(SocketAttribute.local_address) == client.getsockname()
            for attribute in (SocketAttribute.local_port, SocketAttribute.remote_port):
                with pytest.raises(anyio.TypedAttributeLookupError):
                    stream.extra(attribute)
                assert stream.extra(attribute, None) is None


async def test_the_remote_address_is_remembered_when_the_peer_is_gone(
    tcp_pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, peer = tcp_pair
    address = peer.getsockname()
    async with stream_over(ours) as stream:
        reset(peer)
        with pytest.raises(BrokenResourceError):
            await stream.receive()
        with pytest.raises(OSError, match="not connected"):
            ours.getpeername()
        assert stream.extra(SocketAttribute.remote_address) == address
        assert stream.extra(SocketAttribute.remote_port) == address[1]
        await stream.aclose()
        assert stream.extra(SocketAttribute.remote_address) == address


# --- from_socket -----------------------------------------------------------------------------------------------------


async def test_from_socket_takes_a_descriptor(any_pair: Pair) -> None:
    fd = any_pair[0].detach()
    kind = UNIXSocketStream if any_pair[1].family == socket.AF_UNIX else SocketStream
    async with await kind.from_socket(fd) as stream:
        assert type(stream) is kind
        raw = stream.extra(SocketAttribute.raw_socket)
        assert raw.fileno() == fd
        assert not raw.getblocking()
        assert stream.extra(SocketAttribute.family) == any_pair[1].family
        await stream.send(b"by number")
        assert any_pair[1].recv(100) == b"by number"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize(("family", "protocol"), [(socket.AF_INET, 132), (40, 0)], ids=["SCTP", "AF_VSOCK"])
async def test_from_socket_refuses_what_speaks_neither_tcp_nor_unix(tcp_pair: Pair, family: int, protocol: int) -> None:
    # Not every kernel makes such sockets; this one only says that it is one.
    with socket.socket(family, socket.SOCK_STREAM, protocol, fileno=tcp_pair[0].detach()) as sock:
        with pytest.raises(ValueError, match="expected a TCP or UNIX socket"):
            await SocketStream.from_socket(sock)
        assert sock.fileno() >= 0


@pytest.mark.parametrize(
    ("kind", "bad", "message"),
    [
        (SocketStream, "datagram", "socket type mismatch: expected SOCK_STREAM, got SOCK_DGRAM"),
        (SocketStream, "unconnected", "the socket must be connected"),
        (SocketStream, "listening", "the socket must be connected"),
        (UNIXSocketStream, "datagram", "socket type mismatch: expected SOCK_STREAM, got SOCK_DGRAM"),
        (UNIXSocketStream, "unconnected", "the socket must be connected"),
        (UNIXSocketStream, "other family", "address family mismatch: expected AF_UNIX, got AF_INET"),
    ],
)
def test_from_socket_refuses_an_unfit_socket_and_leaves_it_alone(
    run: Run, kind: type[SocketStream], bad: str, message: str, tcp_pair: Pair
) -> None:
    family = socket.AF_UNIX if kind is UNIXSocketStream else socket.AF_INET
    if bad == "other family":
        sock = tcp_pair[0]
    elif bad == "datagram" and family == socket.AF_UNIX:
        sock, other = socket.socketpair(family, socket.SOCK_DGRAM)
        other.close()
    elif bad == "datagram":
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.connect(("127.0.0.1", 9))
    else:
        sock = socket.socket(family, socket.SOCK_STREAM)
        if bad == "listening":
            sock.bind(("127.0.0.1", 0))
            sock.listen()
    sock.setblocking(True)

    async def main() -> None:
        for form in (sock, sock.fileno()):
            with pytest.raises(ValueError, match=message):
                await kind.from_socket(form)

    with sock:
        run(main)
        assert os.get_blocking(sock.fileno())  # open still, and as it was


async def test_from_socket_refuses_what_is_no_socket(tmp_path: Path) -> None:
    for kind in (SocketStream, UNIXSocketStream):
        with open(tmp_path / "file", "wb") as file:
            with pytest.raises(ValueError, match="the file descriptor does not refer to a socket"):
                await kind.from_socket(file.fileno())
            file.write(b"still open")
        closed = socket.socket()
        closed.close()
        with pytest.raises(ValueError, match="the socket must be connected; it is closed"):
            await kind.from_socket(closed)
        for number in (-1, 1_000_000):
            with pytest.raises(ValueError, match=r"the socket must be connected; .* not open"):
                await kind.from_socket(number)
        others: list[Any] = [True, False, "foo", b"3", None, 3.0]
        for other in others:
            with pytest.raises(TypeError, match=f"expected an int or socket, got {type(other).__name__} instead"):
                await kind.from_socket(other)


async def test_from_socket_that_is_cancelled_leaves_the_socket_to_its_owner(any_pair: Pair) -> None:
    for form in (any_pair[0], any_pair[0].fileno()):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await SocketStream.from_socket(form)
        assert scope.cancelled_caught
    any_pair[0].sendall(b"still mine")
    assert any_pair[1].recv(100) == b"still mine"


async def test_from_socket_releases_what_it_took_when_it_fails_late(
    any_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop refuses the descriptor: the caller has handed it over, so it is released."""
    import roket_trio._connection.connection

    def refuse() -> Any:
        raise RuntimeError("no loop today")

    monkeypatch.setattr(roket_trio._connection.connection, "current_loop", refuse)
    with pytest.raises(RuntimeError, match="no loop today"):
        await adopt(any_pair[0])
    monkeypatch.undo()
    assert any_pair[0].fileno() == -1
