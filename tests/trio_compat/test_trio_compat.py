"""Trio's names over our streams: the same calls, Trio's errors, and our closes."""

from __future__ import annotations

import inspect
import logging
import socket
import ssl
from pathlib import Path
from typing import Any

import anyio
import httpcore
import pytest
import trio
import trio.testing
from support.sockets import Pair, read_to_fin, reset
from support.streams import adopt
from support.threads import other_side, thread
from support.tls import Contexts, Peer, server_thread
from support.waiting import until

import roket_trio
from roket_trio import BrokenResourceError, TLSStream, TruncatedError, trio_compat

pytestmark = pytest.mark.loops("trio")


async def echo(stream: Any) -> None:
    async for chunk in stream:
        await stream.send_all(chunk)


# --- names and signatures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", trio_compat.__all__)
def test_each_name_has_the_signature_of_trio_s(name: str) -> None:
    theirs, ours = getattr(trio, name), getattr(trio_compat, name)
    assert inspect.getdoc(ours)
    found = inspect.signature(ours).parameters
    for parameter in inspect.signature(theirs).parameters.values():
        assert found[parameter.name].kind == parameter.kind, parameter
        assert found[parameter.name].default == parameter.default, parameter


def test_all_other_names_are_trio_s() -> None:
    for name in ("run", "open_nursery", "BrokenResourceError", "SocketStream"):
        assert (getattr(trio_compat, name) is getattr(trio, name)) == (name not in trio_compat.__all__)
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        trio_compat.no_such_name  # noqa: B018


@pytest.mark.parametrize("name", ["SocketStream", "SocketListener", "SSLStream", "SSLListener"])
def test_each_class_is_trio_s_too_and_has_its_members(name: str) -> None:
    theirs, ours = getattr(trio, name), getattr(trio_compat, name)
    assert issubclass(ours, theirs)
    assert {member for member in dir(theirs) if not member.startswith("_")} <= set(dir(ours))


# --- sockets ---------------------------------------------------------------------------------------------------------


async def test_a_server_and_its_clients_speak() -> None:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio_compat.serve_tcp, echo, 0)
        for listener in listeners:
            assert isinstance(listener, trio_compat.SocketListener)
        host, port = "localhost", listeners[0].socket.getsockname()[1]
        for name in (host, host.encode()):
            stream = await trio_compat.open_tcp_stream(name, port, happy_eyeballs_delay=None)
            assert type(stream) is trio_compat.SocketStream is roket_trio.SocketStream
            async with stream:
                await stream.send_all(b"hello")
                await stream.send_eof()
                assert [chunk async for chunk in stream] == [b"hello"]
            assert stream.close_report is not None
            assert stream.close_report.outcome is roket_trio.CloseOutcome.CLEAN
        client: Any = await trio.testing.open_stream_to_socket_listener(listeners[0])
        async with client:
            await client.send_all(b"x")
            assert await client.receive_some() == b"x"
        nursery.cancel_scope.cancel()
    assert {listener.socket.fileno() for listener in listeners} == {-1}


async def test_a_unix_socket_is_connected_to(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with trio.open_nursery() as nursery:
        sock = trio.socket.socket(socket.AF_UNIX)
        await sock.bind(str(path))
        sock.listen()
        await nursery.start(trio_compat.serve_listeners, echo, [trio_compat.SocketListener(sock)])
        for form in (path, str(path), bytes(path)):
            async with await trio_compat.open_unix_socket(form) as stream:
                assert type(stream) is roket_trio.UNIXSocketStream
                await stream.send_all(b"x")
                assert await stream.receive_some() == b"x"
        nursery.cancel_scope.cancel()


async def test_the_errors_are_those_that_trio_programs_expect(tmp_path: Path, pair: Pair) -> None:
    with pytest.raises(ValueError, match="host must be str or bytes, not None"):
        await trio_compat.open_tcp_stream(None, 80)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="port must be int, not '80'"):
        await trio_compat.open_tcp_stream("localhost", "80")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="port must be an int not '80'"):
        await trio_compat.open_tcp_listeners("80")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"backlog must be an int or None, not 1\.5"):
        await trio_compat.open_tcp_listeners(0, backlog=1.5)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        await trio_compat.open_unix_socket(tmp_path / "nowhere")
    with pytest.raises(socket.gaierror):
        await trio_compat.open_tcp_stream("bad..name", 80)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="All connection attempts failed"):
            await trio_compat.open_tcp_stream(*bound.getsockname())
    stream = trio_compat.SocketStream(trio.socket.from_stdlib_socket(pair[0]))
    reset(pair[1])
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await stream.send_all(b"x")


async def test_listeners_are_on_the_host_and_the_local_address_is_used() -> None:
    (listener,) = await trio_compat.open_tcp_listeners(0, host=b"127.0.0.1", backlog=1)
    async with listener:
        address = listener.socket.getsockname()
        assert address[0] == "127.0.0.1"
        async with await trio_compat.open_tcp_stream(*address, local_address="127.0.0.2") as stream:
            assert stream.socket.getsockname()[0] == "127.0.0.2"
            await (await listener.accept()).aclose()


# --- serving ---------------------------------------------------------------------------------------------------------


async def test_what_a_handler_raises_comes_out_in_a_group_and_its_client_sees_a_reset() -> None:
    async def handler(stream: Any) -> None:
        raise KeyError(await stream.receive_some())

    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(lambda task_status: _serve(handler, task_status))
            with socket.create_connection(listener.socket.getsockname()) as client:
                client.sendall(b"x")
                with pytest.raises(ConnectionResetError):
                    await other_side(client.recv, 1)
    assert caught.group_contains(KeyError)
    assert listener.socket.fileno() == -1


async def _serve(handler: Any, task_status: Any, **options: Any) -> None:
    await trio_compat.serve_tcp(handler, 0, host="127.0.0.1", task_status=task_status, **options)


async def test_handlers_run_in_the_nursery_that_is_given() -> None:
    async with trio.open_nursery() as handlers:
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(lambda task_status: _serve(echo, task_status, handler_nursery=handlers))
            client = await trio_compat.open_tcp_stream(*listener.socket.getsockname())
            await client.send_all(b"x")
            assert await client.receive_some() == b"x"
            nursery.cancel_scope.cancel()
        assert listener.socket.fileno() == -1
        await client.send_all(b"y")
        assert await client.receive_some() == b"y"
        await client.aclose()


async def test_a_handler_that_forgets_to_close_leaves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    kept: list[Any] = []

    async def handler(stream: Any) -> None:
        kept.append(stream)
        await stream.send_all(b"bye")

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(lambda task_status: _serve(handler, task_status))
        with socket.create_connection(listener.socket.getsockname()) as client:
            assert await other_side(read_to_fin, client) == b"bye"
        await until(lambda: kept[0].close_report is not None)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("is_patched", [False, True])
async def test_listeners_of_another_library_are_served_by_trio_s_own_function(
    is_patched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (theirs,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    if is_patched:  # for libraries that cannot be changed
        for name in trio_compat.__all__:
            monkeypatch.setattr(trio, name, getattr(trio_compat, name))
    async with trio.open_nursery() as nursery:
        assert await nursery.start(trio_compat.serve_listeners, echo, [theirs]) == [theirs]
        async with await trio_compat.open_tcp_stream(*theirs.socket.getsockname()) as stream:
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
        nursery.cancel_scope.cancel()


# --- TLS -------------------------------------------------------------------------------------------------------------


async def test_tls_is_served_and_its_clients_speak(contexts: Contexts) -> None:
    seen: list[Any] = []

    async def shout(stream: trio_compat.SSLStream[trio_compat.SocketStream]) -> None:
        seen.append(stream)
        assert isinstance(stream, trio.SSLStream)
        async for chunk in stream:
            await stream.send_all(chunk.upper())

    async def serve(task_status: Any) -> None:
        await trio_compat.serve_ssl_over_tcp(shout, 0, contexts.server, host="127.0.0.1", task_status=task_status)

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(serve)
        assert isinstance(listener, trio.SSLListener)
        below: Any = listener.transport_listener
        port = below.socket.getsockname()[1]
        client = await trio_compat.open_ssl_over_tcp_stream("localhost", port, ssl_context=contexts.client)
        assert type(client) is trio_compat.SSLStream
        with pytest.raises(trio.NeedHandshakeError):
            client.cipher()
        assert client.server_hostname == "localhost"
        await client.do_handshake()
        await client.do_handshake()
        assert client.version() in ("TLSv1.2", "TLSv1.3")
        assert client.getpeercert()
        await client.send_all(b"hello")
        assert await client.receive_some() == b"HELLO"
        await client.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await client.send_all(b"x")
        report = client.transport_stream.close_report
        assert report is not None
        assert report.outcome is roket_trio.CloseOutcome.CLEAN
        await until(lambda: seen[0].transport_stream.close_report is not None)
        nursery.cancel_scope.cancel()


async def test_two_tasks_that_begin_share_one_handshake(contexts: Contexts) -> None:
    def serve(sock: socket.socket) -> bytes:
        peer = Peer(sock, contexts.server, server_side=True)
        peer.handshake()
        peer.send(b"back")
        return peer.receive(5)

    with server_thread(serve) as (port, arrived):
        stream = await trio_compat.open_ssl_over_tcp_stream("localhost", port, ssl_context=contexts.client)
        async with stream:
            received: list[bytes] = []

            async def receive() -> None:
                received.append(await stream.receive_some())

            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                nursery.start_soon(stream.send_all, b"there")
            assert received == [b"back"]
    assert arrived.result() == b"there"


@pytest.mark.parametrize("is_compatible", [False, True])
async def test_an_end_without_close_notify_is_an_error_unless_it_is_https(
    pair: Pair, contexts: Contexts, is_compatible: bool
) -> None:
    peer = Peer(pair[1], contexts.server, server_side=True)
    stream = trio_compat.SSLStream(
        await adopt(pair[0]), contexts.client, server_hostname=b"localhost", https_compatible=is_compatible
    )
    with thread(peer.handshake):
        await stream.do_handshake()
    peer.send(b"a part")
    pair[1].shutdown(socket.SHUT_WR)
    assert await stream.receive_some() == b"a part"
    if is_compatible:
        assert await stream.receive_some() == b""
    else:
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.receive_some()
        assert type(caught.value) is TruncatedError
    with thread(peer.read_to_end):
        await stream.aclose()


async def test_a_failed_handshake_is_trio_s_error_again_and_again(contexts: Contexts) -> None:
    def serve(sock: socket.socket) -> None:
        peer = Peer(sock, contexts.server, server_side=True)
        with pytest.raises(ssl.SSLError):  # the alert
            peer.handshake()
            peer.read_to_end()

    with server_thread(serve) as (port, _):
        stream = trio_compat.SSLStream(
            await trio_compat.open_tcp_stream("127.0.0.1", port), contexts.client, server_hostname="somebody.else"
        )
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.send_all(b"x")
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        with pytest.raises(BrokenResourceError, match="handshake has failed"):
            await stream.receive_some()
        await stream.aclose()
        assert stream.transport_stream.socket.fileno() == -1


async def test_it_goes_over_streams_that_have_trio_s_methods_alone(contexts: Contexts) -> None:
    left, right = trio.testing.memory_stream_pair()
    client = trio_compat.SSLStream(left, contexts.client, server_hostname="localhost")
    server = trio_compat.SSLStream(right, contexts.server, server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        nursery.start_soon(server.do_handshake)
    await client.send_all(b"x" * 100_000)
    data = b""
    while len(data) < 100_000:
        data += await server.receive_some()
    assert data == b"x" * 100_000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.aclose)
        nursery.start_soon(server.aclose)


async def test_unwrap_leaves_the_stream_below(pair: Pair, contexts: Contexts) -> None:
    below = await adopt(pair[0])
    stream = trio_compat.SSLStream(below, contexts.client, server_hostname="localhost")
    peer = Peer(pair[1], contexts.server, server_side=True)
    with thread(peer.handshake):
        await stream.do_handshake()
    with thread(peer.say_close):
        assert await stream.unwrap() == (below, b"")
    with pytest.raises(trio.ClosedResourceError):
        await stream.send_all(b"x")
    await stream.aclose()
    assert below.close_report is None
    await below.send_all(b"in the clear")
    await below.aclose()
    assert read_to_fin(pair[1]).endswith(b"in the clear")  # behind our close_notify


async def test_aclose_without_a_handshake_closes_what_is_below(pair: Pair, contexts: Contexts) -> None:
    stream = trio_compat.SSLStream(await adopt(pair[0]), contexts.client, server_hostname="localhost")
    await stream.aclose()
    assert read_to_fin(pair[1]) == b""
    await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await stream.do_handshake()


async def test_it_passes_trio_s_own_check_of_two_way_streams(contexts: Contexts) -> None:
    async def make() -> tuple[Any, Any]:
        one, other = socket.socketpair()
        streams = []
        for sock, context, options in (
            (one, contexts.client, {"server_hostname": "localhost"}),
            (other, contexts.server, {"server_side": True}),
        ):
            below = trio_compat.SocketStream(trio.socket.from_stdlib_socket(sock))
            streams.append(trio_compat.SSLStream(below, context, **options))
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(stream.do_handshake)
        return streams[0], streams[1]

    await trio.testing.check_two_way_stream(make, None)


async def test_what_is_below_is_our_own_tls(pair: Pair, contexts: Contexts) -> None:
    stream = trio_compat.SSLStream(await adopt(pair[0]), contexts.client, server_hostname="localhost")
    peer = Peer(pair[1], contexts.server, server_side=True)
    with thread(peer.handshake):
        await stream.do_handshake()
    assert type(stream._tls) is TLSStream
    with pytest.raises(AttributeError, match="cannot be set"):
        stream.session = None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        stream.nothing  # noqa: B018
    with anyio.CancelScope() as scope:
        scope.cancel()
        await stream.aclose()
    assert stream.transport_stream.socket.fileno() == -1


async def test_httpcores_own_backend_for_trio_speaks_tls_over_it(
    contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks Trio's stream for an attribute that is private there."""
    for name in trio_compat.__all__:
        monkeypatch.setattr(trio, name, getattr(trio_compat, name))

    async def answer(stream: Any) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(
            lambda task_status: trio_compat.serve_ssl_over_tcp(
                answer, 0, contexts.server, host="127.0.0.1", task_status=task_status
            )
        )
        port = listener.transport_listener.socket.getsockname()[1]
        async with httpcore.AsyncConnectionPool(ssl_context=contexts.client) as pool:
            found = await pool.request("GET", f"https://127.0.0.1:{port}/", extensions={"sni_hostname": "localhost"})
            assert found.content == b"hello"
        nursery.cancel_scope.cancel()
