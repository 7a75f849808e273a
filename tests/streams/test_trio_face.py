"""What Trio's libraries use of a stream and of a listener beside the methods of its abstract classes."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from anyio.abc import SocketAttribute
from support.sockets import Pair, read_to_fin, reset
from support.streams import adopt, stream_over
from support.threads import thread
from support.tls import Contexts, Peer
from support.waiting import gone

from roket_trio import (
    ClosedResourceError,
    ClosePolicy,
    SocketListener,
    SocketStream,
    UNIXSocketStream,
    connect_tcp,
    connect_unix,
    create_tcp_listener,
    create_unix_listener,
    wrap_tls,
)


async def test_the_socket_is_trio_s_over_the_same_descriptor(any_pair: Pair) -> None:
    async with stream_over(any_pair[0]) as stream:
        raw = stream.extra(SocketAttribute.raw_socket)
        sock = stream.socket
        assert isinstance(sock, trio.socket.SocketType)
        assert sock is stream.socket
        assert sock.fileno() == raw.fileno()
        assert (sock.family, sock.type, sock.proto) == (raw.family, raw.type, raw.proto)
        assert sock.getsockname() == raw.getsockname()
        assert sock.getpeername() == raw.getpeername()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        await stream.send(b"goes on")
        assert any_pair[1].recv(100) == b"goes on"
    assert sock.fileno() == -1
    assert stream.socket is sock


async def test_the_socket_that_is_first_asked_for_after_the_close_is_closed(any_pair: Pair) -> None:
    stream = await adopt(any_pair[0])
    await stream.aclose()
    assert isinstance(stream.socket, trio.socket.SocketType)
    assert stream.socket.family == any_pair[1].family
    assert stream.socket.fileno() == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        stream.socket.getsockname()


async def test_the_socket_does_not_own_the_descriptor(any_pair: Pair) -> None:
    """That a library keeps it neither delays the close nor makes another one."""
    stream = await adopt(any_pair[0])
    kept = stream.socket
    await stream.send(b"x")
    await stream.aclose()
    assert read_to_fin(any_pair[1]) == b"x"
    assert kept.fileno() == -1


async def test_options_are_set_and_asked_for_with_trio_s_signatures(pair: Pair) -> None:
    async with stream_over(pair[0]) as stream:
        raw = stream.extra(SocketAttribute.raw_socket)
        assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, False)
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
        linger = struct.pack("ii", 1, 3)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        assert stream.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, buffersize=8) == linger
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, None, length=0)
        for arguments in ((None,), (1, 4), (b"1234", 4)):
            with pytest.raises(TypeError, match="needs a value, or None and a length"):
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, *arguments)
        with pytest.raises(OSError, match="Protocol not available"):
            stream.getsockopt(socket.IPPROTO_TCP, 255)
    for call in (
        lambda: stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        lambda: stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
    ):
        with pytest.raises(OSError, match="Bad file descriptor"):
            call()


@pytest.mark.parametrize("end", ["aclose", "abort", "reset by the peer"])
async def test_both_addresses_are_remembered_after_the_close(pair: Pair, end: str) -> None:
    here, there = pair[0].getsockname(), pair[0].getpeername()
    stream = await adopt(pair[0])
    if end == "reset by the peer":
        reset(pair[1])
        await gone(pair[0])
    elif end == "abort":
        stream.abort()
    for _ in range(2):
        assert stream.extra(SocketAttribute.local_address) == here
        assert stream.extra(SocketAttribute.local_port) == here[1]
        assert stream.extra(SocketAttribute.remote_address) == there
        assert stream.extra(SocketAttribute.remote_port) == there[1]
        await stream.aclose()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_both_ends_of_a_connection_remember_both_addresses(host: str, contexts: Contexts) -> None:
    async with await create_tcp_listener(local_host=host) as listener:
        port = listener.extra(SocketAttribute.local_port)
        client = await connect_tcp(host, port)
        server = await listener.accept()
        await client.aclose()
        await server.aclose()
        local, remote = SocketAttribute.local_address, SocketAttribute.remote_address
        assert client.extra(remote) == server.extra(local) == (host, port)
        assert client.extra(local) == server.extra(remote)
        assert client.extra(SocketAttribute.local_port) == server.extra(SocketAttribute.remote_port)


async def test_a_unix_stream_remembers_its_paths(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    async with await create_unix_listener(path) as listener:
        client = await connect_unix(path)
        server = await listener.accept()
        await client.aclose()
        await server.aclose()
        assert client.extra(SocketAttribute.remote_address) == server.extra(SocketAttribute.local_address) == path
        assert client.extra(SocketAttribute.local_address) == server.extra(SocketAttribute.remote_address) == ""
        for stream in (client, server):
            for attribute in (SocketAttribute.local_port, SocketAttribute.remote_port):
                with pytest.raises(anyio.TypedAttributeLookupError):
                    stream.extra(attribute)


async def test_they_are_instances_of_trio_s_classes(tmp_path: Path, contexts: Contexts, any_pair: Pair) -> None:
    async with stream_over(any_pair[0]) as stream:
        assert isinstance(stream, trio.SocketStream)
        assert issubclass(UNIXSocketStream, trio.SocketStream)
    async with await create_unix_listener(tmp_path / "socket") as one, await create_tcp_listener() as several:
        assert isinstance(one, trio.SocketListener)
        assert not isinstance(several, trio.SocketListener)
        for each in several.listeners:
            assert isinstance(each, trio.SocketListener)
    assert not issubclass(SocketStream, trio.SSLStream)
    assert not isinstance(object(), trio.SocketStream)
    # Each public member of Trio's own class is there.
    for theirs, ours in ((trio.SocketStream, SocketStream), (trio.SocketListener, SocketListener)):
        members = {name for name in dir(theirs) if not name.startswith("_")} | {"socket"}
        assert members <= set(dir(ours))


async def test_a_listener_has_the_socket_too(tmp_path: Path) -> None:
    async with await create_unix_listener(tmp_path / "socket") as one, await create_tcp_listener() as several:
        for listener in (one, several, *several.listeners):
            assert isinstance(listener, SocketListener | type(several))
            assert isinstance(listener.socket, trio.socket.SocketType)
            assert listener.socket is listener.socket
            assert listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        assert several.socket.getsockname()[1] == several.extra(SocketAttribute.local_port)
        assert one.socket.getsockname() == str(tmp_path / "socket")
    assert one.socket.fileno() == several.socket.fileno() == -1


@pytest.mark.loops("trio")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", None])
async def test_trio_s_own_helpers_take_our_listener(host: str | None) -> None:
    async def echo(stream: Any) -> None:
        async for chunk in stream:
            await stream.send_all(chunk)

    listener = await create_tcp_listener(local_host=host)
    async with trio.open_nursery() as nursery:
        listeners = [each for each in listener.listeners if isinstance(each, SocketListener)]
        assert await nursery.start(trio.serve_listeners, echo, listeners) is listeners
        for one in (*listeners, listener):
            client: Any = await trio.testing.open_stream_to_socket_listener(one)
            async with client:
                await client.send_all(b"hello")
                await client.send_eof()
                assert [chunk async for chunk in client] == [b"hello"]
        nursery.cancel_scope.cancel()
    assert listener.socket.fileno() == -1


@pytest.mark.loops("trio")
async def test_a_task_in_the_socket_is_woken_by_the_close(pair: Pair) -> None:
    async with stream_over(pair[0]) as stream:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await stream.socket.recv(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await stream.aclose()


@pytest.mark.loops("trio")
async def test_a_stream_whose_socket_was_closed_says_so_and_leaves_nothing(any_pair: Pair) -> None:
    stream = await adopt(any_pair[0])

    async def wait() -> None:
        with pytest.raises(ClosedResourceError):
            await stream.receive_some()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        stream.socket.close()
    assert read_to_fin(any_pair[1]) == b""
    await stream.aclose()
    with pytest.raises(ClosedResourceError):
        await stream.send_all(b"x")


@pytest.mark.loops("trio")
async def test_trio_s_tls_goes_over_our_stream_and_our_listener(contexts: Contexts) -> None:
    async def shout(stream: trio.SSLStream[Any]) -> None:
        async with stream:
            await stream.send_all((await stream.receive_some()).upper())

    (tcp,) = (await create_tcp_listener(local_host="127.0.0.1")).listeners
    assert isinstance(tcp, SocketListener)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, shout, [trio.SSLListener(tcp, contexts.server)])
        below = await connect_tcp(*tcp.socket.getsockname())
        async with trio.SSLStream(below, contexts.client, server_hostname="localhost") as stream:
            await stream.send_all(b"in secret")
            assert await stream.receive_some() == b"IN SECRET"
            assert await stream.receive_some() == b""
            assert stream.transport_stream.socket.getpeername() == tcp.socket.getsockname()
        assert below.socket.fileno() == -1
        nursery.cancel_scope.cancel()


async def test_a_tls_stream_remembers_what_its_transport_does(pair: Pair, contexts: Contexts) -> None:
    here, there = pair[0].getsockname(), pair[0].getpeername()
    peer = Peer(pair[1], contexts.server, server_side=True)
    with thread(peer.handshake):
        tls = await wrap_tls(await adopt(pair[0]), hostname="localhost", ssl_context=contexts.client)
    with thread(peer.read_to_end):
        await tls.aclose()
    assert tls.extra(SocketAttribute.local_address) == here
    assert tls.extra(SocketAttribute.remote_address) == there


# --- made of a Trio socket -------------------------------------------------------------------------------------------


async def test_a_stream_is_made_of_a_trio_socket(any_pair: Pair) -> None:
    sock = trio.socket.from_stdlib_socket(any_pair[0])
    policy = ClosePolicy(linger_seconds=30)
    async with SocketStream(sock, close_policy=policy) as stream:
        assert stream.socket is sock
        assert stream.close_policy is policy
        assert stream.extra(SocketAttribute.raw_socket) is any_pair[0]
        await stream.send_all(b"there")
        any_pair[1].sendall(b"and back")
        assert await stream.receive_some() == b"and back"
        with thread(read_to_fin, any_pair[1]) as arrived:
            await stream.aclose()
        assert arrived.result() == b"there"
    assert sock.fileno() == -1


async def test_a_listener_is_made_of_a_trio_socket() -> None:
    sock = trio.socket.from_stdlib_socket(socket.create_server(("127.0.0.1", 0)))
    async with SocketListener(sock) as listener:
        assert listener.socket is sock
        async with await connect_tcp(*sock.getsockname()) as client, await listener.accept() as server:
            assert type(server) is SocketStream
            await client.send(b"x")
            assert await server.receive() == b"x"
    assert sock.fileno() == -1


async def test_what_is_no_trio_socket_of_that_kind_is_refused_and_left_to_its_owner(pair: Pair) -> None:
    with trio.socket.from_stdlib_socket(socket.socket()) as closed:
        pass
    for kind in (SocketStream, SocketListener):
        for wrong in (pair[0], pair[0].fileno(), None):
            with pytest.raises(TypeError, match=f"{kind.__name__} requires a Trio socket object"):
                kind(wrong)  # type: ignore[arg-type]
        with trio.socket.from_stdlib_socket(socket.socket(type=socket.SOCK_DGRAM)) as datagrams:
            with pytest.raises(ValueError, match=f"{kind.__name__} requires a SOCK_STREAM socket"):
                kind(datagrams)
            assert datagrams.fileno() >= 0
        with pytest.raises(ValueError, match="requires a socket that is open"):
            kind(closed)
    with pytest.raises(ValueError, match="SocketListener requires a listening socket"):
        SocketListener(trio.socket.from_stdlib_socket(pair[0]))
    pair[0].sendall(b"still mine")
    assert pair[1].recv(100) == b"still mine"


def test_outside_of_a_loop_the_socket_is_left_to_its_owner(pair: Pair) -> None:
    with pytest.raises(RuntimeError):
        SocketStream(trio.socket.from_stdlib_socket(pair[0]))
    pair[0].sendall(b"still mine")
    assert pair[1].recv(100) == b"still mine"


async def test_a_socket_that_was_closed_past_its_stream_is_closed_as_trio_says(any_pair: Pair) -> None:
    ours, peer = any_pair
    stream = await adopt(ours)
    stream.extra(SocketAttribute.raw_socket).close()
    for _ in range(2):
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"x")
    await stream.aclose()
    assert read_to_fin(peer) == b""
